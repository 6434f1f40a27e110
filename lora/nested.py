"""Recipes within recipes: inner ones are merged exactly into scratch files, which are inputs of the outer ones."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora.check import read_pair
from lora.config import CONFIG_NAME
from lora.examples import MAX_EXAMPLES, in_turns
from lora.header import WEIGHTS_NAME
from lora.layout import read_layout
from lora.merge_report import MergeReport
from lora.mergeable import check_mergeable
from lora.merging import merge, widest_dtype
from lora.recipe import MergeInput, OutputSpec, known_rank
from lora.recipe_tree import Step

EXACT = OutputSpec("exact", dtype="float32")


def merge_recipe(
    recipe: Step[MergeInput],
    output: OutputSpec,
    folder: Path,
    *,
    metadata: dict[str, str],
    progress: Callable[[float], None] = lambda fraction: None,
    **options: Any,
) -> MergeReport:
    """Merge as `lora.merging.merge` does; an input of the recipe may be a recipe itself.

    Inner recipes keep their whole rank in float32 and are removed afterwards; equal ones are computed once. The rank
    mode "max_input" and the default dtype look at the adapters, not at what inner recipes yield.

    Args:
        options: passed to every merge.
    Returns: the report of the outermost step. Its warnings begin with those of the inner steps.
    Raises: as `merge`; NotMergeable counts the adapters of the tree from left to right, each once. An adapter that is
        in several places must be the same object there.
    """
    leaves = list({id(leaf.source): leaf.source for leaf in recipe.leaves}.values())
    check_mergeable(leaves, base_at_hand=options.get("base") is not None)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run = _Run(recipe, Path(scratch), progress, options)
        inputs = run.inputs_of(recipe)
        settled = output if recipe.is_flat else _settled(output, leaves)
        report = merge(
            recipe.method, recipe.params, inputs, settled, folder, metadata=metadata, progress=run.share(), **options
        )
    within = {"found_within": run.found} if run.found else {}
    return report | {"warnings": [*run.warnings, *report["warnings"]]} | within


class _Run:
    """One pass over the tree, innermost recipes first. Each step has an equal share of the progress."""

    def __init__(
        self, recipe: Step[MergeInput], scratch: Path, progress: Callable[[float], None], options: dict[str, Any]
    ) -> None:
        self.warnings: list[dict[str, str]] = []
        self.found: dict[str, Any] = {}
        self._scratch = scratch
        self._progress = progress
        self._options = options
        self._made: dict[str, MergeInput] = {}
        self._total = len({_key(step) for step in _inner_steps(recipe)}) + 1

    def inputs_of(self, step: Step[MergeInput]) -> list[MergeInput]:
        """Return the inputs of a step as files."""
        files = ((self._merged(i.source) if isinstance(i.source, Step) else i.source, i.weight) for i in step.inputs)
        return [replace(file, weight=weight) for file, weight in files]

    def share(self) -> Callable[[float], None]:
        """Return the progress function of the next step."""
        done = len(self._made)
        return lambda fraction: self._progress((done + fraction) / self._total)

    def _merged(self, step: Step[MergeInput]) -> MergeInput:
        key = _key(step)
        if key not in self._made:
            inputs, name = self.inputs_of(step), _name(step)
            folder = self._scratch / str(len(self._made))
            folder.mkdir()
            report = merge(
                step.method, step.params, inputs, EXACT, folder, metadata={}, progress=self.share(), **self._options
            )
            if "found" in report:
                self.found[name] = report["found"]
            self.warnings += [item | {"message": f"{name}: {item['message']}"} for item in report["warnings"]]
            samples = in_turns([item.samples for item in inputs], MAX_EXAMPLES)
            self._made[key] = replace(_input_of(folder, name, _digest(step)), samples=tuple(samples))
        return self._made[key]


def _inner_steps(step: Step[MergeInput]) -> Iterator[Step[MergeInput]]:
    for item in step.inputs:
        if isinstance(item.source, Step):
            yield item.source
            yield from _inner_steps(item.source)


def _key(step: Step[MergeInput]) -> str:
    return json.dumps(step.identity(lambda leaf: str(id(leaf))), sort_keys=True)


def _digest(step: Step[MergeInput]) -> str:
    """Return what random masks of its result are drawn from: the recipe, whose bytes may differ between machines."""
    identity = json.dumps(step.identity(lambda leaf: leaf.digest), sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def _name(step: Step[MergeInput]) -> str:
    """Return what messages call its result, such as "ties of ada/sql and bo/json"."""
    names = list(dict.fromkeys(leaf.source.name for leaf in step.leaves))
    shown = names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]
    return f"{step.method} of {' and '.join([', '.join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)}"


def _input_of(folder: Path, name: str, digest: str) -> MergeInput:
    """Return a folder that the engine wrote as an input."""
    weights = folder / WEIGHTS_NAME
    with weights.open("rb") as stream:
        config, header = read_pair((folder / CONFIG_NAME).read_bytes(), stream, weights.stat().st_size)
    return MergeInput(weights, read_layout(header, config), config, weight=None, name=name, digest=digest)


def _settled(output: OutputSpec, leaves: list[MergeInput]) -> OutputSpec:
    """Return the output with what follows from the adapters spelled out, because inner results differ from them."""
    dtype = output.dtype or widest_dtype(leaves)
    if output.rank_mode == "max_input":
        return OutputSpec("fixed", known_rank(output, leaves), dtype)
    return replace(output, dtype=dtype)
