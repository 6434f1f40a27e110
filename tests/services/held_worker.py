"""A Celery worker that stops at a point of its next job: `python -m tests.services.held_worker POINT MARKER`.

It writes the file MARKER and waits there until the file is gone, while its lease is kept, as in long work. It does not
sweep, so that it touches no other job. POINT `die` is the out-of-memory killer, for every merge: it sweeps, and
ignores MARKER.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import django

from config.celery import app

# Point → the function after whose return the worker is held, in the module (and class) that looks it up.
POINTS = {
    "read": "workers.handlers.merge check_inputs",
    "compute": "workers.runner Work.progress",
    "put": "workers.handlers.merge put_file",
    "commit": "workers.tasks run",
    "die": "workers.handlers.merge check_inputs",
}


def hold(point: str, marker: Path) -> None:
    """Wrap the function of a point."""
    module, path = POINTS[point].split()
    *classes, name = path.split(".")
    owner = reduce(getattr, classes, import_module(module))
    setattr(owner, name, _die if point == "die" else _held(getattr(owner, name), marker))


def _held(function: Callable[..., Any], marker: Path) -> Callable[..., Any]:
    held = threading.Event()

    def wrapper(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        if not held.is_set():
            held.set()
            marker.touch()
            while marker.exists():
                time.sleep(0.02)
        return result

    return wrapper


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(point: str, marker: Path) -> None:
    django.setup()
    tasks = import_module("workers.tasks")
    run = tasks.run

    def run_held(job_id: str) -> None:
        # In the child, because handlers load torch.
        tasks.run = run
        hold(point, marker)
        tasks.run(job_id)

    tasks.run = run_held
    if point != "die":
        import_module("workers.sweeper").sweep = lambda: None
    app.worker_main(["worker", "--loglevel", "INFO", "--without-mingle", "--without-gossip"])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
