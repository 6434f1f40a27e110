"""What experts scored on texts: reported by callers, measured by trials, seen by who may see the expert."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet

from registry.errors import Conflict, Invalid, NotFound, PermissionRefused
from registry.models import Revision
from registry.queries import Caller, find_adapter, find_revision, visible_adapters
from retrieval.models import Outcome, OutcomeCounter, Probe, ProbeVector
from retrieval.outcome_requests import Report, parse_reports
from retrieval.spaces import encoder_of, served_space_id, space_of

# Of one caller, on all adapters together: a site's memory holds 100,000 of all callers.
MAX_OWN = 50_000


@dataclass(frozen=True)
class Measured:
    """What is to be stored: a revision's score on a text, or on a probe that there is already."""

    where: str
    revision: Revision
    text: str | None
    probe: UUID | None
    score: float
    cost: float | None = None


def report(user: AbstractBaseUser, payload: Any) -> tuple[list[Outcome], bool]:
    """Store what a caller reports, all of it or nothing, and whether any of it is new.

    What the caller has said of the same adapter and text before is replaced.

    Raises: Invalid; NotFound: an adapter, revision or probe; Conflict: too many; NotReady: the encoder.
    """
    reports = parse_reports(payload)
    revisions: dict[tuple[str, str], Revision] = {}
    measured = []
    for item in reports:
        key = (item.adapter, item.ref)
        if key not in revisions:
            revisions[key] = _revision(user, item)
        measured.append(Measured(item.where, revisions[key], item.text, item.probe, item.score, item.cost))
    return store(user, measured, Outcome.Source.REPORTED)


def _revision(user: Caller, item: Report) -> Revision:
    adapter = find_adapter(user, item.adapter)
    if adapter.yanked_at is not None:
        raise NotFound(f"{item.adapter} was taken back.")
    revision = find_revision(user, adapter, item.ref)
    if adapter.head_id is None or revision.state != Revision.State.READY:
        message = f"{item.adapter} has not passed its checks; there is nothing to score yet."
        raise Invalid(message, detail={f"{item.where}adapter": message})
    return revision


def store(user: AbstractBaseUser, measured: Sequence[Measured], source: str) -> tuple[list[Outcome], bool]:
    """The rows of what was measured, in its order, and whether any is new.

    Raises: Invalid, NotFound, Conflict, NotReady.
    """
    texts = {_digest(item.text): item.text for item in measured if item.text is not None}
    vectors = _embedded(user, texts)
    with transaction.atomic():
        position = _lock()
        probes = _probes(user, texts, vectors, measured)
        places = [probes[_digest(item.text) if item.text is not None else item.probe] for item in measured]
        _refuse_twice(measured, places)
        return _stored(user, measured, places, source, position)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _embedded(user: AbstractBaseUser, texts: dict[str, str]) -> tuple[str, dict[str, bytes]]:
    """The space in service, and the vectors of those texts that the caller's probes have not got there."""
    encoder = encoder_of(served_space_id())
    known = ProbeVector.objects.filter(probe__owner_id=user.pk, space_id=encoder.space_id)
    there = set(known.filter(probe__digest__in=texts).values_list("probe__digest", flat=True))
    missing = [digest for digest in texts if digest not in there]
    if not missing:
        return encoder.space_id, {}
    rows = encoder.encode([texts[digest] for digest in missing])
    return space_of(encoder).pk, dict(zip(missing, (row.astype("<f4").tobytes() for row in rows), strict=True))


def _lock(rewritten: int = 0) -> int:
    """The next position; the row's lock keeps positions in the order of the commits. Call inside a transaction."""
    counter = OutcomeCounter.objects.filter(pk=1)
    if not counter.update(position=F("position") + 1, rewritten=F("rewritten") + rewritten):
        OutcomeCounter.objects.get_or_create(pk=1)
        return _lock(rewritten)
    return counter.values_list("position", flat=True).get()


def _probes(
    user: AbstractBaseUser, texts: dict[str, str], vectors: tuple[str, dict[str, bytes]], measured: Sequence[Measured]
) -> dict[str | UUID, Probe]:
    """The caller's probes by digest and by id; those of new texts are made. Raises: NotFound: a probe."""
    space, rows = vectors
    own = Probe.objects.filter(owner_id=user.pk)
    Probe.objects.bulk_create(
        [Probe(owner_id=user.pk, text=text, digest=digest) for digest, text in texts.items()], ignore_conflicts=True
    )
    found: dict[str | UUID, Probe] = {probe.digest: probe for probe in own.filter(digest__in=texts)}
    ids = {item.probe for item in measured if item.probe is not None}
    found |= {probe.pk: probe for probe in own.filter(pk__in=ids)}
    for item in measured:
        if item.probe is not None and item.probe not in found:
            message = f"You have no probe {item.probe}. Send the text instead."
            raise NotFound(message, detail={f"{item.where}probe": message})
    ProbeVector.objects.bulk_create(
        [ProbeVector(probe=found[digest], space_id=space, vector=vector) for digest, vector in rows.items()],
        ignore_conflicts=True,
    )
    return found


