"""PEFT's add_weighted_adapter on plain LoRA, of the same files, at the same rank, with the same random masks.

Tolerance: 1e-4 relative, module by module. PEFT decomposes in float32 what it has summed in float32.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from lora.masks import uniform
from lora.merging import OutputSpec
from tests.lora.peft_models import peft_merge, save_adapter
from tests.lora.raw_files import read_deltas, relative_error
from tests.lora.recipes import merge_input, run_merge

TOLERANCE = 1e-4
RANK = OutputSpec("fixed", 5)
CASES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    # PEFT's combination type, our method, our parameters, PEFT's options
    ("svd", "svd", {}, {}),
    ("svd", "weighted_sum", {}, {}),
    ("magnitude_prune_svd", "magnitude_prune", {"density": 0.4}, {"density": 0.4}),
    ("ties_svd", "ties", {"density": 0.4, "semantics": "peft"}, {"density": 0.4}),
    ("dare_linear_svd", "dare", {"density": 0.4}, {"density": 0.4}),
    ("dare_ties_svd", "dare_ties", {"density": 0.4, "semantics": "peft"}, {"density": 0.4}),
]
WEIGHTS = [[1.0, 1.0], [1.4, -0.6]]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [save_adapter(tmp_path / str(i), i, r=4, lora_alpha=6, target_modules=["q", "v"]) for i in range(2)]


def share_masks(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PEFT draw our masks: it asks for those of a module's adapters in turn, module by module."""
    modules = read_deltas(folders[0])
    digests = [merge_input(folder).digest for folder in folders]
    wanted = ((path, digest) for path in modules for digest in digests)

    def draw(probabilities: torch.Tensor) -> torch.Tensor:
        path, digest = next(wanted)
        rows, width = probabilities.shape
        assert modules[path].shape == (rows, width)
        return (uniform(0, digest, path, slice(0, rows), width) < probabilities).to(probabilities.dtype)

    monkeypatch.setattr(torch, "bernoulli", draw)


@pytest.mark.parametrize("weights", WEIGHTS, ids=["equal", "mixed"])
@pytest.mark.parametrize(("theirs", "ours", "params", "options"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_truncated_merges_are_those_of_peft(
    theirs: str,
    ours: str,
    params: dict[str, Any],
    options: dict[str, Any],
    weights: list[float],
    folders: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    share_masks(folders, monkeypatch)
    run_merge(tmp_path / "out", folders, ours, params, weights, RANK)
    merged = read_deltas(tmp_path / "out")
    expected = peft_merge(folders, weights, combination_type=theirs, svd_rank=RANK.rank_value, **options)
    assert merged.keys() == expected.keys()
    for path, delta in expected.items():
        assert relative_error(merged[path], delta.double().numpy()) < TOLERANCE


@pytest.mark.parametrize("weights", WEIGHTS, ids=["equal", "mixed"])
def test_cat_is_that_of_peft(weights: list[float], folders: list[Path], tmp_path: Path) -> None:
    run_merge(tmp_path / "out", folders, "cat", weights=weights, output=OutputSpec("exact"))
    for path, delta in peft_merge(folders, weights, combination_type="cat").items():
        assert relative_error(read_deltas(tmp_path / "out")[path], delta.double().numpy()) < TOLERANCE
