"""How the adapters of a merge request relate: measured in this process, or by a worker where they are large."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Q, prefetch_related_objects
from django.utils import timezone

from lora.merge_preview import Measured, Measures, measure
from lora.merging import ENGINE_VERSION
from registry.intake import CONFIG, WEIGHTS
from registry.jobs import enqueue
from registry.merges import local_file
from registry.models import Job, Revision
from registry.queries import Caller

KIND = "preview"
# Together; above it a worker measures, so that a form costs a web process a second at most.
DIRECT_BYTES = 200_000_000
KEPT_BYTES = 128_000_000
# After a failure the same question gets the same answer for so long, and then a new job.
FAILURE_STANDS = timedelta(minutes=10)


@dataclass(frozen=True)
class Answer:
    """Measures, or the job that makes them; neither where only a worker could and nobody is logged in."""

    measures: Measures | None = None
    job: Job | None = None


class _Kept:
    """What was measured last, because a form asks after every key; weights do not matter to it."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, Measured] = OrderedDict()
        self._measuring = threading.Lock()

    def get(self, key: str, make: Callable[[], Measured]) -> Measured:
        """What is kept under a key, made where it is not. One at a time: each takes a whole core."""
        with self._measuring:
            found = self._found.pop(key, None) or make()
            self._found[key] = found
            while sum(kept.nbytes for kept in self._found.values()) > KEPT_BYTES:
                self._found.popitem(last=False)
            return found


_kept = _Kept()


def measures_of(user: Caller, revisions: Sequence[Revision], weights: Sequence[float]) -> Answer:
    """What is measured of plain adapters that can be merged, by the weights that the method applies.

    Raises: BlobDamaged, StoreUnavailable.
    """
    prefetch_related_objects(list(revisions), "files__blob")
    if sum(revision.file(WEIGHTS).blob.size_bytes for revision in revisions) <= DIRECT_BYTES:
        found = _kept.get(_digest(revisions, []), lambda: measure_files(revisions))
        return Answer(found.measures(weights))
    return _by_worker(user, revisions, weights)


def measure_files(revisions: Sequence[Revision], progress: Callable[[float], None] = lambda fraction: None) -> Measured:
    """Measure the verified files. Raises: BlobDamaged, StoreUnavailable."""
    with ExitStack() as stack:
        return measure([local_file(revision, stack) for revision in revisions], progress=progress)


def _by_worker(user: Caller, revisions: Sequence[Revision], weights: Sequence[float]) -> Answer:
    key = _digest(revisions, weights)
    asked = Job.objects.filter(kind=KIND, payload__key=key)
    # The key has the digests of the files: who asked for them before does not matter.
    if done := asked.filter(status=Job.Status.SUCCEEDED).order_by("-finished_at").first():
        return Answer(measures=done.result["measures"], job=done if done.owner_id == user.pk else None)
    if not user.is_authenticated:
        return Answer()
    failed = Q(status=Job.Status.FAILED, finished_at__gt=timezone.now() - FAILURE_STANDS)
    standing = asked.filter(~Q(status__in=Job.FINAL) | failed, owner_id=user.pk).first()
    payload = {"key": key, "revisions": [revision.pk for revision in revisions], "weights": list(weights)}
    return Answer(job=standing or enqueue(KIND, owner=user, payload=payload))


def _digest(revisions: Sequence[Revision], weights: Sequence[float]) -> str:
    """Everything that decides the measures. The configs have the scalings."""
    files = [[revision.file(path).blob_id for path in (WEIGHTS, CONFIG)] for revision in revisions]
    return hashlib.sha256(json.dumps([files, list(weights), ENGINE_VERSION]).encode()).hexdigest()
