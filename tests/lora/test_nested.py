"""Recipes within recipes: computed exactly, once each, and reported."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora.errors import NotMergeable
from lora.merging import MergeCancelled, MergeInput, OutputSpec
from lora.nested import merge_recipe
from lora.recipe_tree import Input, Step
from tests.lora.factories import MODULES, write_adapter_files
from tests.lora.raw_files import read_deltas, relative_error
from tests.lora.recipes import merge_input, run_merge


@pytest.fixture
def files(tmp_path: Path) -> list[MergeInput]:
    return [merge_input(write_adapter_files(tmp_path / name, rank=2, seed=seed)) for seed, name in enumerate("abcd")]


def step(inputs: Sequence[tuple[Any, float]], method: str = "weighted_sum", **params: Any) -> Step[MergeInput]:
    return Step(method, params, tuple(Input(source, weight) for source, weight in inputs))


def run(recipe: Step[MergeInput], out: Path, output: OutputSpec | None = None, **options: Any) -> dict[str, Any]:
    out.mkdir()
    return merge_recipe(recipe, output or OutputSpec("exact"), out, metadata={"recipe": "test"}, **options)


def deltas_of(file: MergeInput) -> dict[str, np.ndarray]:
    return read_deltas(file.weights_path.parent)


def test_a_negated_mean_is_subtracted_exactly(files: list[MergeInput], tmp_path: Path) -> None:
    shared = step([(file, 1 / 3) for file in files[:3]])
    run(step([(files[0], 1.0), (shared, -1.0)]), tmp_path / "out")
    a, b, c = (deltas_of(file) for file in files[:3])
    for path, delta in read_deltas(tmp_path / "out").items():
        assert relative_error(delta, a[path] - (a[path] + b[path] + c[path]) / 3) < 1e-6, path


def test_a_merge_of_merges_is_that_of_its_parts_done_one_by_one(files: list[MergeInput], tmp_path: Path) -> None:
    inner = step([(files[0], 1.0), (files[1], 1.0)], "ties", density=0.5)
    run(step([(inner, 0.5), (files[2], 2.0)]), tmp_path / "out")
    folders = [file.weights_path.parent for file in files]
    run_merge(tmp_path / "ties", folders[:2], "ties", {"density": 0.5}, output=OutputSpec("exact", dtype="float32"))
    ties, c = read_deltas(tmp_path / "ties"), deltas_of(files[2])
    for path, delta in read_deltas(tmp_path / "out").items():
        assert relative_error(delta, 0.5 * ties[path] + 2 * c[path]) < 1e-6, path
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_rank_and_dtype_follow_the_adapters_and_not_what_is_between(tmp_path: Path) -> None:
    files = [
        merge_input(write_adapter_files(tmp_path / name, rank=rank, dtype=torch.bfloat16, seed=rank))
        for name, rank in (("a", 1), ("b", 2))
    ]
    run(step([(step([(file, 1.0) for file in files]), 1.0)]), tmp_path / "out", OutputSpec())
    merged = merge_input(tmp_path / "out")
    assert merged.config.r == 2
    header = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()[:300]
    assert b'"BF16"' in header


def test_equal_inner_recipes_are_computed_once_and_all_gives_the_same_bytes(
    files: list[MergeInput], tmp_path: Path
) -> None:
    shared = step([(file, 0.5) for file in files[:2]])
    twin = step([(file, 0.5) for file in files[:2]])
    recipe = step([(files[2], 1.0), (step([(shared, 1.0), (files[3], 1.0)]), 1.0), (twin, -1.0)], "ties", density=0.5)
    seen: list[float] = []
    run(recipe, tmp_path / "x", progress=seen.append)
    run(recipe, tmp_path / "y")
    # Three steps and not four: the outer one, the shared mean, and the sum over it.
    assert len(seen) == 3 * (len(MODULES) + 1)
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert (
        len({hashlib.sha256((tmp_path / out / "adapter_model.safetensors").read_bytes()).digest() for out in "xy"}) == 1
    )


def test_what_inner_steps_warn_of_is_told_with_their_name(files: list[MergeInput], tmp_path: Path) -> None:
    fewer = dict(list(MODULES.items())[1:])
    small = merge_input(write_adapter_files(tmp_path / "small", fewer, seed=9))
    report = run(step([(step([(files[0], 1.0), (small, 1.0)]), 1.0), (files[1], 1.0)]), tmp_path / "out")
    [warning] = report["warnings"]
    assert warning["code"] == "missing_modules"
    assert warning["message"].startswith("weighted_sum of ada/a and ada/small: ada/small does not adapt 1 of the 4")


def test_adapters_anywhere_in_the_tree_must_fit_each_other(files: list[MergeInput], tmp_path: Path) -> None:
    other = merge_input(write_adapter_files(tmp_path / "wide", dict.fromkeys(MODULES, (16, 8)), seed=9))
    with pytest.raises(NotMergeable) as refusal:
        run(step([(files[0], 1.0), (step([(files[1], 1.0), (other, 1.0)]), 1.0)]), tmp_path / "out")
    assert [(item.index, item.code) for item in refusal.value.inputs] == [(2, "different_shapes")]


def test_cancelling_stops_inner_steps(files: list[MergeInput], tmp_path: Path) -> None:
    with pytest.raises(MergeCancelled):
        run(step([(step([(files[0], 1.0)]), 1.0)]), tmp_path / "out", cancelled=lambda: True)
