"""Weighted sum: a case by hand, and PEFT's exact combination types as references."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lora.merging import OutputSpec
from tests.lora.factories import adapter_config, write_adapter_files, write_files
from tests.lora.peft_models import peft_merge, save_adapter
from tests.lora.raw_files import read_config, read_deltas, relative_error
from tests.lora.recipes import run_merge

MODULE = {"layer": (2, 2)}


def rank_one(folder: Path, column: list[float], row: list[float], alpha: float = 1) -> Path:
    """Write an adapter with ΔW = alpha·column·row on one 2x2 module."""
    tensors = {
        "base_model.model.layer.lora_A.weight": torch.tensor([row], dtype=torch.float32),
        "base_model.model.layer.lora_B.weight": torch.tensor([column], dtype=torch.float32).T.contiguous(),
    }
    return write_files(folder, adapter_config(MODULE, rank=1, alpha=alpha), tensors)


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [
        rank_one(tmp_path / "a", [1, 0], [2, 0]),  # [[2, 0], [0, 0]]
        rank_one(tmp_path / "b", [1, 1], [0, 1], alpha=3),  # [[0, 3], [0, 3]]
    ]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, [[1, 1.5], [0, 1.5]]),
        ([1, 1], [[2, 3], [0, 3]]),
        ([0.5, -1], [[1, -3], [0, -3]]),
        ([0, 1], [[0, 3], [0, 3]]),
    ],
)
def test_sum_of_two_by_hand(
    weights: list[float] | None, expected: list[list[float]], pair: list[Path], tmp_path: Path
) -> None:
    run_merge(tmp_path / "out", pair, weights=weights, output=OutputSpec("exact"))
    assert read_deltas(tmp_path / "out")["layer"] == pytest.approx(np.array(expected), abs=1e-6)


def test_sum_that_cancels_is_zero_and_says_so(pair: list[Path], tmp_path: Path) -> None:
    twin = rank_one(tmp_path / "twin", [1, 0], [2, 0])
    report = run_merge(tmp_path / "out", [pair[0], twin], weights=[1, -1], output=OutputSpec("exact"))
    assert not read_deltas(tmp_path / "out")["layer"].any()
    assert read_config(tmp_path / "out")["r"] == 1
    assert {warning["code"] for warning in report["warnings"]} == {"near_duplicate", "zero_result"}
    assert report["per_module"][0]["norm_in"] == pytest.approx([2, 2])
    json.dumps(report, allow_nan=False)


def test_missing_module_counts_as_zero_and_is_told(pair: list[Path], tmp_path: Path) -> None:
    other = {"other": (2, 2)}
    tensors = {
        "base_model.model.other.lora_A.weight": torch.eye(2),
        "base_model.model.other.lora_B.weight": torch.eye(2),
    }
    folder = write_files(tmp_path / "c", adapter_config(other, rank=2, alpha=2), tensors)
    report = run_merge(tmp_path / "out", [pair[0], folder])
    assert read_deltas(tmp_path / "out")["other"] == pytest.approx(np.eye(2) / 2)
    assert [warning["code"] for warning in report["warnings"]] == ["missing_modules", "missing_modules"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_output_dtype_is_obeyed(dtype: str, pair: list[Path], tmp_path: Path) -> None:
    run_merge(tmp_path / "out", pair, output=OutputSpec("exact", dtype=dtype))
    assert read_deltas(tmp_path / "out")["layer"] == pytest.approx(np.array([[1, 1.5], [0, 1.5]]), abs=2e-2)
    raw = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert {"float32": b"F32", "bfloat16": b"BF16", "float16": b"F16"}[dtype] in raw


@pytest.mark.parametrize("weights", [[0.7, 0.2, 0.9], [1.5, -0.5, 0.25]])
def test_equals_peft_cat_and_svd(weights: list[float], tmp_path: Path) -> None:
    targets = ["q", "v"]
    folders = [save_adapter(tmp_path / str(r), seed=r, r=r, lora_alpha=5, target_modules=targets) for r in (2, 3, 4)]
    run_merge(tmp_path / "exact", folders, weights=weights, output=OutputSpec("exact"))
    run_merge(tmp_path / "svd", folders, weights=weights)
    for ours, options in (("exact", {"combination_type": "cat"}), ("svd", {"combination_type": "svd"})):
        merged = read_deltas(tmp_path / ours)
        theirs = peft_merge(folders, weights, **options)
        assert merged.keys() == theirs.keys()
        for path, delta in theirs.items():
            assert relative_error(merged[path], delta.double().numpy()) < 1e-5


def test_fixed_rank_is_padded_but_never_beyond_the_largest_full_rank(tmp_path: Path) -> None:
    shapes = {"small": (2, 2), "large": (6, 5)}
    folders = [write_adapter_files(tmp_path / str(i), shapes, rank=1, seed=i) for i in range(2)]
    for wanted, written in ((3, 3), (16, 5)):
        out = tmp_path / f"fixed{wanted}"
        report = run_merge(out, folders, output=OutputSpec("fixed", wanted))
        assert read_config(out)["r"] == read_config(out)["lora_alpha"] == written
        assert {row["rank"] for row in report["per_module"]} == {2}
        assert report["relative_error"] == 0
