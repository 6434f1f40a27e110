"""Names and shapes of the tensors that PEFT writes, and of those that it would skip without a word."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from lora.config import CONFIG_NAME, parse_config
from lora.errors import InvalidAdapter, Problem
from lora.header import WEIGHTS_NAME, read_header
from lora.layout import Layout, ModuleLayout, read_layout
from tests.lora.factories import MODULES, adapter_config, factors, write_files

P = "base_model.model."
Q = "model.layers.0.self_attn.q_proj"


def layout_of(folder: Path) -> Layout:
    path = folder / WEIGHTS_NAME
    with open(path, "rb") as stream:
        header = read_header(stream, path.stat().st_size)
    return read_layout(header, parse_config((folder / CONFIG_NAME).read_bytes()))


def layout(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Layout:
    return layout_of(write_files(folder, adapter_config(MODULES) | config, tensors))


def problems(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> list[Problem]:
    with pytest.raises(InvalidAdapter) as refusal:
        layout(folder, tensors, **config)
    return refusal.value.problems


def pair(path: str = Q, a: tuple[int, ...] = (4, 8), b: tuple[int, ...] = (8, 4)) -> dict[str, torch.Tensor]:
    return {f"{P}{path}.lora_A.weight": torch.ones(a), f"{P}{path}.lora_B.weight": torch.ones(b)}


def test_linear_modules_come_by_path_with_their_scaling(tmp_path: Path) -> None:
    tensors = factors(dict(reversed(MODULES.items())))
    found = layout(tmp_path, tensors, alpha_pattern={"v_proj": 2})
    assert list(found.modules) == sorted(MODULES)
    assert found.extra == {}
    assert found.modules["model.layers.1.self_attn.v_proj"] == ModuleLayout(
        path="model.layers.1.self_attn.v_proj",
        kind="linear",
        a_name=f"{P}model.layers.1.self_attn.v_proj.lora_A.weight",
        b_name=f"{P}model.layers.1.self_attn.v_proj.lora_B.weight",
        rank=4,
        d_in=8,
        d_out=4,
        scaling=0.5,
    )
    assert found.modules[Q].scaling == 2.0


class Everything(torch.nn.Module):
    """One layer of each kind that PEFT adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 5)
        self.conv1 = torch.nn.Conv1d(3, 4, 2)
        self.conv2 = torch.nn.Conv2d(3, 4, (2, 5))
        self.conv3 = torch.nn.Conv3d(3, 4, 2)
        self.table = torch.nn.Embedding(11, 7)
        self.head = torch.nn.Linear(5, 2)


def test_every_kind_that_peft_saves_is_read(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=["linear", "conv1", "conv2", "conv3", "table"],
        rank_pattern={"conv2": 3},
        modules_to_save=["head"],
    )
    peft.get_peft_model(Everything(), config).save_pretrained(tmp_path)
    found = layout_of(tmp_path)
    shapes = {path: (m.kind, m.rank, m.d_out, m.d_in, m.kernel, m.scaling) for path, m in found.modules.items()}
    assert shapes == {
        "linear": ("linear", 2, 5, 6, (), 2.0),
        "conv1": ("conv", 2, 4, 6, (2,), 2.0),
        "conv2": ("conv", 3, 4, 30, (2, 5), 4 / 3),
        "conv3": ("conv", 2, 4, 24, (2, 2, 2), 2.0),
        "table": ("embedding", 2, 7, 11, (), 2.0),
    }
    assert found.modules["table"].a_name == f"{P}table.lora_embedding_A"
    assert sorted(found.extra) == [f"{P}head.bias", f"{P}head.weight"]


def test_the_magnitudes_of_dora_are_found(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["linear", "conv2"], use_dora=True)
    peft.get_peft_model(Everything(), config).save_pretrained(tmp_path)
    for path, module in layout_of(tmp_path).modules.items():
        assert module.magnitude_name == f"{P}{path}.lora_magnitude_vector"
    written = json.loads((tmp_path / CONFIG_NAME).read_text())
    (tmp_path / CONFIG_NAME).write_text(json.dumps(written | {"use_dora": False}))
    with pytest.raises(InvalidAdapter, match="denies use_dora"):
        layout_of(tmp_path)


def test_the_biases_of_lora_layers_are_found(tmp_path: Path) -> None:
    tensors = pair() | {f"{P}{Q}.lora_B.bias": torch.ones(8)}
    assert layout(tmp_path, tensors, lora_bias=True).modules[Q].bias_name == f"{P}{Q}.lora_B.bias"
    assert [p.code for p in problems(tmp_path, tensors)] == ["bias_mismatch"]
    assert [p.code for p in problems(tmp_path, pair(), lora_bias=True)] == ["bias_mismatch"]


def test_a_missing_or_short_magnitude_is_refused(tmp_path: Path) -> None:
    assert [p.code for p in problems(tmp_path, pair(), use_dora=True)] == ["magnitude_mismatch"]
    short = pair() | {f"{P}{Q}.lora_magnitude_vector": torch.ones(7)}
    assert [p.code for p in problems(tmp_path, short, use_dora=True)] == ["magnitude_mismatch"]


def test_an_adapter_name_inside_the_tensor_names_is_read_through(tmp_path: Path) -> None:
    tensors = {name.replace(".weight", ".default.weight"): tensor for name, tensor in pair().items()}
    assert layout(tmp_path, tensors).modules[Q].a_name == f"{P}{Q}.lora_A.default.weight"


