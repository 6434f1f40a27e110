"""`merge`: computes the artefact of a recipe, and makes it an adapter where the recipe names one."""

import json
from contextlib import ExitStack

from lora.merging import ENGINE_VERSION
from lora.merging import merge as merge_files
from registry import jobs
from registry.adapters import publish
from registry.intake import CONFIG, WEIGHTS
from registry.merges import admit_merged, check_inputs, recipe_of, weighted_files
from registry.models import Merge, MergeArtefact
from registry.recipes import Recipe
from registry.storage import put_file, scratch_folder, sha256_of
from workers.handlers.ingest import examine, refresh_snapshot
from workers.runner import Work


def handle(work: Work) -> None:
    """Merge without an artefact → with one; its adapter's revision `checking` → `ready`."""
    merge = work.job.merge
    recipe = recipe_of(merge)
    artefact = MergeArtefact.objects.filter(recipe_hash=recipe.hash).first()
    if artefact is None:
        work.log(f"Merging {len(recipe.parents)} experts by {recipe.method}")
        artefact = _compute(work, recipe)
    else:
        work.log("The same recipe was computed before; its bytes are used again")
    result = {"merge": str(merge.pk)}
    if merge.output.get("name") is None:
        with jobs.finishing(work.job, result):
            Merge.objects.filter(pk=merge.pk).update(artefact=artefact)
        return
    revision = admit_merged(merge, recipe, artefact, work.job)
    findings = examine(work, revision, work.part(0.8, 1.0))
    result |= {"adapter": revision.adapter.full_name, "revision": revision.commit}
    with jobs.finishing(work.job, result):
        Merge.objects.filter(pk=merge.pk).update(artefact=artefact)
        publish(revision, findings.facts, findings.norm, findings.warnings)
    refresh_snapshot()


def _compute(work: Work, recipe: Recipe) -> MergeArtefact:
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        files = weighted_files(recipe, stack)
        check_inputs(dict(enumerate(recipe.parents)), files)
        report = merge_files(
            recipe.method,
            recipe.params,
            files,
            recipe.output.spec,
            folder,
            metadata=_metadata(recipe),
            progress=work.part(0.0, 0.8),
        )
        weights, config = (put_file(folder / name, sha256_of(folder / name)) for name in (WEIGHTS, CONFIG))
    # Two workers may have computed the same recipe; the first artefact stays.
    return MergeArtefact.objects.get_or_create(
        recipe_hash=recipe.hash, defaults={"weights": weights, "config": config, "report": report}
    )[0]


def _metadata(recipe: Recipe) -> dict[str, str]:
    """Lineage inside the file: the recipe with the parents' digests. Nothing about who asked, or when."""
    inputs = [
        {
            "adapter": parent.name,
            "revision": parent.revision.commit,
            "sha256": parent.revision.file(WEIGHTS).blob_id,
            "weight": parent.weight,
        }
        for parent in recipe.parents
    ]
    output = {"rank": recipe.output.as_json()["rank"], "dtype": recipe.output.spec.dtype}
    lineage = {"method": recipe.method, "inputs": inputs, "params": recipe.params, "output": output}
    return {"loradex.recipe": json.dumps(lineage | {"engine": ENGINE_VERSION}, sort_keys=True)}
