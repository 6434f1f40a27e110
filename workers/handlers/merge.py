"""`merge`: computes the artefact of a recipe, and makes it an adapter where the recipe names one."""

import json
from contextlib import ExitStack

from django.conf import settings

from lora.mergeable import runs_base
from lora.merging import ENGINE_VERSION
from lora.nested import merge_recipe
from lora.runtime.probe import RunningBase
from registry import jobs
from registry.adapters import publish
from registry.base_weights import base_weights
from registry.intake import CONFIG, WEIGHTS
from registry.merges import admit_merged, check_inputs, check_offered, first_places, local_files
from registry.models import Merge, MergeArtefact
from registry.recipes import Recipe, adapter_and_revision, published, recipe_of, step_json
from registry.storage import put_file, scratch_folder, sha256_of
from workers.base_models import running_base
from workers.handlers.ingest import examine, refresh_snapshot
from workers.runner import Work


def handle(work: Work) -> None:
    """Merge without an artefact → with one; its adapter's revision `checking` → `ready`."""
    merge = work.job.merge
    recipe = recipe_of(merge)
    check_offered(merge, recipe)
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
        tree = local_files(recipe, stack)
        files = {leaf.where: leaf.source for leaf in tree.leaves}
        places = first_places(recipe.places)
        check_inputs(places, [files[where] for where in places], recipe.step)
        running = _running_base(work, recipe)
        report = merge_recipe(
            tree,
            recipe.output.spec,
            folder,
            metadata=_metadata(recipe),
            progress=work.part(0.7, 0.8) if running else work.part(0.0, 0.8),
            device=settings.DEVICE,
            base=base_weights(recipe.base_model),
            running=running,
        )
        weights, config = (put_file(folder / name, sha256_of(folder / name)) for name in (WEIGHTS, CONFIG))
    # Two workers may have computed the same recipe; the first artefact stays.
    return MergeArtefact.objects.get_or_create(
        recipe_hash=recipe.hash, defaults={"weights": weights, "config": config, "report": report}
    )[0]


def _running_base(work: Work, recipe: Recipe) -> RunningBase | None:
    """The base model in memory, where the recipe has a method that runs it. Raises: BaseNotHere."""
    if not runs_base(recipe.step):
        return None
    work.log(f"Loading {recipe.base_model}, which {recipe.method} runs")
    running = running_base(recipe.base_model, work.part(0.0, 0.7))
    work.log("Running it on examples")
    return running


def _metadata(recipe: Recipe) -> dict[str, str]:
    """Lineage inside the file: the recipe with the parents' digests. Nothing about who asked, or when."""
    step = step_json(published(recipe.step), lambda r: adapter_and_revision(r) | {"sha256": r.file(WEIGHTS).blob_id})
    output = {"rank": recipe.output.as_json()["rank"], "dtype": recipe.output.spec.dtype}
    lineage = step | {"output": output, "engine": ENGINE_VERSION}
    return {"loradex.recipe": json.dumps(lineage, sort_keys=True)}
