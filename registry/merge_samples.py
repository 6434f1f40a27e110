"""The samples that a recipe's methods look at: read for the engine, and missed before a job is made for nothing."""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from lora.examples import Example, lack_of_samples
from lora.merges import MERGES
from lora.recipe_tree import Step
from lora.runtime.probe import ExampleParams
from lora.samples import as_examples
from registry.models import Blob, Revision
from registry.recipe_requests import raise_not_mergeable
from registry.samples import PATH, parse_samples, read_samples
from registry.storage import read_blob


def examples_of(revision: Revision) -> tuple[Example, ...]:
    """The samples of an adapter as the engine takes them. Raises: BlobDamaged, StoreUnavailable."""
    return as_examples(read_samples(revision))


def check_samples(places: Mapping[str, Revision], step: Step[Revision]) -> None:
    """Refuse adapters without the samples, or the outputs in them, that a method of the recipe looks at.

    Args:
        places: by place in the request, each revision once.
    Raises: NotMergeable (registry's); BlobDamaged, StoreUnavailable.
    """
    lacks = dict(_lacks(step))
    if lacks:
        raise_not_mergeable([(where, r, *lacks[r.pk]) for where, r in places.items() if r.pk in lacks])


def _lacks(step: Step[Revision]) -> Iterator[tuple[int, tuple[str, str]]]:
    """Ids of revisions, each with the code and the sentence of what it lacks. A recipe has the samples of all in it."""
    method = MERGES.get(step.method)
    looks, labelled = "base_model" in method.needs and not step.params.get("examples"), "labels" in method.needs
    for item in step.inputs:
        is_recipe = isinstance(item.source, Step)
        revisions = [leaf.source for leaf in item.source.leaves] if is_recipe else [item.source]
        if looks and not any(_has_samples(revision, labelled) for revision in revisions):
            code, text = lack_of_samples(labelled=labelled, has_examples=issubclass(method.params, ExampleParams))
            yield from ((revision.pk, (code, f"It {text}")) for revision in revisions)
        if is_recipe:
            yield from _lacks(item.source)


def _has_samples(revision: Revision, labelled: bool) -> bool:
    file = revision.file(PATH)
    return file is not None and (not labelled or _has_outputs(file.blob_id))


@lru_cache(maxsize=4096)
def _has_outputs(sha256: str) -> bool:
    """Whether any sample in a stored file, whose digest is its name, has an output."""
    return any(example.output for example in as_examples(parse_samples(read_blob(Blob(sha256=sha256)))))
