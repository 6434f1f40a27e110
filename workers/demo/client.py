"""A client of the REST contract: what anybody with a token could do."""

import hashlib
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from registry.intake import FILES, WEIGHTS

FINAL = ("succeeded", "failed", "cancelled")
UPLOAD_TIMEOUT_S = 120
JOB_TIMEOUT_S = 600


class DemoError(Exception):
    """A step went wrong; the message says what and what to do."""


class Client:
    """Speaks to a site at `address` (scheme://host:port) as a proxy would that serves it as `external_url`."""

    def __init__(self, address: str, external_url: str, token: str = "") -> None:
        self._address = address
        scheme, host = urlsplit(external_url)[:2]
        self._headers = {"Host": host, "X-Forwarded-Proto": scheme}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = urllib3.PoolManager(retries=False, timeout=UPLOAD_TIMEOUT_S)

    def request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        return self._pool.request(method, self._address + path, headers=self._headers, **options)

    def answers(self, path: str) -> bool:
        """Whether a GET of `path` gives 200; a site that is not up yet does not."""
        try:
            return self.request("GET", path, timeout=10).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON of an API call. Raises: DemoError for anything but 2xx."""
        answer = self.request(method, "/api/v1" + path, **options)
        if not 200 <= answer.status < 300:
            raise DemoError(f"{method} {path} answered {answer.status}: {answer.data.decode(errors='replace')[:500]}")
        return answer.status, answer.json()

    def upload(self, name: str, folder: Path) -> tuple[int, Any]:
        """POST /adapters/ with the files of `folder`; what the contract does not know (test.jsonl) stays here."""
        fields = [("name", name)]
        fields += [(file, (file, (folder / file).read_bytes())) for file in FILES if (folder / file).is_file()]
        return self.call("POST", "/adapters/", fields=fields)

    def wait(self, job: dict[str, Any] | None) -> None:
        """Until the job has succeeded; none means there was nothing to do. Raises: DemoError."""
        deadline = time.monotonic() + JOB_TIMEOUT_S
        while job and job["status"] not in FINAL:
            if time.monotonic() > deadline:
                raise DemoError(f"Job {job['id']} is {job['status']} after {JOB_TIMEOUT_S} s; its page says more.")
            time.sleep(0.2)
            job = self.call("GET", f"/jobs/{job['id']}/")[1]
        if job and job["status"] != "succeeded":
            raise DemoError(f"Job {job['id']} {job['status']}: {json.dumps(job['error'])}")

    def download(self, adapter: dict[str, Any], archive: str, folder: Path) -> str:
        """The archive's files in `folder`, fetched unless they are there. Returns: the sha256 of the weights."""
        wanted = next(file["sha256"] for file in adapter["files"] if file["path"] == WEIGHTS)
        weights = folder / WEIGHTS
        if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != wanted:
            answer = self.request("GET", archive)
            if answer.status != 200:
                raise DemoError(f"GET {archive} answered {answer.status}.")
            zipfile.ZipFile(io.BytesIO(answer.data)).extractall(folder)
            if hashlib.sha256(weights.read_bytes()).hexdigest() != wanted:
                raise DemoError(f"The weights in {archive} do not have the digest that the registry states.")
        return wanted
