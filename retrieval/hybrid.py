"""Versions of the hybrid space: which one answers, what was fitted, and the experts' rows in it.

The first version is the one that ships, where it is made for the encoder. Others are fitted by the job `fit_space` from
background texts and the samples of public experts. None is ever changed. The rows of new experts are computed when they
arrive; a newer version answers once every expert has a row in it.
"""

import logging
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache, partial

import numpy as np
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from numpy.typing import NDArray
from safetensors.numpy import load

from lora.array_file import array_file
from lora.errors import LoraError
from lora.hybrid.background import load_background, load_far
from lora.hybrid.default import load_default
from lora.hybrid.fitting import MAX_EXPERTS, SAMPLES_PER_EXPERT, Background, Labelled, fit
from lora.hybrid.space import HybridSpace, encoded
from lora.hybrid.wrappers import unwrap
from lora.prototypes.hybrid import hybrid
from registry import jobs
from registry.changes import next_seq
from registry.errors import BlobDamaged
from registry.models import Job, Revision
from registry.samples import read_samples
from registry.storage import put_bytes, read_blob
from retrieval.encoders import Encoder
from retrieval.models import HybridVersion, Prototype, ServedSpace, Space
from retrieval.spaces import heads

Rows = NDArray[np.float32]

logger = logging.getLogger(__name__)

KIND = "hybrid"
# What a row is made of, beside the texts: both parts of what the encoder makes of each sample.
ENCODED = ("samples", "middle")
BATCH = 16
# The one that answered before stays, for requests that still do.
KEPT = 2
# Another version is due when there are this many times as many experts, and some.
GROWTH = 2
GROWTH_MIN = 24
# A job that failed or was cancelled is not repeated at once.
RETRY_AFTER = timedelta(minutes=5)


def served_version(base: str) -> HybridVersion | None:
    """The version that answers over an encoder's space."""
    return HybridVersion.objects.filter(base=base, served_at__isnull=False).order_by("-served_at").first()


def load_space(version: HybridVersion) -> HybridSpace:
    """What was fitted. Raises: BlobDamaged, StoreUnavailable."""
    return _load(version.blob_id)


@lru_cache(maxsize=3)
def _load(sha256: str) -> HybridSpace:
    version = HybridVersion.objects.select_related("blob").filter(blob_id=sha256).first()
    return HybridSpace.from_arrays(load(read_blob(version.blob)))


def encoded_texts(encoder: Encoder, texts: list[str]) -> Rows:
    """What the space takes of an encoder for n texts, (n, dim). Raises: NotReady."""
    return encoded(*encoder.encode_both(texts))


def rows_in_versions(
    revision: Revision, space: Space, encoder: Encoder, texts: list[str], rows: Rows
) -> list[Prototype]:
    """The prototypes, not stored yet, of a revision in every version over an encoder's space.

    Args:
        texts: sample inputs; rows: (n, dim), of `encoded`, theirs.
    """
    found = []
    for version in list(HybridVersion.objects.filter(base=space)) or _install_default(space):
        try:
            found.append(_prototype(revision, version, *_unwrapped(encoder, texts, rows)))
        except BlobDamaged:
            # An upload does not fail for it; the job that fills rows says so, and does it once the file is back.
            logger.exception("%s has no row in %s", revision, version)
    return found


def _prototype(revision: Revision, version: HybridVersion, texts: list[str], rows: Rows) -> Prototype:
    row = hybrid(rows, texts, load_space(version))
    vectors = row.astype("<f4").tobytes()
    return Prototype(revision=revision, kind=KIND, space_id=version.space_id, count=1, dim=len(row), vectors=vectors)


def _unwrapped(encoder: Encoder, texts: list[str], rows: Rows) -> tuple[list[str], Rows]:
    """Texts without chat templates, and their rows; only those that had one are embedded again."""
    plain = [unwrap(text) for text in texts]
    changed = [place for place, (text, other) in enumerate(zip(plain, texts, strict=True)) if text != other]
    if changed:
        rows = rows.copy()
        rows[changed] = encoded_texts(encoder, [plain[place] for place in changed])
    return plain, rows


def lacking_rows(version: HybridVersion) -> QuerySet[Revision]:
    """The heads with vectors in the encoder's space that have no row in a version."""
    own = Prototype.objects.filter(revision=OuterRef("pk"))
    return heads().filter(
        Exists(own.filter(kind="samples", space=version.base_id)),
        ~Exists(own.filter(kind=KIND, space=version.space_id)),
    )


def fill(version: HybridVersion, encoder: Encoder, skipped: set[int]) -> Iterator[int]:
    """Compute the rows of every head that has none; those that cannot be read are added to `skipped`.

    Yields: how many were looked at, after the commit of each batch.
    """
    while revisions := list(lacking_rows(version).exclude(pk__in=skipped).order_by("pk")[:BATCH]):
        found = []
        for revision in revisions:
            try:
                texts, rows = _samples(revision, encoder)
                found.append(_prototype(revision, version, texts, rows))
            except (BlobDamaged, LoraError):
                skipped.add(revision.pk)
        Prototype.objects.bulk_create(found, ignore_conflicts=True)
        yield len(revisions)


def _samples(revision: Revision, encoder: Encoder) -> tuple[list[str], Rows]:
    """Unwrapped sample inputs, and their vectors. Raises: BlobDamaged. LoraError: the two do not belong together."""
    stored = {row.kind: row for row in revision.prototypes.filter(kind__in=ENCODED, space_id=encoder.space_id)}
    texts = [sample["input"] for sample in read_samples(revision)]
    if [stored[kind].count for kind in ENCODED if kind in stored] != [len(texts)] * len(ENCODED):
        raise LoraError("The stored vectors are not those of the samples.")
    rows = [np.frombuffer(stored[kind].vectors, dtype="<f4").reshape(len(texts), -1) for kind in ENCODED]
    return _unwrapped(encoder, texts, encoded(*rows))


