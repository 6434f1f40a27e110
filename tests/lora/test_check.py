"""The verdict: what binds, what is warned of, and what only the values tell."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from lora import values
from lora.check import ValueReport, Verdict, check_files, check_values
from lora.config import CONFIG_NAME, parse_config
from lora.errors import InvalidAdapter, Problem
from lora.folder import check_folder, find_adapter
from lora.header import WEIGHTS_NAME, read_header
from tests.lora.factories import MODULES, adapter_config, factors, write_adapter_files, write_files

STRANGERS = Path(__file__).parents[1] / "data" / "strangers"
P = "base_model.model."
BASE = MODULES | {"lm_head": (16, 8), "model.embed_tokens": (16, 8)}


def check(folder: Path, base: dict[str, tuple[int, int]] | None = None) -> Verdict:
    path = folder / WEIGHTS_NAME
    with open(path, "rb") as stream:
        header = read_header(stream, path.stat().st_size)
    return check_files(parse_config((folder / CONFIG_NAME).read_bytes()), header, path.stat().st_size, base)


def refused(folder: Path, base: dict[str, tuple[int, int]] | None = None) -> list[Problem]:
    with pytest.raises(InvalidAdapter) as refusal:
        check(folder, base)
    return refusal.value.problems


def read_values(folder: Path) -> ValueReport:
    path = folder / WEIGHTS_NAME
    with open(path, "rb") as stream:
        header = read_header(stream, path.stat().st_size)
    return check_values(path, header, check(folder).layout)


def warnings(verdict: Verdict) -> dict[str, str]:
    return {warning["code"]: warning["message"] for warning in verdict.warnings}


def prefixed(modules: dict[str, tuple[int, int]], prefix: str) -> dict[str, tuple[int, int]]:
    return {prefix + path: shape for path, shape in modules.items()}


def test_facts_of_a_good_adapter(tmp_path: Path) -> None:
    verdict = check(write_adapter_files(tmp_path, dtype=torch.bfloat16), BASE)
    assert verdict.warnings == []
    modules = verdict.facts.pop("modules")
    assert verdict.facts == {
        "peft_type": "LORA",
        "rank": 4,
        "alpha": 8.0,
        "scaling": 2.0,
        "dtype": "bfloat16",
        "size_bytes": (tmp_path / WEIGHTS_NAME).stat().st_size,
        "parameters": 2 * 4 * (8 + 8) + 2 * 4 * (8 + 4),
        "modules_bound": 4,
        "modules_in_base": 4,
        "ignored": [],
    }
    assert [module["path"] for module in modules] == sorted(MODULES)
    assert modules[1] == {
        "path": "model.layers.0.self_attn.v_proj", "rank": 4, "d_in": 8, "d_out": 4, "scaling": 2.0,
    }  # fmt: skip


def test_mixed_half_precisions_count_as_the_type_that_holds_both(tmp_path: Path) -> None:
    tensors = factors(MODULES)
    for dtypes, name in [
        ((torch.float16, torch.bfloat16), "float32"),
        ((torch.float16, torch.float32), "float32"),
        ((torch.float16, torch.float64), "float64"),
    ]:
        mixed = {key: tensor.to(dtypes["lora_A" in key]) for key, tensor in tensors.items()}
        write_files(tmp_path, adapter_config(MODULES), mixed)
        assert check(tmp_path).facts["dtype"] == name


def test_an_unknown_base_is_a_warning_that_names_it(tmp_path: Path) -> None:
    verdict = check(write_adapter_files(tmp_path))
    assert verdict.facts["modules_in_base"] is None
    assert "acme/tiny-base" in warnings(verdict)["base_unknown"]
    local = check(write_adapter_files(tmp_path, config_overrides={"base_model_name_or_path": "/home/x/llama"}))
    assert "folder" in warnings(local)["base_unknown"]
    assert "/home/x" not in warnings(local)["base_unknown"]
    assert local.facts["ignored"] == ["base_model_name_or_path"]


@pytest.mark.parametrize(("ours", "theirs"), [("", "model."), ("transformer.", ""), ("", "")])
def test_one_wrapper_more_or_less_still_binds(tmp_path: Path, ours: str, theirs: str) -> None:
    modules = {"h.0.attn.q": (8, 8), "h.1.attn.q": (8, 8)}
    write_adapter_files(tmp_path, prefixed(modules, ours))
    verdict = check(tmp_path, prefixed(modules, theirs) | {"other": (1, 1)})
    assert verdict.facts["modules_bound"] == 2
    assert list(verdict.layout.modules) == list(prefixed(modules, ours))


def test_two_wrappers_do_not_bind_and_the_difference_is_told(tmp_path: Path) -> None:
    (problem,) = refused(write_adapter_files(tmp_path), prefixed(BASE, "vlm.language_model."))
    assert problem.code == "no_module_binds"
    assert "vlm.language_model.model.layers.0.self_attn.q_proj" in problem.message


def test_an_adapter_of_another_family_does_not_bind(tmp_path: Path) -> None:
    (problem,) = refused(write_adapter_files(tmp_path), {"transformer.h.0.attn.c_attn": (24, 8)})
    assert problem.code == "no_module_binds"
    assert [problem.code for problem in refused(tmp_path, {})] == ["no_module_binds"]


@pytest.mark.parametrize("path", ["model.layers.99.self_attn.q_proj", "model.layers.0.self_atn.q_proj"])
def test_a_module_that_the_base_lacks_is_refused(tmp_path: Path, path: str) -> None:
    (problem,) = refused(write_adapter_files(tmp_path, MODULES | {path: (8, 8)}), BASE)
    assert problem.code == "module_not_in_base"
    assert path in problem.message


def test_many_missing_modules_are_counted(tmp_path: Path) -> None:
    extra = {f"model.layers.{layer}.self_attn.q_proj": (8, 8) for layer in range(10, 30)}
    (problem,) = refused(write_adapter_files(tmp_path, MODULES | extra), BASE)
    assert "and 15 more" in problem.message


def test_a_shape_that_differs_is_refused_with_both(tmp_path: Path) -> None:
    path = "model.layers.0.self_attn.q_proj"
    (problem,) = refused(write_adapter_files(tmp_path), BASE | {path: (16, 8)})
    assert (problem.code, problem.where) == ("shape_mismatch", path)
    assert "8 x 8" in problem.message
    assert "16 x 8" in problem.message


def test_an_embedding_binds_and_a_resized_vocabulary_is_told(tmp_path: Path) -> None:
    tensors = {
        f"{P}model.embed_tokens.lora_embedding_A": torch.ones(4, 16),
        f"{P}model.embed_tokens.lora_embedding_B": torch.ones(8, 4),
    }
    write_files(tmp_path, adapter_config({"embed_tokens": (8, 16)}), tensors)
    assert check(tmp_path, BASE).facts["modules_bound"] == 1
    (problem,) = refused(tmp_path, BASE | {"model.embed_tokens": (32, 8)})
    assert "vocabulary" in problem.message


@pytest.mark.parametrize(
    ("targets", "codes"),
    [
        (["q_proj", "v_proj"], []),
        (sorted(MODULES), []),
        ("all-linear", []),
        (None, []),
        (r".*\.self_attn\.(q|v)_proj", []),
        (r"^(?!.*vision).*nothing.*", []),  # lookaround is not evaluated
        (["q_proj", "v_proj", "k_proj"], ["targets_without_tensors"]),
    ],
)
def test_targets_are_compared_with_the_tensors(tmp_path: Path, targets: Any, codes: list[str]) -> None:
    write_adapter_files(tmp_path, config_overrides={"target_modules": targets})
    assert list(warnings(check(tmp_path, BASE))) == codes


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": ["c_attn"]},
        {"target_modules": r".*\.q_proj"},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
    ],
)
def test_tensors_that_the_config_does_not_target_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    (problem,) = refused(write_adapter_files(tmp_path, config_overrides=config))
    assert problem.code == "module_not_targeted"
    assert "v_proj" in problem.message


def test_whole_weights_are_warned_of_and_undeclared_ones_named(tmp_path: Path) -> None:
    heads = {f"{P}score.weight": torch.ones(2, 8), f"{P}model.norm.weight": torch.ones(8)}
    write_files(tmp_path, adapter_config(MODULES) | {"modules_to_save": ["score"]}, factors(MODULES) | heads)
    message = warnings(check(tmp_path, BASE))["extra_head"]
    assert "model.norm, score" in message
    assert "does not name model.norm." in message


@pytest.mark.parametrize(("biased", "missing"), [(0, 4), (1, 3), (4, 0)])
def test_declared_biases_that_are_not_there_are_warned_of(tmp_path: Path, biased: int, missing: int) -> None:
    biases = {f"{P}{path}.bias": torch.ones(MODULES[path][0]) for path in sorted(MODULES)[:biased]}
    write_files(tmp_path, adapter_config(MODULES) | {"bias": "lora_only"}, factors(MODULES) | biases)
    found = warnings(check(tmp_path, BASE))
    assert ("bias_missing" in found) is (missing > 0)
    assert "extra_head" not in found
    assert sum(path in found.get("bias_missing", "") for path in MODULES) == missing


def test_names_that_peft_skips_are_warned_of(tmp_path: Path) -> None:
    tensors = {name.replace(".weight", ".default.weight"): value for name, value in factors(MODULES).items()}
    write_files(tmp_path, adapter_config(MODULES), tensors)
    assert list(warnings(check(tmp_path, BASE))) == ["unusual_names"]


def test_the_digest_is_of_the_tensors_and_not_of_metadata_or_order(tmp_path: Path) -> None:
    tensors = factors(MODULES)
    digest = read_values(write_files(tmp_path, adapter_config(MODULES), tensors)).tensor_digest
    expected = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].numpy()
        expected.update(f"{name} F32 {list(array.shape)}\n".encode() + array.tobytes())
    assert digest == expected.hexdigest()
    save_file(tensors, tmp_path / WEIGHTS_NAME, metadata={"card": "another"})
    assert read_values(tmp_path).tensor_digest == digest
    save_file({name: tensor + 1e-6 for name, tensor in tensors.items()}, tmp_path / WEIGHTS_NAME)
    assert read_values(tmp_path).tensor_digest != digest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["model.layers.1.self_attn.v_proj.lora_A.weight", "score.weight"])
def test_a_value_that_is_not_finite_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, value: float, name: str
) -> None:
    monkeypatch.setattr(values, "CHUNK_BYTES", 16)
    tensors = {key: tensor.to(dtype) for key, tensor in factors(MODULES).items()}
    tensors[f"{P}score.weight"] = torch.full((2, 8), torch.finfo(dtype).max, dtype=dtype)
    write_files(tmp_path, adapter_config(MODULES), tensors)
    assert read_values(tmp_path).warnings == []
    tensors[P + name].view(-1)[-1] = value
    write_files(tmp_path, adapter_config(MODULES), tensors)
    with pytest.raises(InvalidAdapter) as refusal:
        read_values(tmp_path)
    (problem,) = refusal.value.problems
    assert (problem.code, problem.where) == ("not_finite", f"{WEIGHTS_NAME}: {P}{name}")


def test_integers_beside_the_factors_are_hashed_and_not_judged(tmp_path: Path) -> None:
    tensors = factors(MODULES) | {f"{P}position_ids": torch.full((4,), -1, dtype=torch.int64)}
    assert read_values(write_files(tmp_path, adapter_config(MODULES), tensors)).warnings == []


def test_factors_that_are_zero(tmp_path: Path) -> None:
    tensors = factors(MODULES, dtype=torch.bfloat16)
    zero = [name for name in sorted(tensors) if "lora_B" in name]
    tensors[zero[0]] = -torch.zeros_like(tensors[zero[0]])
    write_files(tmp_path, adapter_config(MODULES), tensors)
    (found,) = read_values(tmp_path).warnings
    assert found["code"] == "partly_zero"
    assert "1 of 4 modules" in found["message"]
    for name in zero:
        tensors[name] = torch.zeros_like(tensors[name])
    write_files(tmp_path, adapter_config(MODULES), tensors)
    with pytest.raises(InvalidAdapter) as refusal:
        read_values(tmp_path)
    assert [problem.code for problem in refusal.value.problems] == ["all_zero"]


def test_a_file_that_shrank_since_its_header_was_read_is_refused(tmp_path: Path) -> None:
    path = write_adapter_files(tmp_path) / WEIGHTS_NAME
    with open(path, "rb") as stream:
        header = read_header(stream, path.stat().st_size)
    layout = check(tmp_path).layout
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InvalidAdapter) as refusal:
        check_values(path, header, layout)
    assert [problem.code for problem in refusal.value.problems] == ["truncated"]


@pytest.mark.parametrize(
    ("name", "modules", "codes"),
    [
        ("gpt2-classification-a", 36, ["base_unknown", "extra_head", "no_samples", "template_card"]),
        ("gpt2-classification-b", 36, ["base_unknown", "extra_head", "no_samples", "template_card"]),
        (
            "gpt2-classification-b-best",
            36,
            ["base_unknown", "targets_without_tensors", "extra_head", "no_samples", "template_card"],
        ),
        ("roberta-agnews-500", 36, ["base_unknown", "extra_head", "no_samples", "template_card"]),
        ("roberta-agnews-1200", 36, ["base_unknown", "extra_head", "no_samples", "template_card"]),
        ("roberta-portuguese", 24, ["base_unknown", "extra_head", "no_samples", "template_card"]),
    ],
)
def test_adapters_made_by_strangers_are_usable(name: str, modules: int, codes: list[str]) -> None:
    verdict = check_folder(find_adapter(STRANGERS / name))
    assert list(warnings(verdict)) == codes
    assert verdict.facts["modules_bound"] == modules
    shapes = {m["path"]: (m["d_out"], m["d_in"]) for m in verdict.facts["modules"]}
    stripped = {path.partition(".")[2]: shape for path, shape in shapes.items()}
    assert check_folder(find_adapter(STRANGERS / name), stripped).facts["modules_in_base"] == modules


def test_checkpoints_of_one_run_differ_in_their_tensors() -> None:
    found = [check_folder(find_adapter(STRANGERS / f"roberta-agnews-{step}")) for step in (500, 1200)]
    assert found[0].facts["tensor_digest"] != found[1].facts["tensor_digest"]
    tensors = load_file(STRANGERS / "roberta-agnews-500" / WEIGHTS_NAME)
    count = sum(np.prod(tensor.shape) for name, tensor in tensors.items() if ".lora_" in name)
    assert found[0].facts["parameters"] == count


GOOD = save(factors(MODULES), metadata={"format": "pt"})
CONFIG = parse_config(json.dumps(adapter_config(MODULES)).encode())


@settings(max_examples=200, deadline=10_000)
@given(at=st.integers(8, 8 + int.from_bytes(GOOD[:8], "little")), flips=st.lists(st.integers(1, 255), max_size=4))
def test_a_damaged_header_is_refused_or_judged_and_nothing_else(at: int, flips: list[int]) -> None:
    damaged = bytearray(GOOD)
    for offset, flip in enumerate(flips):
        damaged[at + offset] ^= flip
    try:
        header = read_header(io.BytesIO(damaged), len(damaged))
        check_files(CONFIG, header, len(damaged), BASE)
    except InvalidAdapter:
        return
