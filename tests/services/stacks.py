"""A site without a worker, on embedded parts or on real services, and what fault tests do to it."""

import os
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from tests.journeys.server import Client, Site, wait_for
from tests.lora.factories import write_adapter_files
from tests.services.redis_server import RedisServer

# Long enough for a worker on a busy machine to renew it.
LEASE_S = 6
MODULES = {f"model.layers.{layer}.self_attn.{name}": (512, 512) for layer in range(8) for name in ("q_proj", "v_proj")}
EXPERTS = ("ada/e1", "ada/e2")


@dataclass
class Stack:
    """One site, its owner's client with two experts, and its broker in the test's hands."""

    site: Site
    ada: Client
    redis: RedisServer | None = None
    _number: Any = field(default_factory=lambda: count(1))

    def prepare(self, folder: Path) -> None:
        """Upload the experts, with a worker that ends afterwards."""
        with self.worker():
            for seed, name in enumerate(EXPERTS):
                self.ada.upload_ready(name, write_adapter_files(folder / name, MODULES, rank=8, seed=seed))

    def ask_merge(self, *, named: bool = False) -> dict[str, Any]:
        """POST a merge that nobody asked for before. Returns: its answer, 202."""
        number = next(self._number)
        inputs = [{"adapter": EXPERTS[0], "weight": 1.0}, {"adapter": EXPERTS[1], "weight": number / 64}]
        output = {"name": f"ada/merged-{number}"} if named else {}
        recipe = {"method": "weighted_sum", "inputs": inputs, "output": output | {"rank": {"mode": "exact"}}}
        answer = self.ada.post("/merges/", json=recipe)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def job(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self.ada.get(f"/jobs/{asked['job']['id']}/").json()

    def finished(self, asked: dict[str, Any], timeout_s: float = 120) -> dict[str, Any]:
        return self.ada.finished(asked["job"], timeout_s)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the site's database."""
        if url := self.site.env.get("DATABASE_URL"):
            with psycopg.connect(url, connect_timeout=5) as connection:
                return connection.execute(sql).fetchall()
        with closing(sqlite3.connect(self.site.data_dir / "db.sqlite3")) as connection:
            return connection.execute(sql).fetchall()

    def assert_published_once(self, asked: dict[str, Any]) -> None:
        """One merge has one artefact and, if it names an adapter, one revision, ready."""
        merge = asked["merge"]["id"]
        sql = "SELECT recipe_hash, artefact_id FROM registry_merge WHERE replace(CAST(id AS text), '-', '') = '{}'"
        [(recipe, artefact)] = self.query(sql.format(merge.replace("-", "")))
        assert recipe == artefact
        assert self.query(f"SELECT count(*) FROM registry_mergeartefact WHERE recipe_hash = '{recipe}'") == [(1,)]
        if name := self.ada.get(f"/merges/{merge}/").json()["adapter"]:
            history = self.ada.get(f"/adapters/{name}/revisions/").json()["results"]
            assert [revision["state"] for revision in history] == ["ready"]

    @contextmanager
    def worker(self, **env: str):
        """A worker for as long as the block runs; SIGKILLed afterwards."""
        process = self.site.start_worker(**env)
        try:
            yield process
        finally:
            kill(process)

    @contextmanager
    def held_worker(self, point: str, marker: Path, **env: str):
        process = self.site.start("-m", "tests.services.held_worker", point, str(marker), **env)
        try:
            yield process
        finally:
            kill(process)

    def reached(self, marker: Path) -> None:
        wait_for(marker.exists, 90, f"the worker to be held\n{self.site.logs()[-3000:]}")

    @property
    def _queue(self) -> Path:
        return self.site.data_dir / "broker"

    def stop_broker(self) -> None:
        """Every message is gone, and none can be sent."""
        if self.redis:
            self.redis.stop()
        else:
            shutil.rmtree(self._queue)
            self._queue.touch()

    def start_broker(self) -> None:
        """It comes back empty."""
        if self.redis:
            self.redis.start()
        else:
            self._queue.unlink()
            self._queue.mkdir()


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the worker and its child, as a machine that loses power."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