def fit_version(base: Space, encoder: Encoder) -> HybridVersion:
    """Fit a version to the background texts and the samples of public experts, and store it; not in service yet."""
    tasks, far = [task.texts for task in load_background()], [kind.texts for kind in load_far()]
    background = Background.encoded(tasks, far, partial(encoded_texts, encoder))
    public = _public_heads()
    return _stored(base, fit(background, _samples_of(public, encoder)), len(public))


def _stored(base: Space, space: HybridSpace, experts: int) -> HybridVersion:
    columns = {
        "encoder": base.encoder,
        "revision": space.digest,
        "pooling": base.pooling,
        "dim": space.width,
        "max_tokens": base.max_tokens,
        "normalised": False,
    }
    blob = put_bytes(array_file(space.to_arrays()))
    row = Space.objects.get_or_create(pk=space.space_id(base.pk), defaults=columns)[0]
    defaults = {"base": base, "blob": blob, "experts": experts}
    return HybridVersion.objects.get_or_create(space=row, defaults=defaults)[0]


def first_version(base: Space, encoder: Encoder) -> HybridVersion:
    """The version that ships, where it is made for the encoder, or else one that is fitted; not in service yet."""
    default = load_default(base.pk)
    return fit_version(base, encoder) if default is None else _stored(base, default, experts=0)


def _install_default(base: Space) -> list[HybridVersion]:
    """Store the version that ships, where it is made for the encoder; call where there is none yet.

    It is in service at once where no expert came before it; the job `fit_space` gives rows to those that did.
    """
    default = load_default(base.pk)
    if default is None:
        return []
    version = _stored(base, default, experts=0)
    with transaction.atomic():
        serve_version(version, set())
    return [version]


def _public_heads() -> list[int]:
    """What others may not see must not shape their answers."""
    return list(heads().filter(adapter__visibility="public").order_by("pk").values_list("pk", flat=True))


def _samples_of(ids: list[int], encoder: Encoder) -> Labelled:
    """Samples of some of the revisions, spread over all; as many as the fit looks at."""
    if len(ids) > MAX_EXPERTS:
        ids = [ids[place] for place in np.linspace(0, len(ids) - 1, MAX_EXPERTS).round().astype(int)]
    texts: list[str] = []
    parts: list[Rows] = []
    owners: list[int] = []
    for revision in heads().filter(pk__in=ids).order_by("pk"):
        try:
            own, rows = _samples(revision, encoder)
        except (BlobDamaged, LoraError):
            continue
        texts += own[:SAMPLES_PER_EXPERT]
        parts.append(rows[:SAMPLES_PER_EXPERT])
        owners += [revision.pk] * len(own[:SAMPLES_PER_EXPERT])
    if not parts:
        return Labelled.empty(encoded_texts(encoder, [""]).shape[1])
    return Labelled(texts, np.vstack(parts), np.array(owners))


def serve_version(version: HybridVersion, skipped: set[int]) -> bool:
    """Put a version into service if every head has a row in it. Call inside a transaction, as `spaces.serve`."""
    next_seq()
    if lacking_rows(version).exclude(pk__in=skipped).exists():
        return False
    if version.served_at is None:
        HybridVersion.objects.filter(pk=version.pk).update(served_at=timezone.now())
    return True


def prepare(base: Space, encoder: Encoder) -> None:
    """Before another encoder's space answers: a version over it with every head's row, where the last was fitted.

    Where the one that ships was enough, the first fit may follow: until then the plain router answers.
    """
    now = ServedSpace.objects.filter(space__isnull=False).values_list("space_id", flat=True).first()
    last = served_version(now) if now else None
    if last is None or not last.experts:
        return
    version = served_version(base.pk) or first_version(base, encoder)
    skipped: set[int] = set()
    is_served = False
    while not is_served:
        for _ in fill(version, encoder, skipped):
            pass
        with transaction.atomic():
            is_served = serve_version(version, skipped)


def drop_old_versions(base: str) -> None:
    """Remove versions that two newer ones have replaced, with their rows."""
    served = HybridVersion.objects.filter(base=base, served_at__isnull=False).order_by("-served_at")
    for version in served[KEPT:]:
        drop_version(version)


def drop_version(version: HybridVersion) -> None:
    Prototype.objects.filter(space=version.space_id).delete()
    Space.objects.filter(pk=version.space_id).delete()


def request_fit(base: str) -> None:
    """Ask for the job `fit_space`, unless it is under way or ended badly just now, or nobody has vectors yet."""
    if not Space.objects.filter(pk=base).exists():
        return
    recent = Q(finished_at__gt=timezone.now() - RETRY_AFTER) & ~Q(status=Job.Status.SUCCEEDED)
    if not Job.objects.filter(recent | ~Q(status__in=Job.FINAL), kind="fit_space").exists():
        jobs.enqueue("fit_space", payload={"space": base})


def fit_if_due(base: str) -> bool:
    """Ask for the first version, for rows that are missing, or for another version of many more experts.

    Returns: whether there is something to do.
    """
    version = served_version(base)
    if version is None or lacking_rows(version).exists():
        request_fit(base)
        return True
    outgrown = is_outgrown(version)
    # Uploads come in bursts, and nobody's is to wait for a fit that the next ones outgrow.
    if outgrown and not Job.objects.filter(kind="ingest").exclude(status__in=Job.FINAL).exists():
        request_fit(base)
    return outgrown


def is_outgrown(version: HybridVersion) -> bool:
    """Whether there are so many more public experts than the fit saw that another one pays."""
    return len(_public_heads()) > GROWTH * version.experts + GROWTH_MIN
