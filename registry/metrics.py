"""What the processes count for Prometheus: each into files under PROMETHEUS_MULTIPROC_DIR, summed on demand."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

STORE_SECONDS = Histogram(
    "loradex_store_seconds",
    "Seconds of one operation of the store of files.",
    ["operation"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60),
)
STORE_ERRORS = Counter("loradex_store_errors_total", "Operations of the store that failed.", ["operation"])
UPLOAD_BYTES = Counter("loradex_upload_bytes_total", "Bytes of uploaded parts.")
JOBS_FINISHED = Counter("loradex_jobs_finished_total", "Jobs that ended.", ["kind", "outcome"])
JOB_SECONDS = Histogram(
    "loradex_job_seconds",
    "Seconds from a job's last start to its end.",
    ["kind"],
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800),
)


def counted() -> CollectorRegistry:
    """The sums over all processes, dead ones included, that count into the same folder."""
    found = CollectorRegistry()
    MultiProcessCollector(found)
    return found


def forget_the_dead() -> None:
    """Remove what processes that no longer run have counted; to Prometheus it is a restart of the counters."""
    for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
        if not _is_running(int(path.stem.rsplit("_", 1)[-1])):
            path.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def store_operation(name: str) -> Iterator[None]:
    """Time the block as an operation of the store; an OSError or any other way out by an exception is an error."""
    started = time.perf_counter()
    try:
        yield
    except Exception:
        STORE_ERRORS.labels(name).inc()
        raise
    finally:
        STORE_SECONDS.labels(name).observe(time.perf_counter() - started)
