"""Compositions whose gates a worker trains, on the samples of the experts themselves."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from django.contrib.auth.models import AbstractBaseUser

from lora.runtime.gate_starts import STARTS
from registry.errors import Conflict, Invalid, NotRoutable, Throttled
from registry.jobs import enqueue
from registry.models import Job, Revision
from registry.queries import visible_adapters
from registry.samples import read_samples
from retrieval.bundles import named_inputs
from retrieval.composing import Order

KIND = "compose"
TRAINED = tuple(STARTS)  # the form begins with the first
STEPS = 100
MAX_STEPS = 1_000
MAX_OPEN = 4


def start_training(user: AbstractBaseUser, order: Order, train: Any) -> Job:
    """The job that trains the gates of an order and stores the composition; the caller's open one if there is one.

    Args:
        train: `{steps?, seed?}`.
    Raises: Invalid; NotRoutable: experts without samples that have outputs; Throttled. BlobDamaged, StoreUnavailable.
    """
    if order.type not in TRAINED:
        text = f"Gates of {order.type} are not trained here; those of {', '.join(TRAINED)} are. Send them as gates."
        raise Invalid(text, detail={"train": text})
    settings = _settings(train)
    _check_samples(order.revisions)
    payload = asdict(order) | settings | {"revisions": [revision.pk for revision in order.revisions]}
    open_jobs = list(Job.objects.filter(kind=KIND, owner_id=user.pk).exclude(status__in=Job.FINAL))
    if same := next((job for job in open_jobs if job.payload == payload), None):
        return same
    if len(open_jobs) >= MAX_OPEN:
        raise Throttled(f"{MAX_OPEN} of your compositions wait or are trained already. Wait for one to end.")
    return enqueue(KIND, owner=user, payload=payload)


def _settings(train: Any) -> dict[str, int]:
    given = train if isinstance(train, dict) else {"train": train}
    bounds = {"steps": (STEPS, 1, MAX_STEPS), "seed": (0, 0, 2**32 - 1)}
    settings = {name: given.get(name, default) for name, (default, _, _) in bounds.items()}
    right = all(type(value) is int and bounds[name][1] <= value <= bounds[name][2] for name, value in settings.items())
    if not right or not set(given) <= set(bounds):
        text = f"train is an object with steps, 1 to {MAX_STEPS}, and seed, whole numbers, both optional."
        raise Invalid(text, detail={"train": text})
    return settings


def _check_samples(revisions: Sequence[Revision]) -> None:
    text = "It has no samples with outputs, which the gates learn from."
    reasons = {
        place: ("no_labels", text)
        for place, revision in enumerate(revisions)
        if not any(sample.get("output") for sample in read_samples(revision))
    }
    if reasons:
        raise NotRoutable(named_inputs(revisions, reasons))


def order_of(job: Job) -> Order:
    """The order of a job. Raises: Conflict: an expert was taken back, or the account is gone."""
    payload = dict(job.payload)
    if job.owner is None:
        raise Conflict("The account that asked for this composition is gone.")
    rows = Revision.objects.select_related("adapter").prefetch_related("files__blob")
    found = rows.filter(adapter__in=visible_adapters(job.owner)).in_bulk(payload["revisions"])
    if len(found) < len(payload["revisions"]):
        raise Conflict("An expert was yanked, or made private, while the job waited.")
    revisions = tuple(found[pk] for pk in payload["revisions"])
    named = {name: payload[name] for name in ("name", "type", "params", "visibility", "description")}
    return Order(revisions=revisions, **named)
