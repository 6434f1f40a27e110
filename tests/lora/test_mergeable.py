"""What is refused before a merge starts, from headers and configs alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora.errors import InvalidParams, LoraError, NotMergeable
from lora.mergeable import check_fit
from lora.merging import MergeInput, OutputSpec, check_mergeable
from tests.lora.factories import MODULES, adapter_config, factors, write_adapter_files, write_files
from tests.lora.recipes import merge_input, run_merge

PATH = "model.layers.0.self_attn.q_proj"
MODULE = f"base_model.model.{PATH}"


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


def unfit(method: str, *inputs: MergeInput) -> list[tuple[int, str]]:
    """Return the refusals by a method, with weights that sum to 1."""
    summed = [1 / len(inputs)] * len(inputs) if method == "weighted_sum" else None
    with pytest.raises(NotMergeable) as caught:
        check_fit(method, inputs, summed, base_at_hand=False)
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
    item = other(magnitudes, use_dora=True)
    assert refusal(plain, item) == [(1, "dora")]
    check_mergeable([plain, item], base_at_hand=True)


def test_lora_bias(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    biases = {f"base_model.model.{path}.lora_B.bias": torch.ones(d_out) for path, (d_out, _) in MODULES.items()}
    item = other(biases, lora_bias=True)
    assert unfit("ties", item, plain) == [(0, "lora_bias")]
    check_fit("weighted_sum", [item, plain], [0.5, 2.0], base_at_hand=False)
    beside_embedding = replace(item.layout.modules[PATH], kind="embedding")
    layout = replace(item.layout, modules=item.layout.modules | {PATH: beside_embedding})
    assert (0, "lora_bias") in refusal(replace(item, layout=layout))


def test_trained_biases_of_the_base(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    item = other({f"{MODULE}.base_layer.bias": torch.ones(8)}, bias="lora_only")
    assert unfit("ties", plain, item) == [(1, "trained_bias")]
    assert unfit("weighted_sum", plain, item) == [(1, "trained_bias")]  # the other one has the base's, unknown here
    check_fit("weighted_sum", [plain, item], [0.5, 1.0], base_at_hand=False)
    check_fit("weighted_sum", [plain, item], [0.5, 0.5], base_at_hand=True)
    head = {"base_model.model.score.bias": torch.ones(2)}
    check_fit("ties", [plain, other(head, bias="all", modules_to_save=["score"])], None, base_at_hand=False)


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
    item = other(saved, modules_to_save=["embed_tokens"])
    assert refusal(plain, item) == [(1, "trained_vocabulary")]
    check_mergeable([item, replace(item, name="bo/same_vocabulary")])


def test_trained_tokens(plain: MergeInput, other: Callable[..., MergeInput]) -> None:
    rows = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 8)}
    item = other(rows, trainable_token_indices=[3, 7])
    check_mergeable([plain, item])
    named = replace(item.config, trainable_token_indices={"embed_tokens": (7, 9)})
    assert refusal(plain, item, replace(item, name="bo/x", config=named)) == [(2, "trained_vocabulary")]


def test_another_revision_of_the_base(plain: MergeInput) -> None:
    def at(revision: str) -> MergeInput:
        return replace(plain, name=f"bo/{revision}", config=replace(plain.config, revision=revision))

    check_mergeable([plain, at("v1")])
    assert refusal(at("v1"), at("v2")) == [(1, "other_base_revision")]


def test_heads_are_copied_or_left_out_with_a_warning_or_refused(
    plain: MergeInput, other: Callable[..., MergeInput], tmp_path: Path
) -> None:
    def with_head(name: str, labels: int) -> Path:
        head = {"base_model.model.score.weight": torch.full((labels, 8), float(len(name)))}
        config = adapter_config(MODULES) | {"modules_to_save": ["score"]}
        return write_files(tmp_path / name, config, factors(MODULES, seed=len(name)) | head)

    two, six, also_two = (with_head(name, 2) for name in ("two", "six", "also_two"))
    three = with_head("three", 3)
    assert refusal(merge_input(two), plain, merge_input(three)) == [(2, "different_heads")]
    report = run_merge(tmp_path / "out", [two, also_two])
    assert [warning["code"] for warning in report["warnings"]] == ["extra_head"]
    assert "Left out score: ada/two, ada/also_two hold different ones" in report["warnings"][0]["message"]
    assert merge_input(tmp_path / "out").layout.extra == {}

    for i, folders in enumerate(([two, six], [plain.weights_path.parent, two])):
        report = run_merge(tmp_path / f"copied{i}", folders)
        assert {warning["code"] for warning in report["warnings"]} & {"head_copied", "extra_head"} == {"head_copied"}
        merged = merge_input(tmp_path / f"copied{i}")
        assert list(merged.layout.extra) == ["base_model.model.score.weight"]
        assert merged.config.modules_to_save == ("score",)


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
