"""TIES: a case by hand, the dense algorithm in numpy, and PEFT's ties_svd."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lora import elementwise
from lora.merging import OutputSpec
from tests.lora.factories import MODULES, adapter_config, write_adapter_files, write_files
from tests.lora.peft_models import peft_merge, save_adapter
from tests.lora.raw_files import Array, best_of_rank, read_deltas, relative_error
from tests.lora.recipes import run_merge

EXACT = OutputSpec("exact")


def dense_adapter(folder: Path, delta: list[list[float]]) -> Path:
    """Write an adapter whose ΔW is this wide or square matrix: B = 1, A = ΔW."""
    matrix = torch.tensor(delta, dtype=torch.float32)
    rank = matrix.shape[0]
    tensors = {
        "base_model.model.layer.lora_A.weight": matrix,
        "base_model.model.layer.lora_B.weight": torch.eye(rank),
    }
    return write_files(folder, adapter_config({"layer": tuple(matrix.shape)}, rank=rank, alpha=rank), tensors)


def trim(delta: Array, threshold: float) -> Array:
    return np.where(np.abs(delta) >= threshold, delta, 0)


def threshold_of(entries: Array, density: float) -> float:
    k = max(1, int(density * entries.size))
    return float(np.sort(np.abs(entries), axis=None)[-k])


def ties_in_numpy(
    deltas: list[dict[str, Array]], weights: list[float], density: float, scale: float, scope: str
) -> dict[str, Array]:
    """Trim, elect and average as the paper does, on whole matrices; weights are folded in first."""
    total = sum(abs(weight) for weight in weights)
    scaled = [
        {path: (weight * len(weights) / total) * delta.astype(np.float32) for path, delta in item.items()}
        for item, weight in zip(deltas, weights, strict=True)
    ]
    trimmed = []
    for item in scaled:
        everywhere = threshold_of(np.concatenate([delta.ravel() for delta in item.values()]), density)
        thresholds = {
            path: everywhere if scope == "global" else threshold_of(delta, density) for path, delta in item.items()
        }
        trimmed.append({path: trim(delta, thresholds[path]) for path, delta in item.items()})
    merged = {}
    for path in {path for item in trimmed for path in item}:
        stack = np.stack([item[path] for item in trimmed if path in item])
        sign = np.sign(stack.sum(0))
        agrees = np.sign(stack) == np.where(sign == 0, 1, sign)
        merged[path] = scale * (stack * agrees).sum(0) / np.maximum(agrees.sum(0), 1)
    return merged


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    fewer = dict(list(MODULES.items())[1:])
    return [
        write_adapter_files(tmp_path / "a", rank=4, alpha=8, seed=1),
        write_adapter_files(tmp_path / "b", fewer, rank=2, alpha=3, seed=2),
        write_adapter_files(tmp_path / "c", rank=3, alpha=1, seed=3),
    ]


def test_three_steps_by_hand(tmp_path: Path) -> None:
    first = dense_adapter(tmp_path / "a", [[5, -4, 0.1], [0.2, 3, -2]])
    second = dense_adapter(tmp_path / "b", [[1, 6, 0.1], [0.3, 5, -0.2]])
    # density 0.5 keeps 5, -4, 3 of the first and 1, 6, 5 of the second; 6 outvotes -4
    run_merge(tmp_path / "out", [first, second], "ties", {"density": 0.5}, output=EXACT)
    expected = np.array([[3, 6, 0], [0, 4, 0]])
    assert read_deltas(tmp_path / "out")["layer"] == pytest.approx(expected, abs=1e-5)
    # weights 1:3 become 0.5 and 1.5 before the vote; scale halves the result
    run_merge(tmp_path / "weighted", [first, second], "ties", {"density": 0.5, "scale": 0.5}, [1, 3], output=EXACT)
    expected = 0.5 * np.array([[2, 9, 0], [0, 4.5, 0]])
    assert read_deltas(tmp_path / "weighted")["layer"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, -0.5, 0.9]])
def test_equals_the_dense_algorithm(
    scope: str, density: float, weights: list[float], folders: list[Path], tmp_path: Path
) -> None:
    params = {"density": density, "scale": 0.7, "scope": scope}
    run_merge(tmp_path / "out", folders, "ties", params, weights, EXACT)
    expected = ties_in_numpy([read_deltas(folder) for folder in folders], weights, density, 0.7, scope)
    merged = read_deltas(tmp_path / "out")
    assert merged.keys() == expected.keys()
    for path, delta in expected.items():
        assert merged[path] == pytest.approx(delta, abs=1e-5 * np.abs(delta).max())


@pytest.mark.parametrize("density", [0.2, 0.9])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.4, 0.6], [1.2, -0.8]])
def test_peft_semantics_equal_ties_svd(density: float, weights: list[float], tmp_path: Path) -> None:
    folders = [
        save_adapter(tmp_path / str(seed), seed, r=3, lora_alpha=7, target_modules=["q", "v"]) for seed in range(2)
    ]
    run_merge(tmp_path / "out", folders, "ties", {"density": density, "semantics": "peft"}, weights)
    theirs = peft_merge(folders, weights, combination_type="ties_svd", density=density)
    merged = read_deltas(tmp_path / "out")
    for path, delta in theirs.items():
        assert relative_error(merged[path], delta.double().numpy()) < 1e-4


@pytest.mark.parametrize(("semantics", "expected"), [("paper", -4.0), ("peft", 4.0)])
def test_exact_tie_takes_the_majority_sign_or_plus(semantics: str, expected: float, tmp_path: Path) -> None:
    first = dense_adapter(tmp_path / "a", [[4, -1], [-2, -3]])
    second = dense_adapter(tmp_path / "b", [[-4, -1], [-2, -3]])
    params = {"density": 1, "semantics": semantics}
    run_merge(tmp_path / "out", [first, second], "ties", params, output=EXACT)
    assert read_deltas(tmp_path / "out")["layer"][0, 0] == pytest.approx(expected, abs=1e-5)


def test_one_input_is_scaled_and_not_trimmed(folders: list[Path], tmp_path: Path) -> None:
    run_merge(tmp_path / "out", folders[:1], "ties", {"density": 0.1, "scale": 0.5}, [7])
    for path, delta in read_deltas(folders[0]).items():
        assert relative_error(read_deltas(tmp_path / "out")[path], 0.5 * delta) < 1e-6


@pytest.mark.parametrize("output", [EXACT, OutputSpec("fixed", 2), OutputSpec("energy", 0.6)])
def test_streaming_equals_the_dense_route(output: OutputSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"tall": (75, 50), "wide": (50, 75)}
    folders = [write_adapter_files(tmp_path / str(seed), shapes, rank=5, seed=seed) for seed in range(3)]
    dense = run_merge(tmp_path / "dense", folders, "ties", output=output)
    exact = ties_in_numpy([read_deltas(folder) for folder in folders], [1, 1, 1], 0.2, 1, "tensor")
    monkeypatch.setattr(elementwise, "BLOCK_ENTRIES", 400)
    monkeypatch.setattr(elementwise, "EXACT_SIDE", 0)
    monkeypatch.setattr(elementwise, "HELD_ENTRIES", 0)
    streamed = run_merge(tmp_path / "streamed", folders, "ties", output=output)
    first, second = read_deltas(tmp_path / "dense"), read_deltas(tmp_path / "streamed")
    for path, delta in exact.items():
        rank = next(row["rank"] for row in dense["per_module"] if row["path"] == path)
        best = relative_error(best_of_rank(delta, rank), delta)
        assert relative_error(first[path], delta) == pytest.approx(best, abs=1e-5)
        assert relative_error(second[path], delta) <= 1.01 * best + 1e-5
    assert streamed["energy_kept"] == pytest.approx(dense["energy_kept"], rel=0.01)
