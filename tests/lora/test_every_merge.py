"""What every registered merge method must do; a new file in lora/merges is tested on arrival."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora.errors import InvalidParams
from lora.merges import MERGES
from lora.merging import MergeCancelled, OutputSpec, merge, resolve_weights
from tests.lora.factories import MODULES, write_adapter_files
from tests.lora.raw_files import best_of_rank, read_deltas, relative_error
from tests.lora.recipes import merge_input, run_merge

METHODS = MERGES.names()
EXACT = OutputSpec("exact")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Three adapters; the second has other ranks and lacks a module."""
    fewer = dict(list(MODULES.items())[1:])
    return [
        write_adapter_files(tmp_path / "a", rank=4, alpha=8, seed=1),
        write_adapter_files(tmp_path / "b", fewer, rank=2, alpha=3, seed=2),
        write_adapter_files(tmp_path / "c", rank=3, alpha=1, seed=3),
    ]


def rewrite(folder: Path, target: Path, change: object) -> Path:
    """Copy an adapter with its tensors changed."""
    target.mkdir()
    (target / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(change(tensors), target / "adapter_model.safetensors")
    return target


def assert_same(first: Path, second: Path, factor: float = 1.0, tolerance: float = 1e-5) -> None:
    left, right = read_deltas(first), read_deltas(second)
    assert left.keys() == right.keys()
    for path, delta in left.items():
        assert relative_error(right[path], factor * delta) < tolerance, path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [EXACT, OutputSpec("fixed", 3), OutputSpec(), OutputSpec("energy", 0.7)])
def test_output_is_finite_canonical_and_as_reported(
    method: str, mode: OutputSpec, folders: list[Path], tmp_path: Path
) -> None:
    exact = run_merge(tmp_path / "exact", folders, method, output=EXACT)
    report = run_merge(tmp_path / "out", folders, method, output=mode)
    item = merge_input(tmp_path / "out")  # our own strict reader takes it
    whole, written = read_deltas(tmp_path / "exact"), read_deltas(tmp_path / "out")
    assert set(written) == set(MODULES)
    ranks = {module.rank for module in item.layout.modules.values()}
    assert ranks == {item.config.r}
    assert item.config.lora_alpha == item.config.r
    assert exact["energy_kept"] == pytest.approx(1)
    assert exact["relative_error"] < 1e-6
    for row in report["per_module"]:
        delta = written[row["path"]]
        assert np.isfinite(delta).all()
        assert relative_error(delta, best_of_rank(whole[row["path"]], item.config.r)) < 1e-5
        assert np.linalg.norm(delta) == pytest.approx(row["norm_out"], rel=1e-5)
        if mode.rank_mode == "energy":
            assert row["energy_kept"] >= 0.7
    if mode.rank_mode == "energy" and item.config.r > 1:
        lower = run_merge(tmp_path / "lower", folders, method, output=OutputSpec("fixed", item.config.r - 1))
        assert min(row["energy_kept"] for row in lower["per_module"]) < 0.7


