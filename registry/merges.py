"""Merges: ask for one, and read what came of it."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models import prefetch_related_objects

from lora.config import LoraConfig
from lora.errors import NotMergeable
from lora.layout import Layout
from lora.mergeable import check_mergeable, check_steps, runs_base
from lora.merging import MergeInput as InputFile
from lora.recipe_tree import Step
from registry import cards, licenses
from registry.adapters import open_adapter, store_revision
from registry.base_weights import base_folder
from registry.intake import CONFIG, WEIGHTS, Described, NewFile, check_upload
from registry.jobs import enqueue, renew
from registry.layouts import describe_file, stored_layout
from registry.merge_samples import check_samples, examples_of
from registry.models import Blob, Job, Merge, MergeArtefact, MergeInput, Revision
from registry.queries import visible_adapters
from registry.recipe_requests import raise_not_mergeable
from registry.recipes import Recipe, adapter_and_revision, published, recipe_of
from registry.samples import PATH as SAMPLES
from registry.samples import dump_samples, union
from registry.storage import local_path, put_bytes


def request_merge(user: AbstractBaseUser, recipe: Recipe) -> tuple[Merge, Job]:
    """The merge of a recipe and its job; the ones there are if the caller asked for the same before.

    A merge whose last job failed or was cancelled gets a new job. Raises: NotMergeable (registry's).
    """
    places = first_places(recipe.places)
    check_inputs(places, described_files(places.values()), recipe.step)
    with transaction.atomic():
        merge, created = Merge.objects.get_or_create(
            owner_id=user.pk,
            request_hash=recipe.request_hash,
            defaults={
                "method": recipe.method,
                "params": recipe.step.params,
                "tree": recipe.tree,
                "output": recipe.output.as_json(),
                "base_model": recipe.base_model,
                "recipe_hash": recipe.hash,
            },
        )
        if created:
            MergeInput.objects.bulk_create(
                MergeInput(merge=merge, position=position, revision=parent.revision, weight=parent.weight)
                for position, parent in enumerate(recipe.parents)
            )
        else:
            # Two requests at once for a merge that failed must not make two jobs.
            Merge.objects.select_for_update().get(pk=merge.pk)
        job = merge.jobs.first()
        if job is None or job.status in (Job.Status.FAILED, Job.Status.CANCELLED):
            job = enqueue("merge", owner=user, merge=merge)
    return merge, job


def local_files(recipe: Recipe, stack: ExitStack) -> Step[InputFile]:
    """The recipe as the engine takes it; its files stay readable until `stack` closes. Raises: BlobDamaged."""
    files: dict[int, InputFile] = {}
    revisions = [parent.revision for parent in recipe.parents]
    prefetch_related_objects(revisions, "files__blob")
    for revision in revisions:
        files[revision.pk] = local_file(revision, stack)
        if runs_base(recipe.step):
            files[revision.pk] = replace(files[revision.pk], samples=examples_of(revision))
    return recipe.step.map(lambda revision: files[revision.pk])


def local_file(revision: Revision, stack: ExitStack) -> InputFile:
    """One adapter, verified; its file stays readable until `stack` closes. Raises: BlobDamaged, StoreUnavailable."""
    weights, config = (revision.file(path).blob for path in (WEIGHTS, CONFIG))
    path = stack.enter_context(local_path(weights))
    with path.open("rb") as stream:
        described = describe_file(stream, weights.size_bytes, config)
    return _input_file(revision, path, weights.sha256, *described)


def described_files(revisions: Iterable[Revision]) -> list[InputFile]:
    """Adapters as the engine's checks take them, for which a file's header and name are enough."""
    files = []
    for revision in revisions:
        weights, config = (revision.file(path).blob for path in (WEIGHTS, CONFIG))
        described = stored_layout(weights, config)
        files.append(_input_file(revision, Path(weights.sha256), weights.sha256, *described))
    return files


def _input_file(revision: Revision, path: Path, sha256: str, config: LoraConfig, layout: Layout) -> InputFile:
    return InputFile(path, layout, config, weight=None, name=revision.adapter.full_name, digest=sha256)


def check_offered(merge: Merge, recipe: Recipe) -> None:
    """Refuse a merge whose parents were taken back while it waited. Raises: NotMergeable."""
    adapters = [parent.revision.adapter_id for parent in recipe.parents]
    offered = set(visible_adapters(merge.owner).filter(pk__in=adapters).values_list("pk", flat=True))
    message = "It was yanked, or made private, while the merge waited."
    taken_back = [
        (where, revision, "withdrawn", message)
        for where, revision in first_places(recipe.places).items()
        if revision.adapter_id not in offered
    ]
    if taken_back:
        raise_not_mergeable(taken_back)


def first_places(places: Mapping[str, Revision]) -> dict[str, Revision]:
    """Each revision once, at its first place: one in several places of a tree is no problem to the engine."""
    known: dict[int, str] = {}
    for where, revision in places.items():
        known.setdefault(revision.pk, where)
    return {where: places[where] for where in known.values()}


def check_inputs(places: Mapping[str, Revision], files: list[InputFile], step: Step[Revision] | None = None) -> None:
    """Refuse what the engine cannot merge. Raises: NotMergeable (registry's, with the adapters' names).

    Args:
        places: by place in the request, each revision once.
        files: of the revisions, in the same order.
        step: the recipe over them, where nothing in it was refused before.
    """
    known = {revision.pk: file for revision, file in zip(places.values(), files, strict=True)}
    at_hand = any(base_folder(name) for name in {revision.base_model for revision in places.values()})
    try:
        check_mergeable(files, base_at_hand=at_hand)
        if step is not None:
            check_steps(step.map(lambda revision: known[revision.pk]), files, base_at_hand=at_hand)
    except NotMergeable as error:
        named = list(places.items())
        raise_not_mergeable([(*named[item.index], item.code, item.message) for item in error.inputs])
    if step is not None:
        check_samples(places, step)


def admit_merged(merge: Merge, recipe: Recipe, artefact: MergeArtefact, job: Job) -> Revision:
    """The revision, in state `checking`, of the adapter that a finished merge was to become; made once.

    Its samples are the union of the parents'. Raises: LeaseLost: another attempt has the job by now.
    """
    if merge.revision_id:
        return merge.revision
    said = Described(
        visibility=merge.output["visibility"], description=_summary(recipe), message=f"Merge by {merge.method}"
    )
    blobs = {WEIGHTS: artefact.weights, CONFIG: artefact.config}
    blobs[cards.PATH] = put_bytes(_card_of(merge, recipe, artefact))
    if merged := union([parent.revision for parent in recipe.parents]):
        blobs[SAMPLES] = put_bytes(dump_samples(merged))
    with ExitStack() as stack:
        files = {path: NewFile(stack.enter_context(local_path(blob)), blob.sha256) for path, blob in blobs.items()}
        checked = check_upload(files, said)
    with transaction.atomic():
        # Proof that the job is still ours: an attempt that slept through its lease must not add a second revision.
        renew(job)
        adapter = open_adapter(merge.owner, merge.output["name"])
        merge.revision = store_revision(merge.owner, adapter, blobs, said, checked)
        merge.save(update_fields=["revision"])
        # So that a failure or a cancellation of the job rejects the revision, too.
        Job.objects.filter(pk=job.pk).update(revision=merge.revision)
        job.revision = merge.revision
    return merge.revision


def _tellable(recipe: Recipe) -> Callable[[Revision], dict[str, Any]]:
    """What every reader of the output may know of a parent: what is public names nothing private."""

    def describe(revision: Revision) -> dict[str, Any]:
        hidden = recipe.output.visibility == "public" and revision.adapter.visibility == "private"
        return {"adapter": "a private expert", "revision": "not told"} if hidden else adapter_and_revision(revision)

    return describe


def _summary(recipe: Recipe) -> str:
    """One sentence that names the first parents."""
    describe, parents = _tellable(recipe), recipe.parents
    named = [f"{describe(parent.revision)['adapter']} ({parent.weight:.3g})" for parent in parents[:3]]
    more = f" and {len(parents) - 3} more" if len(parents) > 3 else ""
    return f"Merge by {recipe.method} of {', '.join(named)}{more}."


def _card_of(merge: Merge, recipe: Recipe, artefact: MergeArtefact) -> bytes:
    describe = _tellable(recipe)
    parents = [
        describe(parent.revision) | {"weight": parent.weight, "license": parent.revision.adapter.license}
        for parent in recipe.parents
    ]
    stated = {parent["adapter"]: parent["license"] for parent in parents}
    return cards.merge_card(
        name=merge.output.get("name") or f"merge-{merge.pk}",
        base_model=merge.base_model,
        method=merge.method,
        parents=parents,
        license_=licenses.suggest(parent["license"] for parent in parents),
        warnings=[warning["message"] for warning in licenses.warnings(stated)],
        recipe=yaml.safe_dump(Recipe(published(recipe.step), recipe.output).as_json(describe), sort_keys=False),
        report=artefact.report,
    )


def merged_files(merge: Merge) -> dict[str, Blob]:
    """The files of a finished merge by path: its adapter's, or weights, config and card where it has none."""
    if merge.revision is not None:
        return {file.path: file.blob for file in merge.revision.files.select_related("blob")}
    files = {WEIGHTS: merge.artefact.weights, CONFIG: merge.artefact.config}
    return files | {cards.PATH: put_bytes(_card_of(merge, recipe_of(merge), merge.artefact))}
