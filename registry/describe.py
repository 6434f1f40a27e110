"""The JSON of what exists, in the words of the REST contract."""

from typing import Any

from registry.models import Adapter, BaseModel, Job, Merge, Revision
from registry.queries import Caller, is_owner, visible_adapters


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
    inputs = merge.inputs.select_related("revision__adapter")
    job = merge.jobs.first()
    return {
        "id": str(merge.pk),
        "method": merge.method,
        "inputs": [
            {"adapter": item.revision.adapter.full_name, "revision": item.revision.commit, "weight": item.weight}
            for item in inputs
        ],
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
    visible = visible_adapters(user)
    merge = getattr(revision, "merge", None)
    parents = []
    if merge is not None:
        inputs = merge.inputs.select_related("revision__adapter").filter(revision__adapter__in=visible)
        parents = [
            {"adapter": item.revision.adapter.full_name, "revision": item.revision.commit, "weight": item.weight}
            for item in inputs
        ]
    children = (
        visible.filter(revisions__merge__inputs__revision__adapter_id=revision.adapter_id)
        .values_list("full_name", flat=True)
        .distinct()
        .order_by("full_name")
    )
    return {"parents": parents, "merge": str(merge.pk) if merge else None, "children": list(children)}


def adapter_json(user: Caller, adapter: Adapter, revision: Revision) -> dict[str, Any]:
    """Everything about an adapter at a revision, but for its prototypes (see `retrieval.api`)."""
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
        "facts": revision.facts,
        "problems": revision.problems,
        "warnings": revision.warnings,
        "lineage": lineage_json(user, revision),
        "files": [file.as_json() for file in revision.files.all() if _may_read(user, adapter, file.path)],
        "urls": {"self": base, "page": f"/adapters/{adapter.full_name}/", "archive": f"{base}archive/"},
    }


def _may_read(user: Caller, adapter: Adapter, path: str) -> bool:
    """Whether the caller gets a file: an owner may hide the texts of the samples."""
    return path != "samples.jsonl" or adapter.samples_public or is_owner(user, adapter)


def readable_files(user: Caller, revision: Revision) -> dict[str, Any]:
    """The blobs of a revision by path, without what its owner hides from the caller."""
    adapter = revision.adapter
    return {file.path: file.blob for file in revision.files.all() if _may_read(user, adapter, file.path)}
