"""`manage.py serve`: the site and one worker in the foreground; SIGTERM or Ctrl-C stops both within 10 s."""

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand

STOP_S = 8


class Command(BaseCommand):
    help = "Serve the site and run one worker in the foreground."

    def handle(self, *args: Any, **options: Any) -> None:
        _clear_leftovers()
        call_command("prepare_database", verbosity=0)
        call_command("collectstatic", interactive=False, verbosity=0)
        web = ["gunicorn", "--config", "config/gunicorn.py", "config.wsgi"]
        alone = ("--without-mingle", "--without-gossip")
        worker = ["celery", "--quiet", "-A", "config", "worker", "--loglevel", "WARNING", *alone]
        signal.signal(signal.SIGTERM, _interrupt)
        processes = [self._start(command) for command in (web, worker)]
        self.stdout.write(f"Loradex is at {settings.EXTERNAL_URL} (Ctrl-C stops it)")
        self.stdout.flush()
        try:
            while all(process.poll() is None for process in processes):
                time.sleep(0.2)
            # Starting it again is for whoever started us: systemd, an orchestrator, a person who reads why.
            raise SystemExit("The site or the worker ended by itself; its last lines above say why.")
        except KeyboardInterrupt:
            pass
        finally:
            _stop(processes)

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        # A session each, so that Ctrl-C reaches this process alone, which then stops them in order.
        # Threads of torch that wait by spinning would take the cores from the other process.
        env = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
        if "celery" in command:
            # Both count into the same folder, so that the site answers for both.
            env.pop("METRICS_PORT", None)
        return subprocess.Popen([sys.executable, "-m", *command], cwd=settings.ROOT, env=env, start_new_session=True)


def _clear_leftovers() -> None:
    """Remove what requests and jobs of a process that was killed left in the spool and in scratch."""
    yesterday = time.time() - 24 * 3600
    for folder in (settings.UPLOAD_DIR, settings.SCRATCH_DIR):
        for path in folder.glob("*"):
            if path.stat().st_mtime < yesterday:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to all, SIGKILL to the group of whatever is left after STOP_S seconds."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
