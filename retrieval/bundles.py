"""Bundles: an archive of experts with the vectors that a router inside the model compares with, made by a job."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from lora.bundled_adapters import problems_of
from lora.bundles import BUNDLES
from registry.errors import Conflict, Invalid, MissingPrototypes, NotFound, NotRoutable, Throttled
from registry.gates import GATES
from registry.jobs import enqueue
from registry.merges import described_files
from registry.models import Blob, Job, Revision, RevisionFile
from registry.queries import Caller, find_adapter, find_revision, visible_adapters
from registry.recipes import adapter_and_revision
from retrieval.models import Bundle, BundleExpert, BundleFile, CompositionFile, Prototype

KIND = "bundle"
FIELDS = frozenset({"router", "adapters", "retrieve", "params"})
EXPERT_FIELDS = frozenset({"adapter", "revision"})
MAX_EXPERTS = 100
MAX_OPEN = 4
# Computed from an expert's weights while the bundle is made.
FROM_WEIGHTS = frozenset({"arrow", "spectral"})
REMEDIES = {
    "phatgoose": "Upload it with gates.safetensors, or have a worker train some: POST …/prototypes/phatgoose/.",
    "activations": "Have a worker with the base model compute them: POST …/prototypes/activations/.",
}


@dataclass(frozen=True)
class Order:
    """A checked request: `params` are complete, `revisions` in order."""

    router: str
    params: dict[str, Any]
    revisions: tuple[Revision, ...]

    @property
    def hash(self) -> str:
        """sha256 over everything that decides the files."""
        experts = [adapter_and_revision(revision) for revision in self.revisions]
        return hashlib.sha256(json.dumps([self.router, self.params, experts], sort_keys=True).encode()).hexdigest()


def parse_order(user: Caller, payload: Any, resolve: Callable[[Any], Any]) -> Order:
    """The bundle that a request asks for.

    Args:
        resolve: turns `{"retrieve": {…}}` into the list of its matches.
    Raises: Invalid, UnknownRouter, InvalidParams; NotFound, Conflict: an adapter; NotRoutable, MissingPrototypes;
        what `resolve` raises.
    """
    if not isinstance(payload, dict) or not set(payload) <= FIELDS:
        raise Invalid(f"A bundle is an object with {', '.join(sorted(FIELDS))}, and nothing else.")
    given = {name: value for name, value in payload.items() if value is not None}
    if not isinstance(given.get("router"), str):
        text = f"router must be one of {', '.join(BUNDLES.names())}."
        raise Invalid(text, detail={"router": text})
    params = asdict(BUNDLES.parse(given["router"], given.get("params", {})))
    revisions = [find_expert(user, place, item) for place, item in enumerate(_listed(given, resolve))]
    check_together(revisions)
    _check_vectors(BUNDLES.get(given["router"]).traits["prototype"], revisions)
    return Order(given["router"], params, tuple(revisions))


def _listed(given: dict[str, Any], resolve: Callable[[Any], Any]) -> list[Any]:
    if ("adapters" in given) == ("retrieve" in given):
        text = "Send either adapters, a list, or retrieve, the body of a retrieval whose matches are taken."
        raise Invalid(text, detail={"adapters": text})
    if "retrieve" in given:
        return resolve({"retrieve": given["retrieve"]})
    return listed(given["adapters"])


def listed(items: Any) -> list[Any]:
    """The value of `adapters`. Raises: Invalid: it is no list, or too long."""
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_EXPERTS:
        text = f"adapters must be a list of 1 to {MAX_EXPERTS} names, or of objects with adapter and revision."
        raise Invalid(text, detail={"adapters": text})
    return items


def find_expert(user: Caller, place: int, item: Any) -> Revision:
    """The ready revision that an item of `adapters` names. Raises: Invalid, NotFound, Conflict."""
    where = f"adapters[{place}]"
    named = {"adapter": item} if isinstance(item, str) else item
    if not isinstance(named, dict) or not {"adapter"} <= set(named) <= EXPERT_FIELDS | {"weight"}:
        text = f"{where} must be owner/name, or an object with adapter and revision."
        raise Invalid(text, detail={where: text})
    name, ref = named["adapter"], named.get("revision", "main")
    if not isinstance(name, str) or not isinstance(ref, str):
        raise Invalid(f"{where}: adapter and revision are strings.", detail={where: "not a string"})
    revision = find_revision(user, find_adapter(user, name), ref)
    if revision.adapter.yanked_at is not None or revision.state != Revision.State.READY:
        state = "yanked" if revision.adapter.yanked_at else revision.state
        raise Conflict(f"{name} is {state}; only ready adapters can be taken.", detail={"where": where})
    return revision


def check_together(revisions: Sequence[Revision]) -> None:
    """Raises: NotRoutable: with a reason for every expert that cannot be run beside the others in one model."""
    first, seen = revisions[0], dict[int, int]()
    reasons: dict[int, tuple[str, str]] = {}
    for place, revision in enumerate(revisions):
        if revision.adapter_id in seen:
            text = f"It is there already, as adapters[{seen[revision.adapter_id]}]. Name every expert once."
            reasons[place] = ("duplicate_input", text)
        elif revision.base_model != first.base_model:
            own, other = revision.base_model or "an unnamed base", first.base_model or "an unnamed base"
            reasons[place] = ("other_base", f"It was trained on {own}, and the first expert on {other}.")
        seen.setdefault(revision.adapter_id, place)
    if not reasons:
        reasons = {p.index: (p.code, p.message) for p in problems_of(described_files(revisions))}
    if reasons:
        raise NotRoutable(named_inputs(revisions, reasons))


def _check_vectors(prototype: str, revisions: Sequence[Revision]) -> None:
    """Raises: MissingPrototypes."""
    files = vector_files(prototype, revisions)
    lacking = [place for place, revision in enumerate(revisions) if revision.pk not in files]
    if prototype not in FROM_WEIGHTS and lacking:
        text = f"It has no prototypes {prototype}. {REMEDIES[prototype]}"
        raise MissingPrototypes(named_inputs(revisions, dict.fromkeys(lacking, ("missing_prototypes", text))))


def named_inputs(revisions: Sequence[Revision], reasons: dict[int, tuple[str, str]]) -> list[dict[str, str]]:
    """What a refusal tells of the experts that stand in the way, by their places."""
    return [
        {
            "where": f"adapters[{place}]",
            "adapter": revisions[place].adapter.full_name,
            "code": reasons[place][0],
            "message": reasons[place][1],
        }
        for place in sorted(reasons)
    ]


def vector_files(prototype: str, revisions: Sequence[Revision]) -> dict[int, Blob]:
    """The stored file of vectors by module of every revision that has one; a contributor's gates before a worker's."""
    rows = Prototype.objects.filter(kind=prototype, space=None, revision__in=revisions).select_related("blob")
    files = {row.revision_id: row.blob for row in rows}
    if prototype == "phatgoose":
        sent = RevisionFile.objects.filter(path=GATES, revision__in=revisions).select_related("blob")
        files |= {row.revision_id: row.blob for row in sent}
    return files


def request_bundle(user: AbstractBaseUser, order: Order) -> tuple[Bundle, Job]:
    """The bundle of an order and its job; the ones there are if the caller asked for the same before.

    One whose job failed or was cancelled gets a new job. Raises: Throttled.
    """
    with transaction.atomic():
        bundle, created = Bundle.objects.get_or_create(
            owner_id=user.pk,
            request_hash=order.hash,
            defaults={
                "router": order.router,
                "params": order.params,
                "base_model": order.revisions[0].base_model,
            },
        )
        if created:
            BundleExpert.objects.bulk_create(
                BundleExpert(bundle=bundle, position=position, revision=revision)
                for position, revision in enumerate(order.revisions)
            )
        else:
            # Two requests at once for a bundle that failed must not make two jobs.
            bundle = Bundle.objects.select_for_update(of=("self",)).select_related("job").get(pk=bundle.pk)
        if bundle.job is None or bundle.job.status in (Job.Status.FAILED, Job.Status.CANCELLED):
            if Job.objects.filter(kind=KIND, owner_id=user.pk).exclude(status__in=Job.FINAL).count() >= MAX_OPEN:
                raise Throttled(f"{MAX_OPEN} of your bundles wait or run already. Wait for one to end, or cancel one.")
            bundle.job = enqueue(KIND, owner=user, payload={"bundle": str(bundle.pk)})
            bundle.save(update_fields=["job"])
    return bundle, bundle.job


def find_bundle(user: Caller, bundle_id: Any) -> Bundle:
    """The caller's own bundle. Raises: NotFound."""
    rows = Bundle.objects.select_related("job")
    bundle = rows.filter(pk=bundle_id, owner_id=user.pk).first() if user.is_authenticated else None
    if bundle is None:
        raise NotFound("There is no bundle of that id that you may see.")
    return bundle


