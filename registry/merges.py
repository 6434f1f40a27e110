"""Merges: ask for one, and read what came of it."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction

from lora.config import LoraConfig, parse_config
from lora.errors import NotMergeable
from lora.header import read_header
from lora.layout import Layout, read_layout
from lora.merging import MergeInput as WeightedFile
from lora.merging import check_mergeable
from registry import cards
from registry.adapters import open_adapter, store_revision
from registry.intake import CONFIG, WEIGHTS, Described, NewFile, check_upload
from registry.jobs import enqueue, renew
from registry.models import Blob, Job, Merge, MergeArtefact, MergeInput, Revision
from registry.recipe_requests import raise_not_mergeable
from registry.recipes import Output, Parent, Recipe
from registry.samples import PATH as SAMPLES
from registry.samples import dump_samples, union
from registry.storage import local_path, open_blob, put_bytes, read_blob

KEPT_LAYOUTS = 128


def request_merge(user: AbstractBaseUser, recipe: Recipe) -> tuple[Merge, Job]:
    """The merge of a recipe and its job; the ones there are if the caller asked for the same before.

    A merge whose last job failed or was cancelled gets a new job. Raises: NotMergeable (registry's).
    """
    parents = dict(enumerate(recipe.parents))
    check_inputs(parents, described_files(parents))
    with transaction.atomic():
        merge, created = Merge.objects.get_or_create(
            owner_id=user.pk,
            request_hash=recipe.request_hash,
            defaults={
                "method": recipe.method,
                "params": recipe.params,
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


def weighted_files(recipe: Recipe, stack: ExitStack) -> list[WeightedFile]:
    """The parents as the engine takes them; their files stay readable until `stack` closes. Raises: BlobDamaged."""
    files = []
    for parent in recipe.parents:
        weights, config = (parent.revision.file(path).blob for path in (WEIGHTS, CONFIG))
        path = stack.enter_context(local_path(weights))
        with path.open("rb") as stream:
            described = _describe(stream, weights.size_bytes, read_blob(config))
        files.append(_weighted_file(parent, path, weights.sha256, *described))
    return files


def described_files(parents: Mapping[int, Parent]) -> list[WeightedFile]:
    """The parents as the engine's checks take them, for which a file's header and name are enough."""
    files = []
    for parent in parents.values():
        weights, config = (parent.revision.file(path).blob for path in (WEIGHTS, CONFIG))
        described = _stored(weights.sha256, weights.size_bytes, config.sha256)
        files.append(_weighted_file(parent, Path(weights.sha256), weights.sha256, *described))
    return files


def _weighted_file(parent: Parent, path: Path, sha256: str, config: LoraConfig, layout: Layout) -> WeightedFile:
    return WeightedFile(path, layout, config, weight=parent.weight, name=parent.name, digest=sha256)


def _describe(weights: BinaryIO, size_bytes: int, raw_config: bytes) -> tuple[LoraConfig, Layout]:
    config = parse_config(raw_config)
    return config, read_layout(read_header(weights, size_bytes), config)


# Kept, because a form asks after every key; the worker reads the verified file again before it merges.
@lru_cache(maxsize=KEPT_LAYOUTS)
def _stored(weights: str, size_bytes: int, config: str) -> tuple[LoraConfig, Layout]:
    raw_config = read_blob(Blob(sha256=config))
    with open_blob(Blob(sha256=weights)) as stream:
        return _describe(stream, size_bytes, raw_config)


def check_inputs(parents: Mapping[int, Parent], files: list[WeightedFile]) -> None:
    """Refuse what the engine cannot merge. Raises: NotMergeable (registry's, with the adapters' names).

    Args:
        parents: by position in the request.
        files: of the parents, in the same order.
    """
    positions = list(parents)
    try:
        check_mergeable(files)
    except NotMergeable as error:
        found = [(positions[item.index], item.code, item.message) for item in error.inputs]
        raise_not_mergeable([(index, parents[index].revision, code, message) for index, code, message in found])


def recipe_of(merge: Merge) -> Recipe:
    """The recipe that a stored merge was asked for with."""
    inputs = merge.inputs.select_related("revision__adapter").prefetch_related("revision__files__blob")
    return Recipe(
        merge.method,
        [Parent(item.revision, item.weight) for item in inputs],
        merge.params,
        Output.from_json(merge.output),
    )


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


def _tellable_inputs(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipe's inputs as every reader of the output may know them: what is public names nothing private."""
    inputs = []
    for parent, stated in zip(recipe.parents, recipe.as_json()["inputs"], strict=True):
        hidden = recipe.output.visibility == "public" and parent.revision.adapter.visibility == "private"
        inputs.append(stated | {"adapter": "a private expert", "revision": "not told"} if hidden else stated)
    return inputs


def _summary(recipe: Recipe) -> str:
    """One sentence that names the first parents."""
    inputs = _tellable_inputs(recipe)
    named = [f"{item['adapter']} ({item['weight']:.3g})" for item in inputs[:3]]
    more = f" and {len(inputs) - 3} more" if len(inputs) > 3 else ""
    return f"Merge by {recipe.method} of {', '.join(named)}{more}."


def _card_of(merge: Merge, recipe: Recipe, artefact: MergeArtefact) -> bytes:
    inputs = _tellable_inputs(recipe)
    licenses = [parent.revision.adapter.license for parent in recipe.parents]
    return cards.merge_card(
        name=merge.output.get("name") or f"merge-{merge.pk}",
        base_model=merge.base_model,
        method=merge.method,
        parents=[item | {"license": stated} for item, stated in zip(inputs, licenses, strict=True)],
        recipe=yaml.safe_dump(recipe.as_json() | {"inputs": inputs}, sort_keys=False),
        report=artefact.report,
    )


def merged_files(merge: Merge) -> dict[str, Blob]:
    """The files of a finished merge by path: its adapter's, or weights, config and card where it has none."""
    if merge.revision is not None:
        return {file.path: file.blob for file in merge.revision.files.select_related("blob")}
    files = {WEIGHTS: merge.artefact.weights, CONFIG: merge.artefact.config}
    return files | {cards.PATH: put_bytes(_card_of(merge, recipe_of(merge), merge.artefact))}