@pytest.mark.parametrize("size", [(4, 8), (4, 8, 3), (4, 8, 3, 3)])
def test_64_bit_and_half_factors_are_fine(tmp_path: Path, size: tuple[int, ...]) -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        b = (8, 4, *(1 for _ in size[2:]))
        tensors = {name: tensor.to(dtype) for name, tensor in pair(a=size, b=b).items()}
        assert layout(tmp_path, tensors).modules[Q].rank == 4


@pytest.mark.parametrize(
    ("tensors", "code", "words"),
    [
        ({f"{P}{Q}.lora_A.weight": torch.ones(4, 8)}, "missing_pair", "lora_B is missing"),
        ({f"{P}{Q}.lora_B.weight": torch.ones(8, 4)}, "missing_pair", "lora_A is missing"),
        ({f"{P}{Q}.lora_embedding_A": torch.ones(4, 8)}, "missing_pair", "lora_B is missing"),
        (pair(a=(2, 8), b=(8, 2)), "rank_mismatch", "rank is 2, and the config says 4"),
        (pair(a=(4, 8), b=(8, 3)), "pair_mismatch", "[4, 8]"),
        (pair(a=(8, 4), b=(4, 8)), "factors_swapped", "swapped"),
        (pair(a=(9, 4), b=(4, 7)), "factors_swapped", "swapped"),
        (pair(a=(4, 8, 3, 3), b=(8, 2, 1, 1)), "grouped_conv", "groups"),
        (pair(a=(4, 8, 3, 3), b=(8, 4, 3, 3)), "bad_shape", "[8, 4, 3, 3]"),
        (pair(a=(4, 8, 3, 3), b=(8, 4)), "bad_shape", "[8, 4]"),
        (pair(a=(4,), b=(8, 4)), "bad_shape", "[4]"),
        ({name: tensor.to(torch.int64) for name, tensor in pair().items()}, "bad_dtype", "I64"),
        ({name: tensor.to(torch.bool) for name, tensor in pair().items()}, "bad_dtype", "BOOL"),
        ({name: tensor.to(torch.float8_e4m3fn) for name, tensor in pair().items()}, "bad_dtype", "F8_E4M3"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "_",
)
def test_a_bad_pair_is_refused_with_its_module(
    tmp_path: Path, tensors: dict[str, torch.Tensor], code: str, words: str
) -> None:
    (problem,) = problems(tmp_path, tensors | pair("model.layers.1.self_attn.q_proj"))
    assert (problem.code, problem.where) == (code, Q)
    assert words in problem.message


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (f"{Q}.lora_A.weight", "wrong_prefix"),
        (f"model.{Q}.lora_A.weight", "wrong_prefix"),
        (f"{P}{P}{Q}.lora_A.weight", "wrong_prefix"),
        ("score.weight", "wrong_prefix"),
        (f"{P}{Q}.lora_E", "unknown_tensor"),
        (f"{P}{Q}.lora_diag.weight", "unknown_tensor"),
        (f"{P}{Q}.lora_a", "unknown_tensor"),
        (f"{P}lora_unet_q.lora_down.weight", "unknown_tensor"),
        (f"{P}lora_A.weight", "unknown_tensor"),
        (f"{P}{Q}.lora_A.a.b.weight", "unknown_tensor"),
    ],
)
def test_a_name_that_loaders_skip_is_refused(tmp_path: Path, name: str, code: str) -> None:
    (problem,) = problems(tmp_path, pair() | {name: torch.ones(4, 8)})
    assert (problem.code, problem.where) == (code, f"{WEIGHTS_NAME}: {name}")


def test_two_names_of_one_factor_are_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, pair() | {f"{P}{Q}.lora_A.default.weight": torch.ones(4, 8)})
    assert problem.code == "same_module_twice"
    assert f"{Q}.lora_A.default.weight" in problem.message


def test_a_module_cannot_be_linear_and_an_embedding(tmp_path: Path) -> None:
    both = pair() | {f"{P}{Q}.lora_embedding_A": torch.ones(4, 8), f"{P}{Q}.lora_embedding_B": torch.ones(8, 4)}
    assert [p.code for p in problems(tmp_path, both)] == ["same_module_twice"]


def test_an_eight_bit_head_is_refused(tmp_path: Path) -> None:
    head = {f"{P}score.weight": torch.ones(2, 8).to(torch.float8_e5m2)}
    assert [p.code for p in problems(tmp_path, pair() | head)] == ["bad_dtype"]


def test_a_file_of_heads_only_is_no_adapter(tmp_path: Path) -> None:
    assert [p.code for p in problems(tmp_path, {f"{P}score.weight": torch.ones(2, 8)})] == ["no_modules"]


def test_ranks_may_exceed_some_modules_but_not_all(tmp_path: Path) -> None:
    wide, narrow = pair("wide", (4, 8), (8, 4)), pair("narrow", (4, 8), (2, 4))
    assert len(layout(tmp_path, wide | narrow).modules) == 2
    assert [p.code for p in problems(tmp_path, narrow)] == ["rank_too_large"]


def test_parameters_as_targets_are_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, pair(), target_parameters=["experts.gate_up_proj"])
    assert problem.code == "unsupported"


def test_patterns_decide_the_rank_of_a_module(tmp_path: Path) -> None:
    tensors = pair() | pair("model.layers.1.mlp.up", (6, 8), (8, 6))
    found = layout(tmp_path, tensors, rank_pattern={r"layers\.\d+\.mlp\..*": 6}, use_rslora=True)
    assert found.modules["model.layers.1.mlp.up"].scaling == 8 / 6**0.5
    assert [p.code for p in problems(tmp_path, tensors)] == ["rank_mismatch"]
