"""What the report of a merge says, against dense ΔW and against what was written."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lora.algebra import Spectrum
from lora.layout import ModuleLayout
from lora.merge_report import Measurements, merge_report
from lora.merges import Module
from lora.merging import OutputSpec
from lora.weights import Factors
from tests.lora.factories import write_adapter_files
from tests.lora.raw_files import Array, read_deltas
from tests.lora.recipes import run_merge

FLOAT32 = OutputSpec("fixed", 3, "float32")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_adapter_files(tmp_path / f"in{seed}", rank=2 + seed, seed=seed) for seed in range(3)]


def together(folder: Path) -> Array:
    """Every entry of every ΔW in one vector."""
    return np.concatenate([delta.ravel() for _, delta in sorted(read_deltas(folder).items())])


@pytest.mark.parametrize("method", ["weighted_sum", "ties", "knots_ties"])
def test_contributions_are_projections_on_what_was_written(method: str, folders: list[Path], tmp_path: Path) -> None:
    weights = [1.5, -0.5, 1.0]
    out = tmp_path / "out"
    report = run_merge(out, folders, method, weights=weights, output=FLOAT32)
    merged = together(out)
    shares = [
        weight * (together(folder) @ merged) / (merged @ merged)
        for weight, folder in zip(weights, folders, strict=True)
    ]
    assert report["contributions"] == pytest.approx(shares, abs=1e-5)
    if method == "weighted_sum":
        assert sum(report["contributions"]) == pytest.approx(1, abs=1e-5)
    for row in report["per_module"]:
        W = read_deltas(out)[row["path"]]
        parts = [w * (read_deltas(folder)[row["path"]] * W).sum() for w, folder in zip(weights, folders, strict=True)]
        assert row["contribution"] == pytest.approx(np.array(parts) / np.square(W).sum(), abs=1e-5)


def test_layers_are_the_sums_of_their_modules(folders: list[Path], tmp_path: Path) -> None:
    report = run_merge(tmp_path / "out", folders, output=FLOAT32)
    assert [row["layer"] for row in report["by_layer"]] == ["0", "1"]
    for row in report["by_layer"]:
        modules = [module for module in report["per_module"] if f".{row['layer']}." in module["path"]]
        squares = np.array([module["norm_out"] ** 2 for module in modules])
        assert row["norm_out"] == pytest.approx(math.sqrt(squares.sum()), rel=1e-6)
        norms = np.sqrt(np.square([module["norm_in"] for module in modules]).sum(axis=0))
        assert row["norm_in"] == pytest.approx(norms, rel=1e-6)
        shares = squares @ np.array([module["contribution"] for module in modules]) / squares.sum()
        assert row["contribution"] == pytest.approx(shares, abs=1e-5)


def test_norms_before_and_after(folders: list[Path], tmp_path: Path) -> None:
    report = run_merge(tmp_path / "out", folders, output=FLOAT32)
    assert report["norms"]["in"] == pytest.approx([np.linalg.norm(together(folder)) for folder in folders])
    assert report["norms"]["out"] == pytest.approx(np.linalg.norm(together(tmp_path / "out")))


def test_energy_by_rank_is_what_files_of_these_ranks_keep(folders: list[Path], tmp_path: Path) -> None:
    rows = run_merge(tmp_path / "exact", folders, output=OutputSpec("exact", dtype="float32"))["energy"]
    kept = {row["rank"]: row["kept"] for row in rows}
    # Modules of 8x8 and 4x8: rank 8 is whole.
    assert list(kept) == [1, 2, 4, 8]
    assert kept[8] == 1
    for rank in (1, 2, 4):
        report = run_merge(tmp_path / str(rank), folders, output=OutputSpec("fixed", rank, "float32"))
        assert report["energy_kept"] == pytest.approx(kept[rank], abs=1e-6)
        assert {row["rank"]: row["kept"] for row in report["energy"]}[rank] == pytest.approx(kept[rank], abs=1e-6)


def test_a_parent_that_is_there_twice_responds_twice(folders: list[Path], tmp_path: Path) -> None:
    copy = write_adapter_files(tmp_path / "copy", rank=2, seed=0)
    inputs = [folders[0], copy]
    report = run_merge(tmp_path / "out", inputs, weights=[1, 1], output=OutputSpec("exact", dtype="float32"))
    assert report["interference"]["response"] == pytest.approx([2, 2], abs=1e-5)
    assert report["interference"]["overlap"][0][1] == report["interference"]["cosine"][0][1] == 1
    assert report["interference"]["sign_conflict"][0][1] == 0
    assert "near_duplicate" in [warning["code"] for warning in report["warnings"]]


def test_inputs_that_cancel_leave_a_report_of_zeros(folders: list[Path], tmp_path: Path) -> None:
    copy = write_adapter_files(tmp_path / "copy", rank=2, seed=0)
    report = run_merge(tmp_path / "out", [folders[0], copy], weights=[1, -1])
    assert report["contributions"] == [0, 0]
    assert report["norms"]["out"] == 0
    assert "zero_result" in [warning["code"] for warning in report["warnings"]]


def test_a_report_of_a_hundred_inputs_and_two_thousand_modules_stays_under_2_mb() -> None:
    n, count = 100, 2000
    paths = [f"model.layers.{index // 20}.block_sparse_moe.experts.{index % 20}.w1" for index in range(count)]
    generator = torch.Generator().manual_seed(0)
    layout = ModuleLayout(paths[0], "linear", "a", "b", rank=1, d_in=6, d_out=6, scaling=1.0)
    factors = torch.randn(n, 2, 6, generator=generator, dtype=torch.float64)
    deltas = tuple(Factors(A[None], 1e-3 * B[:, None], 1.0) for A, B in factors)
    module = Module(layout, tuple(range(n)), deltas, (1 / n,) * n, ("",) * n)
    A, B = torch.randn(2, 6, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    merged = Spectrum(A, B, torch.tensor([0.1234567, 0.0123456], dtype=torch.float64), 0.02)
    measured = Measurements(n)
    measured.add(module, merged)
    measured.modules = [replace(measured.modules[0], layout=replace(layout, path=path)) for path in paths]
    report = merge_report([], measured, [(merged.sigma, merged.energy)] * count, 2)
    assert [row["path"] for row in report["per_module"]] == paths
    assert [row["norm_in"] + row["contribution"] for row in report["per_module"]] == [[]] * count
    assert len(report["by_layer"]) == 100
    assert all(len(row["norm_in"]) == len(row["contribution"]) == n for row in report["by_layer"])
    assert len(json.dumps(report)) < 2_000_000
