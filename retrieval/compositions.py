"""Compositions as their readers see them: never more visible than the experts in them."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet

from lora.composing import folder_of
from lora.compositions import COMPOSITIONS
from registry.errors import Invalid, NotFound, PermissionRefused
from registry.intake import CONFIG, WEIGHTS
from registry.models import Adapter, Blob, Revision
from registry.queries import Caller, find_base_model, visible_adapters
from registry.recipes import adapter_and_revision
from retrieval.bundles import check_offered, files_json
from retrieval.models import Composition, CompositionExpert

FILTERS = ("type", "base_model", "adapter", "owner")
EXPERTS = Prefetch("experts", CompositionExpert.objects.select_related("revision__adapter").defer("revision__modules"))


def visible_compositions(user: Caller) -> QuerySet[Composition]:
    """The caller's own, and public ones of which the caller may see every expert; every version of them."""
    own = Q(namespace__owner_id=user.pk) if user.is_authenticated else Q(pk__in=())
    experts = CompositionExpert.objects.filter(composition=OuterRef("pk"))
    hidden = experts.exclude(revision__adapter__in=visible_adapters(user).values("pk"))
    seen = Composition.objects.filter(own | (Q(visibility="public") & ~Exists(hidden)))
    return seen.prefetch_related(EXPERTS, "files__blob")


def filtered(rows: QuerySet[Composition], query: Mapping[str, list[str]]) -> QuerySet[Composition]:
    """The heads that have, for each filter, one of its values; of `adapter` all of them.

    Raises: Invalid, UnknownComposition.
    """
    unknown = sorted(set(query) - {*FILTERS, "page", "page_size"})
    if unknown:
        raise Invalid(f"{unknown[0][:40]!r} is no filter. Known: {', '.join(FILTERS)}.", detail={unknown[0]: "unknown"})
    rows = rows.filter(is_head=True)
    for name in query.get("type", ()):
        COMPOSITIONS.get(name)
    if "type" in query:
        rows = rows.filter(type__in=query["type"])
    if "base_model" in query:
        known = {name: find_base_model(name) for name in query["base_model"]}
        rows = rows.filter(base_model__in=[base.name if base else name for name, base in known.items()])
    if "owner" in query:
        rows = rows.filter(namespace__name__in=query["owner"])
    for name in query.get("adapter", ()):
        rows = rows.filter(experts__revision__adapter__full_name=name)
    return rows


def find_composition(user: Caller, full_name: str, ref: str = "main", *, for_write: bool = False) -> Composition:
    """The version that a ref (`main`, 40 hex) names. Raises: NotFound, PermissionRefused."""
    wanted = Q(is_head=True) if ref == "main" else Q(commit=ref)
    rows = visible_compositions(user).select_related("namespace")
    row = rows.filter(wanted, full_name=full_name).first()
    if row is None:
        raise NotFound(f"There is no composition {full_name[:200]!r} at {ref[:40]!r} that you may see.")
    if for_write and row.namespace.owner_id != user.pk:
        raise PermissionRefused(f"Only the owner of {full_name} may delete it.")
    return row


def delete_composition(user: Caller, full_name: str) -> None:
    """Take a composition away with all its versions. Raises: NotFound, PermissionRefused."""
    row = find_composition(user, full_name, for_write=True)
    Composition.objects.filter(full_name=row.full_name).delete()


def containing(user: Caller, revisions: Iterable[int]) -> dict[int, list[str]]:
    """Names of the compositions in which a revision's adapter is, in any revision, by the revision asked for."""
    adapters = dict(Revision.objects.filter(pk__in=set(revisions)).values_list("pk", "adapter_id"))
    heads = visible_compositions(user).filter(is_head=True)
    rows = heads.filter(experts__revision__adapter__in=set(adapters.values()))
    named: dict[int, list[str]] = {}
    for name, adapter in rows.values_list("full_name", "experts__revision__adapter").order_by("full_name"):
        named.setdefault(adapter, []).append(name)
    return {revision: named.get(adapter, []) for revision, adapter in adapters.items()}


def holding(user: Caller, kind: str, adapters: Iterable[str]) -> list[str]:
    """Names of the compositions of a type in which all these adapters are, in any revision."""
    rows = filtered(visible_compositions(user), {"type": [kind], "adapter": list(adapters)})
    return list(rows.order_by("full_name").values_list("full_name", flat=True))


def composition_files(user: Caller, composition: Composition) -> dict[str, Blob]:
    """Every file of the archive by path. Raises: Conflict: an expert was taken back since."""
    check_offered(user, [expert.revision for expert in composition.experts.all()])
    return stored_files(composition)


def stored_files(composition: Composition) -> dict[str, Blob]:
    """The same, whoever may see its experts."""
    files = {file.path: file.blob for file in composition.files.all()}
    for expert in composition.experts.all():
        folder = folder_of(expert.position, expert.revision.adapter.full_name)
        files |= {f"{folder}/{path}": expert.revision.file(path).blob for path in (WEIGHTS, CONFIG)}
    return files


def composition_json(composition: Composition) -> dict[str, Any]:
    """A version in the words of the REST contract."""
    revisions = [expert.revision for expert in composition.experts.all()]
    private = any(revision.adapter.visibility == Adapter.Visibility.PRIVATE for revision in revisions)
    name = composition.full_name
    return {
        "name": name,
        "owner": name.partition("/")[0],
        "revision": composition.commit,
        "type": composition.type,
        "params": composition.params,
        "runs": COMPOSITIONS.get(composition.type).traits["runs"],
        "base_model": composition.base_model,
        "adapters": [adapter_and_revision(revision) for revision in revisions],
        "visibility": "private" if private else composition.visibility,
        "description": composition.description,
        "places": composition.places,
        "training": composition.training or None,
        "files": files_json(composition.files.all()),
        "created_at": composition.created_at,
        "urls": {"archive": f"/api/v1/compositions/{name}/archive/?revision={composition.commit}"},
    }