def experts_of(bundle: Bundle) -> list[Revision]:
    """The revisions of a bundle, in order."""
    rows = Revision.objects.select_related("adapter").defer("modules").prefetch_related("files__blob")
    positions = dict(bundle.experts.values_list("revision_id", "position"))
    return sorted(rows.filter(pk__in=positions), key=lambda revision: positions[revision.pk])


def check_offered(user: Caller, revisions: Sequence[Revision]) -> None:
    """Refuse experts of which one was taken back from the caller since they were named. Raises: Conflict."""
    adapters = [revision.adapter_id for revision in revisions]
    offered = set(visible_adapters(user).filter(pk__in=adapters).values_list("pk", flat=True))
    for place, revision in enumerate(revisions):
        if revision.adapter_id not in offered:
            detail = {"inputs": [{"where": f"adapters[{place}]", "code": "withdrawn"}]}
            raise Conflict(f"adapters[{place}] was yanked, or made private, since.", detail=detail)


def bundle_files(bundle: Bundle) -> dict[str, Blob]:
    """The files of a finished bundle by path. Raises: Conflict: it has not finished, or an expert was taken back."""
    files = {file.path: file.blob for file in bundle.files.select_related("blob")}
    if not files:
        raise Conflict("The bundle has not finished. Its job says how far it is.")
    check_offered(bundle.owner, experts_of(bundle))
    return files


def files_json(files: Iterable[BundleFile | CompositionFile]) -> list[dict[str, Any]]:
    """Stored files in the words of the REST contract."""
    return [{"path": file.path, "size_bytes": file.blob.size_bytes, "sha256": file.blob.sha256} for file in files]


def bundle_json(bundle: Bundle) -> dict[str, Any]:
    """A bundle in the words of the REST contract."""
    files = list(bundle.files.select_related("blob"))
    rows = bundle.experts.select_related("revision__adapter").defer("revision__modules")
    return {
        "id": str(bundle.pk),
        "router": bundle.router,
        "params": bundle.params,
        "base_model": bundle.base_model,
        "adapters": [adapter_and_revision(row.revision) for row in rows],
        "status": bundle.job.status if bundle.job else Job.Status.QUEUED,
        "warnings": bundle.warnings,
        "files": files_json(files),
        "size_bytes": sum(file.blob.size_bytes for file in files),
        "created_at": bundle.created_at,
    }
