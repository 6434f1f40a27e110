"""The JSON of what exists, in the words of the REST contract."""

from typing import Any

from registry.models import Adapter, BaseModel, Job, Merge, MergeInput, Revision
from registry.queries import Caller, is_owner, visible_adapters
from registry.recipes import recipe_of
from registry.serving import serving_json


def job_json(job: Job) -> dict[str, Any]:
    return {
        "id": str(job.pk),
        "kind": job.kind,
        "status": job.status,
        "progress": job.progress,
        "attempts": job.attempts,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "error": job.error,
        "result": job.result,
        "log": [{"at": line.at, "message": line.message} for line in job.log.all()],
    }


def base_model_json(base: BaseModel) -> dict[str, Any]:
    return {"id": base.name, "revision": base.revision or None, "modules": base.modules, "aliases": base.aliases}


def merge_json(merge: Merge) -> dict[str, Any]:
    recipe = recipe_of(merge).as_json()
    job = merge.jobs.first()
    return {
        "id": str(merge.pk),
        "method": merge.method,
        "inputs": recipe["inputs"],
        "params": merge.params,
        "output": merge.output,
        "recipe_hash": merge.recipe_hash,
        "status": job.status if job else Job.Status.QUEUED,
        "adapter": merge.revision.adapter.full_name if merge.revision else None,
        "report": merge.artefact.report if merge.artefact else None,
        "created_at": merge.created_at,
    }


def state_of(adapter: Adapter, revision: Revision) -> str:
    return "yanked" if adapter.yanked_at else revision.state


def lineage_json(user: Caller, revision: Revision) -> dict[str, Any]:
    """Parents of a merged revision and merges made of it; what the caller may not see is left out."""
    return _lineages(user, [revision])[revision.pk]


def _lineages(user: Caller, revisions: list[Revision]) -> dict[int, dict[str, Any]]:
    """Revision id → its lineage, in as many queries for many as for one."""
    visible = visible_adapters(user)
    merges = {merge.revision_id: merge for merge in Merge.objects.filter(revision__in=revisions).only("revision")}
    inputs = MergeInput.objects.filter(merge__in=merges.values(), revision__adapter__in=visible)
    parents: dict[Any, list[dict[str, Any]]] = {}
    for item in inputs.select_related("revision__adapter").defer("revision__modules").order_by("merge", "position"):
        parent = {"adapter": item.revision.adapter.full_name, "revision": item.revision.commit, "weight": item.weight}
        parents.setdefault(item.merge_id, []).append(parent)
    # What is visible is asked for last: databases would else start with all that is.
    used = MergeInput.objects.filter(revision__adapter__in=[revision.adapter_id for revision in revisions])
    made = set(used.filter(merge__revision__isnull=False).values_list("revision__adapter", "merge__revision__adapter"))
    names = dict(visible.filter(pk__in={child for _, child in made}).values_list("pk", "full_name"))
    children: dict[int, set[str]] = {}
    for adapter_id, child in made:
        if child in names:
            children.setdefault(adapter_id, set()).add(names[child])
    found = {}
    for revision in revisions:
        merge = merges.get(revision.pk)
        found[revision.pk] = {
            "parents": parents.get(merge.pk, []) if merge else [],
            "merge": str(merge.pk) if merge else None,
            "children": sorted(children.get(revision.adapter_id, ())),
        }
    return found


def adapter_json(user: Caller, adapter: Adapter, revision: Revision) -> dict[str, Any]:
    """Everything about an adapter at a revision, but for its prototypes (see `retrieval.api`)."""
    described = _described(user, adapter, revision, revision.facts, lineage_json(user, revision))
    return described | {"serving": serving_json(revision)}


def adapters_json(user: Caller, shown: list[tuple[Adapter, Revision]]) -> list[dict[str, Any]]:
    """As `adapter_json` for each, without the facts of modules, which would be megabytes, and without `serving`."""
    lineages = _lineages(user, [revision for _, revision in shown])
    return [_described(user, adapter, revision, revision.summary, lineages[revision.pk]) for adapter, revision in shown]


def _described(
    user: Caller, adapter: Adapter, revision: Revision, facts: dict[str, Any], lineage: dict[str, Any]
) -> dict[str, Any]:
    base = f"/api/v1/adapters/{adapter.full_name}/"
    return {
        "name": adapter.full_name,
        "owner": adapter.namespace.name,
        "visibility": adapter.visibility,
        "description": adapter.description,
        "license": adapter.license,
        "tags": adapter.tags,
        "base_model": revision.base_model,
        "state": state_of(adapter, revision),
        "revision": revision.commit,
        "created_at": adapter.created_at,
        "updated_at": adapter.updated_at,
        "downloads": adapter.downloads,
        "samples_public": adapter.samples_public,
        "facts": facts,
        "problems": revision.problems,
        "warnings": revision.warnings,
        "lineage": lineage,
        "files": [file.as_json() for file in revision.files.all() if may_read(user, adapter, file.path)],
        "urls": {"self": base, "page": f"/adapters/{adapter.full_name}/", "archive": f"{base}archive/"},
    }


def may_read(user: Caller, adapter: Adapter, path: str) -> bool:
    """Whether the caller gets a file: an owner may hide the texts of the samples."""
    return path != "samples.jsonl" or adapter.samples_public or is_owner(user, adapter)


def readable_files(user: Caller, revision: Revision) -> dict[str, Any]:
    """The blobs of a revision by path, without what its owner hides from the caller."""
    adapter = revision.adapter
    return {file.path: file.blob for file in revision.files.all() if may_read(user, adapter, file.path)}