def _refuse_twice(measured: Sequence[Measured], probes: Sequence[Probe]) -> None:
    seen: set[tuple[UUID, int]] = set()
    for item, probe in zip(measured, probes, strict=True):
        key = (probe.pk, item.revision.adapter_id)
        if key in seen:
            message = f"{item.revision.adapter.full_name} is scored twice on the same text."
            raise Invalid(message, detail={f"{item.where}text": message})
        seen.add(key)


def _stored(
    user: AbstractBaseUser, measured: Sequence[Measured], probes: Sequence[Probe], source: str, position: int
) -> tuple[list[Outcome], bool]:
    own = Outcome.objects.filter(probe__owner_id=user.pk)
    before = {(row.probe_id, row.adapter_id): row for row in own.filter(probe__in=probes)}
    rows, new, changed = [], [], []
    for item, probe in zip(measured, probes, strict=True):
        values = {"revision": item.revision, "score": item.score, "cost": item.cost, "source": source}
        row = before.get((probe.pk, item.revision.adapter_id))
        if row is None:
            row = Outcome(probe=probe, adapter=item.revision.adapter, position=position, **values)
            new.append(row)
        elif _replaced(row, values):
            row.position = position
            changed.append(row)
        # For the answer: what is in hand need not be read again.
        row.probe, row.adapter, row.revision = probe, item.revision.adapter, item.revision
        rows.append(row)
    if new and own.count() + len(new) > MAX_OWN:
        raise Conflict(f"You have reported {MAX_OWN} outcomes, which is as many as one may. Delete some first.")
    Outcome.objects.bulk_create(new)
    for row in changed:
        row.save()
    if changed:
        OutcomeCounter.objects.filter(pk=1).update(rewritten=F("rewritten") + 1)
    return rows, bool(new)


def _replaced(row: Outcome, values: dict[str, Any]) -> bool:
    """Give a row other values, and whether they are others."""
    differs = row.revision_id != values["revision"].pk or any(
        getattr(row, name) != values[name] for name in ("score", "cost", "source")
    )
    for name, value in values.items():
        setattr(row, name, value)
    return differs


def lacking_vectors(space_id: str) -> QuerySet[Probe]:
    """The probes that have no vector in a space."""
    return Probe.objects.exclude(Exists(ProbeVector.objects.filter(probe=OuterRef("pk"), space_id=space_id)))


def lock_probes(ids: Sequence[UUID]) -> list[UUID]:
    """Those that are still there, and stay until the end of the transaction."""
    _lock()
    return list(Probe.objects.filter(pk__in=ids).values_list("pk", flat=True))


def outcome_position() -> int:
    """How far outcomes have been counted; 0 before the first."""
    return OutcomeCounter.objects.filter(pk=1).values_list("position", flat=True).first() or 0


def seen_outcomes(user: Caller) -> QuerySet[Outcome]:
    """The outcomes of the adapters that a caller may see, newest first."""
    rows = Outcome.objects.filter(adapter__in=visible_adapters(user), adapter__head__isnull=False)
    return rows.select_related("probe", "adapter", "revision").defer("revision__modules")


def find_outcome(user: Caller, outcome_id: UUID) -> Outcome:
    """Raises: NotFound."""
    row = seen_outcomes(user).filter(pk=outcome_id).first()
    if row is None:
        raise NotFound("There is no outcome of that id that you may see.")
    return row


def delete_outcome(user: Caller, outcome_id: UUID) -> None:
    """Take back what one has reported; its text goes with the last outcome of it.

    Raises: NotFound; PermissionRefused: it is somebody else's.
    """
    with transaction.atomic():
        _lock(rewritten=1)
        row = Outcome.objects.select_related("probe").filter(pk=outcome_id, probe__owner_id=user.pk).first()
        if row is None:
            find_outcome(user, outcome_id)
            raise PermissionRefused("Only who has reported an outcome may delete it.")
        row.delete()
        Probe.objects.filter(pk=row.probe_id, outcomes=None).delete()


def outcome_json(user: Caller, row: Outcome) -> dict[str, Any]:
    """`text` is null for everybody but who has sent it."""
    is_own = row.probe.owner_id == user.pk
    return {
        "id": str(row.pk),
        "adapter": row.adapter.full_name,
        "revision": row.revision.commit,
        "probe": str(row.probe_id),
        "text": row.probe.text if is_own else None,
        "score": row.score,
        "cost": row.cost,
        "source": row.source,
        "own": is_own,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
