"""The image's entrypoint, run without an image: a site and a worker as two containers would be, and their end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.journeys.server import ROOT, Client, free_port, wait_for
from tests.lora.factories import write_adapter_files

PROGRAMS = Path(sys.executable).parent


class Container:
    """A process started by the entrypoint, with a /tmp of its own as far as Loradex uses one."""

    def __init__(self, folder: Path, name: str, env: dict[str, str]) -> None:
        self.log = folder / f"{name}.log"
        self.metrics_port = str(free_port())
        own = {"METRICS_PORT": self.metrics_port, "PROMETHEUS_MULTIPROC_DIR": str(folder / f"{name}-metrics")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [ROOT / "docker" / "entrypoint", name], env=env | own, stdout=log, stderr=log, start_new_session=True
            )

    def probe(self, path: str) -> requests.Response | None:
        try:
            return requests.get(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=5)
        except requests.RequestException:
            assert self.process.poll() is None, self.log.read_text()
            return None

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def stop(self) -> tuple[int, float]:
        """SIGTERM. Returns: exit status, seconds."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60), time.monotonic() - started


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    port = str(free_port())
    own = {"DATA_DIR": str(tmp_path / "data"), "STATIC_ROOT": str(tmp_path / "static"), "PORT": port}
    path = f"{PROGRAMS}:{os.environ['PATH']}"
    env = os.environ | own | {"PATH": path, "DJANGO_SETTINGS_MODULE": "config.settings"}
    env.pop("PROMETHEUS_MULTIPROC_DIR", None)
    done = subprocess.run(
        [sys.executable, "manage.py", "collectstatic", "--no-input", "--verbosity", "0"],
        cwd=ROOT,
        env=env | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "build-metrics")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return env


@pytest.fixture
def containers(env: dict[str, str], tmp_path: Path) -> Iterator[tuple[Container, Container]]:
    # Together: both find an empty database, and one of them migrates it.
    both = [Container(tmp_path, name, env) for name in ("web", "worker")]
    try:
        yield tuple(both)
    finally:
        for container in both:
            if container.process.poll() is None:
                os.killpg(container.process.pid, signal.SIGKILL)
                container.process.wait()


@pytest.mark.journey
def test_an_upload_can_be_followed_from_the_request_to_the_metrics(containers, env, tmp_path: Path) -> None:
    web, worker = containers
    url = f"http://127.0.0.1:{env['PORT']}"
    wait_for(lambda: worker.probe("/healthz"), 90, "the worker")
    wait_for(lambda: web.probe("/metrics"), 90, "the site")
    wait_for(lambda: requests.get(url + "/readyz", timeout=10).ok, 60, "readiness")

    token = manage(env, "create_token", "ada").split()[-1]
    client = Client(url + "/api/v1", token)
    client.session.headers["X-Request-ID"] = "upload-of-ada"
    answer = client.upload("ada/expert", write_adapter_files(tmp_path / "adapter", seed=1), samples=["a question"])
    assert answer.headers["X-Request-ID"] == "upload-of-ada"
    job = client.finished(answer.json()["job"], 120)
    assert job["status"] == "succeeded", job

    [asked] = [line for line in web.lines() if line.get("route") == "/api/v1/adapters/" and line["method"] == "POST"]
    assert (asked["request_id"], asked["status"]) == ("upload-of-ada", 202)
    done = [line for line in worker.lines() if line.get("job_id") == job["id"]]
    assert done
    assert {line["request_id"] for line in done} == {"upload-of-ada"}
    assert token not in web.log.read_text() + worker.log.read_text()

    counted = worker.probe("/metrics").text
    assert 'loradex_jobs_finished_total{kind="ingest",outcome="succeeded"} 1.0' in counted
    assert 'loradex_store_seconds_count{operation="put"}' in web.probe("/metrics").text
    assert "loradex_workers_alive 1.0" in web.probe("/metrics").text
    assert worker.probe("/nothing").status_code == 404

    for container, limit_s in ((worker, 10), (web, 35)):
        status, seconds = container.stop()
        assert status == 0, container.log.read_text()
        assert seconds < limit_s


@pytest.mark.journey
def test_a_database_that_does_not_come_is_not_waited_for_for_ever(env) -> None:
    gone = env | {"DATABASE_URL": f"postgresql://u:p@127.0.0.1:{free_port()}/none"}
    gone["PROMETHEUS_MULTIPROC_DIR"] = env["DATA_DIR"] + "/metrics"
    done = subprocess.run(
        [sys.executable, "manage.py", "prepare_database", "--wait", "1"],
        cwd=ROOT,
        env=gone,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "did not answer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.journey
def test_the_entrypoint_ends_while_it_waits(env, tmp_path: Path) -> None:
    gone = env | {"DATABASE_URL": f"postgresql://u:p@127.0.0.1:{free_port()}/none"}
    container = Container(tmp_path, "web", gone)
    wait_for(lambda: Path(tmp_path / "data").exists() and children(container.process.pid), 60, "it to wait")
    status, seconds = container.stop()
    assert status == 143
    assert seconds < 30


def children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


def manage(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [ROOT / "docker" / "entrypoint", "manage", *arguments],
        env=env | {"PROMETHEUS_MULTIPROC_DIR": env["DATA_DIR"] + "/metrics"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
