"""The site and its worker, run by `manage.py serve` in a process of its own."""

import errno
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from workers.demo.client import Client, DemoError

START_TIMEOUT_S = 90
# `manage.py serve` itself needs up to 8 s to stop what it started.
STOP_TIMEOUT_S = 9.5
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


class Site:
    """A site that has been started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    def client(self, token: str = "") -> Client:
        host = "127.0.0.1" if settings.HOST in ANY_ADDRESS else settings.HOST
        return Client(f"http://{host}:{settings.PORT}", settings.EXTERNAL_URL, token)

    def wait(self) -> None:
        """Until somebody stops this process. Raises: DemoError if the site ends by itself."""
        self._process.wait()
        raise DemoError(self._last_lines())

    def wait_until_ready(self) -> None:
        client, deadline = self.client(), time.monotonic() + START_TIMEOUT_S
        while not client.answers("/readyz"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DemoError(self._last_lines())
            time.sleep(0.2)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join(["The site did not start or ended by itself; its last lines:", *lines])


@contextmanager
def running_site(log: Path) -> Iterator[Site]:
    """A site and its worker, ready for requests; stopped afterwards. Raises: DemoError."""
    with log.open("wb") as output:
        # A session of its own, so that Ctrl-C reaches the demo alone, which then stops it.
        process = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=settings.ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    site = Site(process, log)
    try:
        site.wait_until_ready()
        yield site
    finally:
        site.stop()


def check_port_is_free() -> None:
    """Raises: DemoError that says what to do."""
    family = socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.HOST, settings.PORT))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise DemoError(f"{settings.HOST}:{settings.PORT} cannot be listened on: {error.strerror}.") from error
            raise DemoError(
                f"Port {settings.PORT} is taken, perhaps by another Loradex. Stop that, or choose another port: "
                f"make demo PORT={settings.PORT + 1}"
            ) from error
