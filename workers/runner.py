"""Runs one job: claim it, keep its lease while the handler works, map errors to how it ends."""

import importlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import OperationalError, close_old_connections, connection

from lora.errors import InvalidAdapter, LoraError
from registry import jobs
from registry.errors import AppError, BlobDamaged
from registry.models import Job

logger = logging.getLogger(__name__)

KINDS = ("ingest", "merge", "snapshot")
PROGRESS_EVERY_S = 0.5
INTERNAL = "Something went wrong on the server; it has been logged. Try again, or ask the operator."


def worker_name() -> str:
    """`host:pid` of the worker's main process, the same in its child."""
    return os.environ.setdefault("LORADEX_WORKER", f"{socket.gethostname()}:{os.getpid()}")


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
    """queued (or lost) → succeeded | failed | queued again. Does nothing for a job that another worker has."""
    close_old_connections()
    job = jobs.claim(job_id, worker_name())
    if job is None:
        return
    try:
        with _lease_kept(job):
            _handle(job)
    except jobs.LeaseLost:
        logger.info("Job %s is no longer ours; stopped", job.pk)


def _handle(job: Job) -> None:
    try:
        if job.kind not in KINDS:
            raise ValueError(f"unknown job kind {job.kind!r}")
        # By name and here, so that torch is loaded in the pool's child and never in the worker's main process.
        importlib.import_module(f"workers.handlers.{job.kind}").handle(Work(job))
    except jobs.LeaseLost:
        raise
    except InvalidAdapter as error:
        jobs.fail(job, error.code, str(error), {"problems": [problem.as_json() for problem in error.problems]})
    except LoraError as error:
        jobs.fail(job, error.code, str(error))
    except BlobDamaged as error:
        logger.exception("Job %s (%s) read a damaged blob", job.pk, job.kind)
        jobs.fail(job, error.code, error.message)
    except AppError as error:
        jobs.fail(job, error.code, error.message, error.detail)
    except OperationalError:
        # The database went away or is locked: nothing is wrong with the job itself.
        logger.exception("Job %s (%s) goes back to the queue", job.pk, job.kind)
        connection.close()
        jobs.release(job)
    except Exception:
        logger.exception("Job %s (%s) failed", job.pk, job.kind)
        jobs.fail(job, "internal", INTERNAL)


@contextmanager
def _lease_kept(job: Job) -> Iterator[None]:
    """Renews the lease from a thread, four times per lease, for as long as the block runs."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(settings.JOB_LEASE_S / 4):
            try:
                jobs.renew(job)
            except jobs.LeaseLost:
                return
            except OperationalError:
                logger.warning("Job %s: lease not renewed, trying again", job.pk, exc_info=True)
        connection.close()

    thread = threading.Thread(target=renew, name=f"lease-{job.pk}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
