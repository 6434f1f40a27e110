"""Every expert's vectors in another space: the work of the job `reembed`, and when there is some."""

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from lora.errors import LoraError
from registry import jobs
from registry.changes import current_seq
from registry.errors import BlobDamaged, NotReady
from registry.models import Job, Revision
from registry.samples import read_samples
from retrieval.descriptions import lacking_descriptions
from retrieval.encoders import Encoder
from retrieval.hybrid import fit_if_due
from retrieval.models import ProbeVector, Prototype, ServedSpace, Space
from retrieval.outcomes import lacking_vectors, lock_probes, outcome_position
from retrieval.prototypes import text_prototypes
from retrieval.spaces import lacking, want

logger = logging.getLogger(__name__)

# Revisions whose vectors are committed together: what a worker that is killed may lose.
BATCH = 16
PROBES = 64
# A job that failed or was cancelled is not repeated at once.
RETRY_AFTER = timedelta(minutes=5)

Skipped = dict[int, dict[str, str]]


def embed_missing(encoder: Encoder, space: Space, skipped: Skipped) -> Iterator[int]:
    """Embed the samples of every head that has no vectors in a space; goes on where an earlier run stopped.

    Args:
        skipped: revisions that cannot be embedded are added, id → `{adapter, revision, message}`; those are left out.
    Yields: how many were looked at, after the commit of each batch.
    Raises: NotReady: the encoder, or the store of files, does not answer.
    """
    while revisions := _next_batch(space, skipped):
        texts = {revision.pk: _texts(revision, skipped) for revision in revisions}
        both = encoder.encode_both([text for part in texts.values() for text in part])
        found: list[Prototype] = []
        start = 0
        for revision in revisions:
            end = start + len(texts[revision.pk])
            if end > start:
                found += _prototypes(revision, space, [rows[start:end] for rows in both], skipped)
            start = end
        with transaction.atomic():
            Prototype.objects.bulk_create(found, ignore_conflicts=True)
        yield len(revisions)


def embed_missing_probes(encoder: Encoder, space: Space) -> Iterator[int]:
    """Embed every probe that has no vector in a space. Yields: how many, after the commit of each batch."""
    while probes := list(lacking_vectors(space.pk).order_by("pk")[:PROBES]):
        rows = encoder.encode([probe.text for probe in probes])
        found = [
            ProbeVector(probe=probe, space=space, vector=row.astype("<f4").tobytes())
            for probe, row in zip(probes, rows, strict=True)
        ]
        with transaction.atomic():
            # Those that were deleted meanwhile cannot be pointed at.
            there = set(lock_probes([probe.pk for probe in probes]))
            ProbeVector.objects.bulk_create([row for row in found if row.probe_id in there], ignore_conflicts=True)
        yield len(probes)


def _next_batch(space: Space, skipped: Skipped) -> list[Revision]:
    revisions = lacking(space.pk).exclude(pk__in=skipped).defer("modules").select_related("adapter")
    return list(revisions.prefetch_related("files__blob").order_by("pk")[:BATCH])


def _texts(revision: Revision, skipped: Skipped) -> list[str]:
    try:
        return [sample["input"] for sample in read_samples(revision)]
    except BlobDamaged as error:
        _skip(revision, error.message, skipped)
        return []


def _prototypes(revision: Revision, space: Space, rows: Any, skipped: Skipped) -> list[Prototype]:
    try:
        return text_prototypes(revision, space, *rows)
    except LoraError as error:
        _skip(revision, str(error), skipped)
        return []


def _skip(revision: Revision, message: str, skipped: Skipped) -> None:
    logger.error("%s is not embedded: %s", revision, message)
    skipped[revision.pk] = {"adapter": revision.adapter.full_name, "revision": revision.commit, "message": message}


class Watch:
    """What a worker does about ENCODER_MODEL: says once which encoder it is, and asks for a job where one is due."""

    def __init__(self) -> None:
        self._said = False
        self._looked_at: tuple[Any, ...] | None = None

    def look(self) -> None:
        """Call every few seconds. Raises: DatabaseError, after which the next call does the same again."""
        if not self._said:
            self._say()
        row = ServedSpace.objects.first()
        if row is None:
            return
        state = (current_seq(), outcome_position(), row.space_id, row.wanted)
        # Where nothing has changed since all was well, nothing is to be done; else it costs a pass over the heads.
        if state != self._looked_at and not _is_due(row):
            self._looked_at = state

    def _say(self) -> None:
        try:
            want(settings.ENCODER_MODEL)
        except NotReady as error:
            logger.error("The encoder in service stays: %s", error.message)
        self._said = True


def _is_due(row: ServedSpace) -> bool:
    """Ask for what is to be embedded or fitted. Returns: whether there is something to do."""
    if row.space_id is None:
        # Before there are vectors nothing is embedded anew, but descriptions, which may come without samples.
        return lacking_descriptions(row.wanted).exists() and request_if_due(row)
    return request_if_due(row) or fit_if_due(row.space_id)


def request_if_due(row: ServedSpace) -> bool:
    """Enqueue a job where another space is wanted, or where something has no vectors in the one in service.

    Returns: whether there is something left to do, by a job that is open, or later.
    """
    missing = lacking(row.wanted)
    last = Job.objects.filter(kind="reembed").order_by("-queued_at").first()
    if last is not None and last.status == Job.Status.SUCCEEDED and last.result["space"] == row.wanted:
        missing = missing.exclude(commit__in=[item["revision"] for item in last.result["skipped"]])
    others = lacking_vectors(row.wanted), lacking_descriptions(row.wanted)
    if row.space_id == row.wanted and not any(rows.exists() for rows in (missing, *others)):
        return False
    if last is None or not (last.status not in Job.FINAL or _ended_badly_just_now(last)):
        jobs.enqueue("reembed", payload={"space": row.wanted})
    return True


def _ended_badly_just_now(job: Job) -> bool:
    bad = Job.objects.filter(pk=job.pk, status__in=[Job.Status.FAILED, Job.Status.CANCELLED])
    return bad.filter(finished_at__gt=Now() - RETRY_AFTER).exists()
