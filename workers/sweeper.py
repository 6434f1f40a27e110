"""A thread in every worker's main process: says that the worker lives, and re-drives what was lost."""

import logging
import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any

import billiard
from celery.signals import worker_init, worker_ready, worker_shutting_down
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from registry.jobs import release_worker, sweep
from registry.models import WorkerHeartbeat
from registry.storage import remove_abandoned_scratch
from retrieval.reembedding import Watch
from workers import monitor
from workers.runner import DATABASE_AWAY, name_worker, worker_name

logger = logging.getLogger(__name__)

# A deploy waits this long for the running job before the job goes back to the queue.
GRACE_S = 4
FORGET_AFTER = timedelta(days=1)

_encoder_watch = Watch()
_last_round = time.monotonic()


@worker_init.connect
def before_fork(**_: Any) -> None:
    name_worker()


@worker_ready.connect
def start_sweeper(**_: Any) -> None:
    threading.Thread(target=_sweep_for_ever, name="sweeper", daemon=True).start()
    monitor.serve(lambda: time.monotonic() - _last_round)


def _sweep_for_ever() -> None:
    global _last_round  # noqa: PLW0603 - there is one sweeper per process
    while True:
        beat()
        _last_round = time.monotonic()
        time.sleep(min(5, settings.JOB_LEASE_S / 4))


def beat() -> None:
    """One round. A database that is away is waited for."""
    try:
        WorkerHeartbeat.objects.update_or_create(name=worker_name(), defaults={"seen_at": Now()})
        WorkerHeartbeat.objects.filter(seen_at__lt=Now() - FORGET_AFTER).delete()
        sweep()
        _encoder_watch.look()
        remove_abandoned_scratch()
    except DATABASE_AWAY as error:
        logger.warning("Sweep failed, trying again: %s", error)
        connection.close()
    except Exception:
        # The thread must outlive whatever one round meets.
        logger.exception("Sweep failed")
        connection.close()


@worker_shutting_down.connect
def give_back(**_: Any) -> None:
    threading.Thread(target=_give_back_after_grace, name="give-back", daemon=True).start()


def _give_back_after_grace() -> None:
    """A job that outlasts the grace goes back to the queue at once, instead of when its lease has expired."""
    time.sleep(GRACE_S)
    for child in billiard.active_children():
        os.kill(child.pid, signal.SIGKILL)
    try:
        logger.info("Stopping: %d running jobs go back to the queue", release_worker(worker_name()))
    finally:
        os._exit(0)
