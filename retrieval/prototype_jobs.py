"""Prototypes that take the base model: asked for by revision and kind, computed by a worker that has it."""

from django.contrib.auth.models import AbstractBaseUser

from registry.errors import Conflict, Invalid, Throttled
from registry.jobs import enqueue
from registry.models import Job, Revision
from registry.samples import read_samples
from retrieval.prototypes import stored_kinds

KIND = "prototype"
KINDS = ("activations", "dam", "fisher", "phatgoose")
LABELLED = ("fisher", "phatgoose")
MAX_OPEN = 16


def start_prototype(user: AbstractBaseUser, revision: Revision, kind: str) -> Job | None:
    """The job that computes a kind of prototype of a revision, the caller's open one if there is one; None where it is
    stored already, as after an upload with gates.

    Raises: Invalid: no such kind; Conflict: the revision has not passed, or lacks what the kind is computed from;
        Throttled. BlobDamaged, StoreUnavailable.
    """
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise Invalid(
            f"Of {kind[:40]!r} there is nothing to compute on demand. Known: {known}.", detail={"kind": known}
        )
    if revision.state != Revision.State.READY:
        raise Conflict("This revision has not passed its checks.")
    if kind in stored_kinds(revision):
        return None
    wanted = "samples with outputs" if kind in LABELLED else "samples"
    if not any(sample.get("output") or kind not in LABELLED for sample in read_samples(revision)):
        raise Conflict(f"It has no {wanted}, from which this is computed. Add some as samples.jsonl.")
    order = {"revision": revision.pk, "kind": kind, "adapter": revision.adapter.full_name}
    open_jobs = list(Job.objects.filter(kind=KIND, owner_id=user.pk).exclude(status__in=Job.FINAL))
    if same := next((job for job in open_jobs if job.payload == order), None):
        return same
    if len(open_jobs) >= MAX_OPEN:
        raise Throttled(f"{len(open_jobs)} prototypes that you asked for wait or run already. Wait for one to end.")
    return enqueue(KIND, owner=user, payload=order)
