"""Runs one job: claim it, keep its lease while the handler works, map errors to how it ends."""

import contextvars
import errno
import importlib
import logging
import os
import pkgutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from structlog.contextvars import bound_contextvars

from lora.errors import InvalidAdapter, LoraError
from registry import jobs
from registry.errors import AppError, NotReady
from registry.models import Job
from workers import handlers

logger = logging.getLogger(__name__)

KINDS = frozenset(module.name for module in pkgutil.iter_modules(handlers.__path__))
DATABASE_AWAY = (OperationalError, InterfaceError)
# EFBIG: the process may not write more.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROGRESS_EVERY_S = 0.5
INTERNAL = "Something went wrong on the server; it has been logged. Try again, or ask the operator."


def name_worker() -> None:
    """Call before the pool forks, so that the child has the same name."""
    os.environ["LORADEX_WORKER"] = f"{socket.gethostname()}:{os.getpid()}"


def worker_name() -> str:
    """`host:pid` of the worker's main process, the same in its child."""
    return os.environ.get("LORADEX_WORKER", "")


class Work:
    """What a handler gets: its job, and ways to say how far it is.

    `progress` raises LeaseLost once the job is no longer this worker's, which is also how cancelling stops it.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._told_at = 0.0

    def log(self, message: str) -> None:
        jobs.log(self.job, message)

    def progress(self, fraction: float) -> None:
        """Tell how much is done, 0..1."""
        if time.monotonic() - self._told_at > PROGRESS_EVERY_S:
            jobs.set_progress(self.job, fraction)
            self._told_at = time.monotonic()

    def part(self, start: float, end: float) -> Any:
        """A progress function for a part of the work that spans [start, end] of the whole."""
        return lambda fraction: self.progress(start + (end - start) * fraction)


def run(job_id: str) -> None:
    """queued (or lost) → succeeded | failed | queued again.

    Does nothing for a job that another worker has, or of a kind that only newer code knows.
    """
    job = jobs.claim(job_id, worker_name(), KINDS)
    if job is None:
        return
    # In every line that is logged meanwhile. What this job enqueues belongs to the same request.
    whose = {"job_id": str(job.pk), "kind": job.kind, "attempt": job.attempts, "request_id": job.request_id}
    try:
        with bound_contextvars(**whose), _lease_kept(job):
            if end := _handle(job):
                _until_stored(end)
    except jobs.LeaseLost:
        logger.info("Job %s is no longer ours; stopped", job.pk)


def _handle(job: Job) -> Callable[[], None] | None:
    """Do the work. Returns: None where it succeeded, else what ends the job or puts it back. Raises: LeaseLost."""
    try:
        # By name and here, so that torch is loaded in the pool's child and never in the worker's main process.
        importlib.import_module(f"workers.handlers.{job.kind}").handle(Work(job))
    except jobs.LeaseLost:
        raise
    except InvalidAdapter as error:
        detail = {"problems": [problem.as_json() for problem in error.problems]}
        return partial(jobs.fail, job, error.code, str(error), detail)
    except LoraError as error:
        return partial(jobs.fail, job, error.code, str(error))
    except Exception as error:
        if passing := _passing(error):
            logger.warning("Job %s (%s) goes back to the queue", job.pk, job.kind, exc_info=True)
            return partial(jobs.retry, job, NotReady.code, passing)
        logger.exception("Job %s (%s) failed", job.pk, job.kind)
        if isinstance(error, AppError):
            return partial(jobs.fail, job, error.code, error.message, error.detail)
        return partial(jobs.fail, job, "internal", INTERNAL)
    return None


def _passing(error: Exception) -> str | None:
    """What is wrong, if it is with a service or the machine and not with the job, so that it may pass; else None."""
    if isinstance(error, NotReady):
        return error.message
    if isinstance(error, DATABASE_AWAY):
        return "The database was away."
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return "The worker's disk is full."
    return None


def _until_stored(end: Callable[[], None]) -> None:
    """End a job or put it back, waiting for a database that is away; the sweeper does it once the lease has expired."""
    give_up_at = time.monotonic() + settings.JOB_LEASE_S
    while True:
        try:
            return end()
        except DATABASE_AWAY:
            if time.monotonic() > give_up_at:
                raise
            connection.close()
            time.sleep(0.5)


@contextmanager
def _lease_kept(job: Job) -> Iterator[None]:
    """Renews the lease from a thread, four times per lease, for as long as the block runs."""
    done = threading.Event()

    def renew() -> None:
        try:
            while not done.wait(settings.JOB_LEASE_S / 4):
                try:
                    jobs.renew(job)
                except DATABASE_AWAY as error:
                    logger.warning("Job %s: lease not renewed, trying again: %s", job.pk, error)
                    connection.close()
        except jobs.LeaseLost:
            pass
        finally:
            connection.close()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(renew,), name=f"lease-{job.pk}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
