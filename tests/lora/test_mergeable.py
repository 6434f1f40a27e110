"""What is refused before a merge starts, from headers and configs alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora.errors import InvalidParams, LoraError, NotMergeable
from lora.merging import MergeInput, OutputSpec, check_mergeable
from tests.lora.factories import MODULES, adapter_config, factors, write_adapter_files, write_files
from tests.lora.recipes import merge_input, run_merge

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def plain(tmp_path: Path) -> MergeInput:
    return merge_input(write_adapter_files(tmp_path / "plain"))


@pytest.fixture
def other(tmp_path: Path) -> Callable[..., MergeInput]:
    """Return a maker of a second adapter with extra tensors and config entries."""

    def make(extra: dict[str, torch.Tensor] | None = None, **config: Any) -> MergeInput:
        tensors = factors(MODULES, seed=1) | (extra or {})
        return merge_input(write_files(tmp_path / "other", adapter_config(MODULES) | config, tensors))

    return make


def refusal(*inputs: MergeInput) -> list[tuple[int, str]]:
    with pytest.raises(NotMergeable) as caught:
        check_mergeable(inputs)
    assert all(problem.message.endswith(".") for problem in caught.value.inputs)
    return [(problem.index, problem.code) for problem in caught.value.inputs]


def test_plain_adapters_are_mergeable(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    check_mergeable([plain, other()])


def test_no_input_is_refused() -> None:
    with pytest.raises(LoraError, match="at least one"):
        check_mergeable([])


def test_same_adapter_twice(plain: MergeInput) -> None:
    assert refusal(plain, replace(plain, weight=0.5)) == [(1, "duplicate_input")]
    check_mergeable([plain, replace(plain, name="bo/copy")])


def test_dora(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    magnitudes = {
        f"base_model.model.{path}.lora_magnitude_vector": torch.ones(d_out) for path, (d_out, _) in MODULES.items()
    }
    assert refusal(plain, other(magnitudes, use_dora=True)) == [(1, "dora")]


def test_lora_bias(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    biases = {f"base_model.model.{path}.lora_B.bias": torch.ones(d_out) for path, (d_out, _) in MODULES.items()}
    assert refusal(other(biases, lora_bias=True), plain) == [(0, "lora_bias")]


def test_trained_biases_of_the_base(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    assert refusal(plain, other({f"{MODULE}.bias": torch.ones(8)}, bias="lora_only")) == [(1, "trained_bias")]
    head = {"base_model.model.score.bias": torch.ones(2)}
    check_mergeable([plain, other(head, bias="all", modules_to_save=["score"])])


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_16", "olora", "corda", "lora_ga", "loftq"])
def test_adapters_of_a_modified_base(plain: MergeInput, init: str) -> None:
    modified = replace(plain, name="bo/x", config=replace(plain.config, init_lora_weights=init))
    assert refusal(plain, modified) == [(1, "modified_base")]


def test_harmless_initialisations(plain: MergeInput) -> None:
    for init in (True, False, "gaussian", "eva", "orthogonal"):
        check_mergeable([replace(plain, config=replace(plain.config, init_lora_weights=init))])


def test_shapes_that_differ_name_both(plain: MergeInput, tmp_path: Path) -> None:
    shapes = MODULES | {"model.layers.0.self_attn.q_proj": (8, 10)}
    item = merge_input(write_adapter_files(tmp_path / "wide", shapes))
    assert refusal(plain, item) == [(1, "different_shapes")]
    with pytest.raises(NotMergeable, match="linear 8x10 in ada/wide and linear 8x8 in ada/plain"):
        check_mergeable([plain, item])


def test_fan_in_fan_out_that_differs(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    assert refusal(plain, other(fan_in_fan_out=True)) == [(1, "different_fan_in_fan_out")]


def test_trained_vocabulary(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    saved = {"base_model.model.model.embed_tokens.weight": torch.ones(11, 8)}
    assert refusal(plain, other(saved, modules_to_save=["embed_tokens"])) == [(1, "trained_vocabulary")]


def test_heads_are_left_out_with_a_warning_or_refused_where_they_differ(
    plain: MergeInput, other: Callable[..., MergeInput], tmp_path: Path
) -> None:
    def with_head(name: str, labels: int) -> Path:
        head = {"base_model.model.score.weight": torch.ones(labels, 8)}
        config = adapter_config(MODULES) | {"modules_to_save": ["score"]}
        return write_files(tmp_path / name, config, factors(MODULES, seed=len(name)) | head)

    two, also_two, three = with_head("two", 2), with_head("also_two", 2), with_head("three", 3)
    assert refusal(merge_input(two), plain, merge_input(three)) == [(2, "different_heads")]
    report = run_merge(tmp_path / "out", [two, also_two])
    assert [warning["code"] for warning in report["warnings"]] == ["extra_head", "extra_head"]
    assert "score.weight" in report["warnings"][0]["message"]
    assert merge_input(tmp_path / "out").layout.extra == {}


def test_every_problem_is_reported_at_once(plain: MergeInput) -> None:
    dora = replace(plain, name="bo/x", config=replace(plain.config, use_dora=True, fan_in_fan_out=True))
    assert refusal(plain, dora, plain) == [
        (1, "dora"),
        (1, "different_fan_in_fan_out"),
        (2, "duplicate_input"),
        (2, "different_fan_in_fan_out"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fixed",), "rank.value"),
        (("fixed", 0), "from 1 to 4096"),
        (("fixed", 10**9), "from 1 to 4096"),
        (("fixed", 2.5), "whole number"),
        (("fixed", True), "whole number"),
        (("energy", 0), "above 0"),
        (("energy", 1.5), "at most 1"),
        (("energy", float("nan")), "above 0"),
        (("exact", 3), "no meaning"),
        (("max_input", 3), "no meaning"),
        (("best",), "rank.mode"),
        (("exact", None, "float64"), "dtype"),
    ],
)
def test_output_out_of_range_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InvalidParams, match=message):
        OutputSpec(*arguments)
