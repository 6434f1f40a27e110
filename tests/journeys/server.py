"""A real site and worker, as `manage.py serve` runs them, with a DATA_DIR of their own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Site:
    """A running Loradex. `env` is what its processes see."""

    url: str
    data_dir: Path
    env: dict[str, str]
    processes: list[subprocess.Popen] = field(default_factory=list)

    def manage(self, *arguments: str) -> str:
        """Run a management command. Returns: its stdout."""
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create_token(self, user: str, *flags: str) -> str:
        return self.manage("create_token", user, *flags).split()[-1]

    def client(self, token: str | None = None) -> "Client":
        return Client(self.url + "/api/v1", token)

    def start(self, *command: str, **env: str) -> subprocess.Popen:
        """Start one more process of the site, in a process group of its own."""
        arguments = [sys.executable, *command]
        with (self.data_dir / f"process-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                arguments, cwd=ROOT, env=self.env | env, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def start_web(self, port: int | None = None) -> str:
        """Start a web process, on another port if given. Returns: its URL, which answers."""
        url = f"http://127.0.0.1:{port}" if port else self.url
        process = self.start("-m", "gunicorn", "--config", "config/gunicorn.py", "config.wsgi", PORT=url.split(":")[-1])
        wait_for(lambda: process.poll() is not None or _answers(url), 60, "the site to answer")
        assert process.poll() is None, self.logs()
        return url

    def start_worker(self, **env: str) -> subprocess.Popen:
        options = ("--loglevel", "INFO", "--without-mingle", "--without-gossip")
        return self.start("-m", "celery", "-A", "config", "worker", *options, **env)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.data_dir.glob("process-*.log")))

    def last_log(self) -> str:
        """What the process that was started last has said so far."""
        return (self.data_dir / f"process-{len(self.processes) - 1}.log").read_text(errors="replace")

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url + "/healthz", timeout=2).ok
    except requests.RequestException:
        return False


def wait_for(condition: Any, timeout_s: float, what: str) -> Any:
    """The first true value of `condition()`. Fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s} s for {what}")


class Client:
    """Speaks the REST contract."""

    def __init__(self, base: str, token: str | None) -> None:
        self.base = base
        self.token = token
        self.session = requests.Session()
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def another(self) -> "Client":
        """The same caller on a connection of its own."""
        return Client(self.base, self.token)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.base + path, timeout=60, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.session.post(self.base + path, timeout=120, **options)

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.base + path, timeout=60, **options)

    def upload(self, name: str, folder: Path, *, samples: list[str] | None = None, **fields: Any) -> requests.Response:
        """POST /adapters/ with the adapter's files in `folder`, and `samples` as inputs where they are given."""
        if samples is not None:
            lines = "".join(json.dumps({"input": text}) + "\n" for text in samples)
            (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
        known = ("adapter_config.json", "adapter_model.safetensors", "README.md", "samples.jsonl", "gates.safetensors")
        files = {file: (file, (folder / file).read_bytes()) for file in known if (folder / file).exists()}
        return self.post("/adapters/", files=files, data={"name": name, **fields})

    def finished(self, job: dict[str, Any], timeout_s: float = 180) -> dict[str, Any]:
        """The job once it has reached a final state."""

        def final() -> dict[str, Any] | None:
            now = self.get(f"/jobs/{job['id']}/").json()
            return now if now["status"] in ("succeeded", "failed", "cancelled") else None

        return wait_for(final, timeout_s, f"job {job['id']}")

    def upload_ready(self, name: str, folder: Path, **fields: Any) -> dict[str, Any]:
        """Upload and wait. Returns: the adapter, ready."""
        answer = self.upload(name, folder, **fields)
        assert answer.status_code == 202, answer.text
        job = self.finished(answer.json()["job"])
        assert job["status"] == "succeeded", json.dumps(job)
        return self.get(f"/adapters/{name}/").json()


@contextmanager
def running_site(data_dir: Path, *, worker: bool = True, **env: str) -> Iterator[Site]:
    """A site (and worker) on a free port; stopped afterwards."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    site = Site(
        url=f"http://127.0.0.1:{port}",
        data_dir=data_dir,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DATA_DIR": str(data_dir),
            "PROMETHEUS_MULTIPROC_DIR": str(data_dir / "metrics"),
            "PORT": port,
            "OMP_NUM_THREADS": "1",
        }
        | env,
    )
    site.manage("migrate", "--verbosity", "0")
    site.manage("collectstatic", "--noinput", "--verbosity", "0")
    try:
        if worker:
            site.start_worker()
        site.start_web()
        yield site
    finally:
        site.stop()