@pytest.mark.parametrize("method", METHODS)
def test_same_recipe_gives_the_same_bytes_and_leaves_inputs_alone(
    method: str, folders: list[Path], tmp_path: Path
) -> None:
    def digests(where: list[Path]) -> list[str]:
        files = [file for folder in where for file in sorted(folder.iterdir())]
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    before = digests(folders)
    reports = [run_merge(tmp_path / name, folders, method, weights=[1, 2, -1]) for name in ("x", "y")]
    assert digests([tmp_path / "x"]) == digests([tmp_path / "y"])
    assert reports[0] == reports[1]
    assert digests(folders) == before
    assert {file.name for file in (tmp_path / "x").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.parametrize("method", METHODS)
def test_one_input_is_its_own_merge(method: str, folders: list[Path], tmp_path: Path) -> None:
    report = run_merge(tmp_path / "out", folders[:1], method)
    assert_same(folders[0], tmp_path / "out", tolerance=1e-6)
    assert report["interference"]["cosine"] == [[pytest.approx(1)]]


@pytest.mark.parametrize("method", METHODS)
def test_order_of_inputs_does_not_matter(method: str, folders: list[Path], tmp_path: Path) -> None:
    run_merge(tmp_path / "x", folders, method, weights=[1, 2, -1], output=EXACT)
    run_merge(tmp_path / "y", folders[::-1], method, weights=[-1, 2, 1], output=EXACT)
    assert_same(tmp_path / "x", tmp_path / "y")


@pytest.mark.parametrize("method", METHODS)
def test_only_the_product_of_factors_counts(method: str, folders: list[Path], tmp_path: Path) -> None:
    mix = torch.tensor([[2.0, 0, 0, 0], [0, 0, 0.5, 0], [0, -1, 0, 0], [0, 0, 0, 4]])  # exact in float32

    def regauge(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: mix @ tensor if "lora_A" in name else tensor @ torch.linalg.inv(mix)
            for name, tensor in tensors.items()
        }

    other = rewrite(folders[0], tmp_path / "regauged", regauge)
    run_merge(tmp_path / "x", folders, method, output=EXACT)
    run_merge(tmp_path / "y", [other, *folders[1:]], method, output=EXACT)
    assert_same(tmp_path / "x", tmp_path / "y")


@pytest.mark.parametrize("method", METHODS)
def test_scaling_every_input_scales_the_merge(method: str, folders: list[Path], tmp_path: Path) -> None:
    def fourfold(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor * (4 if "lora_B" in name else 1) for name, tensor in tensors.items()}

    larger = [rewrite(folder, tmp_path / f"{folder.name}4", fourfold) for folder in folders]
    run_merge(tmp_path / "x", folders, method, output=EXACT)
    run_merge(tmp_path / "y", larger, method, output=EXACT)
    assert_same(tmp_path / "x", tmp_path / "y", factor=4)


@pytest.mark.parametrize("method", METHODS)
def test_zero_adapter_is_harmless(method: str, folders: list[Path], tmp_path: Path) -> None:
    def untrained(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor * (0 if "lora_B" in name else 1) for name, tensor in tensors.items()}

    zero = rewrite(folders[2], tmp_path / "zero", untrained)
    report = run_merge(tmp_path / "out", [folders[0], zero], method, output=EXACT)
    assert all(np.isfinite(delta).all() for delta in read_deltas(tmp_path / "out").values())
    assert report["interference"]["cosine"][0][1] == 0
    report = run_merge(tmp_path / "nothing", [zero], method)
    assert [warning["code"] for warning in report["warnings"]] == ["zero_result"]
    assert report["energy_kept"] == 1
    assert not any(delta.any() for delta in read_deltas(tmp_path / "nothing").values())


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_checked_and_normalised(method: str) -> None:
    relative = MERGES.get(method).traits["weights"] == "relative"
    for bad in ([1.0, float("nan")], [1.0, float("inf")], [0.0, 0.0], [1e308, 1e308]):
        with pytest.raises(InvalidParams):
            resolve_weights(method, bad)
    assert resolve_weights(method, [None, None]) == ([1, 1] if relative else [0.5, 0.5])
    assert resolve_weights(method, [1.0, -1.0]) == [1, -1]
    if relative:
        assert resolve_weights(method, [1, 1]) == resolve_weights(method, [0.5, 0.5])
        assert resolve_weights(method, [1, -3]) == [0.5, -1.5]
        with pytest.raises(InvalidParams, match="all of them or none"):
            resolve_weights(method, [1.0, None])
    else:
        assert resolve_weights(method, [2.0, None]) == [2, 0.5]


@pytest.mark.parametrize("method", METHODS)
def test_progress_rises_to_one_and_a_cancelled_merge_stops(method: str, folders: list[Path], tmp_path: Path) -> None:
    inputs = [merge_input(folder) for folder in folders]
    seen: list[float] = []
    (tmp_path / "x").mkdir()
    merge(method, {}, inputs, EXACT, tmp_path / "x", metadata={}, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) == len(MODULES) + 1
    assert seen[-1] == 1
    with pytest.raises(MergeCancelled):
        merge(method, {}, inputs, EXACT, tmp_path / "x", metadata={}, cancelled=lambda: True)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_parameter_is_refused(method: str, folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="no parameter 'zeal'"):
        run_merge(tmp_path / "out", folders, method, params={"zeal": 1})
