"""Sketches of whole adapters: what may not change them, what has to, and whether neighbours are found by them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lora.prototypes.delta_sketch import SKETCH_DIM, delta_sketch
from lora.weights import AdapterFile
from tests.lora.factories import adapter_config, factors, write_adapter_files, write_files
from tests.lora.raw_files import Array, read_deltas
from tests.lora.recipes import merge_input

MANY = {f"model.layers.{layer}.q_proj": (48, 64) for layer in range(24)}
RANK = 4
SEEDS = st.integers(0, 2**31)


def sketch(folder: Path) -> Array:
    with AdapterFile(folder / "adapter_model.safetensors", merge_input(folder).layout) as file:
        return delta_sketch(file)


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def written(folder: Path, tensors: dict[str, torch.Tensor], alpha: float = 8) -> Path:
    return write_files(folder, adapter_config(MANY, RANK, alpha), tensors)


def regauged(tensors: dict[str, torch.Tensor], matrix: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """A → M·A and B → B·M⁻¹ with another M for every module, rounded to float32."""
    found = dict(tensors)
    for name in (name for name in tensors if "lora_A" in name):
        M, twin = matrix(), name.replace("lora_A", "lora_B")
        found[name] = (M @ tensors[name].double()).float()
        found[twin] = (tensors[twin].double() @ torch.linalg.inv(M)).float()
    return found


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_a_sketch_does_not_depend_on_how_a_change_is_split(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """M is any invertible matrix: rotations, permutations of the ranks and scales among them."""
    at = tmp_path_factory.mktemp("gauge")
    draw = torch.Generator().manual_seed(seed)
    own = factors(MANY, RANK, seed=seed)
    first = sketch(written(at / "own", own))
    turned = torch.linalg.qr(torch.randn(RANK, RANK, generator=draw, dtype=torch.float64))[0]
    gauges = {
        "any": lambda: turned @ torch.diag(2 * torch.rand(RANK, generator=draw, dtype=torch.float64) + 0.5),
        "order": lambda: torch.eye(RANK, dtype=torch.float64)[torch.randperm(RANK, generator=draw)],
        "scale": lambda: torch.eye(RANK, dtype=torch.float64) * 1000,
    }
    for name, matrix in gauges.items():
        other = sketch(written(at / name, regauged(own, matrix)))
        assert np.linalg.norm(other - first) < 1e-5 * np.linalg.norm(first), name


def test_a_sketch_does_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    own = factors(MANY, RANK, seed=3)
    first = written(tmp_path / "one", own)
    other = written(tmp_path / "other", own)
    save_file(dict(reversed(own.items())), other / "adapter_model.safetensors", metadata={"order": "another"})
    assert np.array_equal(sketch(first), sketch(other))


@given(scale=st.floats(1e-3, 1e3), seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_a_sketch_scales_with_the_change(tmp_path_factory: pytest.TempPathFactory, scale: float, seed: int) -> None:
    at = tmp_path_factory.mktemp("scale")
    own = factors(MANY, RANK, seed=seed)
    first, other = sketch(written(at / "one", own)), sketch(written(at / "other", own, alpha=8 * scale))
    assert other.shape == (SKETCH_DIM,)
    assert np.linalg.norm(other - scale * first) < 1e-5 * scale * np.linalg.norm(first)
    assert cosine(first, other) == pytest.approx(1, abs=1e-5)


def test_a_change_of_other_modules_is_another_change(tmp_path: Path) -> None:
    """The same factors under other paths have ΔW without a common entry."""
    own = factors(MANY, RANK, seed=1)
    paths = {path.replace("q_proj", "k_proj"): shape for path, shape in MANY.items()}
    moved = {name.replace("q_proj", "k_proj"): tensor for name, tensor in own.items()}
    other = write_files(tmp_path / "moved", adapter_config(paths, RANK), moved)
    assert abs(cosine(sketch(written(tmp_path / "own", own)), sketch(other))) < 0.3


def test_neighbours_are_found_among_strangers(tmp_path: Path) -> None:
    """Of every one of 12 changes a noisy and scaled copy is nearest to it."""
    near, far = [], []
    for seed in range(12):
        own, noise = factors(MANY, RANK, seed=seed), factors(MANY, RANK, seed=100 + seed)
        mixed = {name: t + 0.7 * noise[name] if "lora_B" in name else t for name, t in own.items()}
        near.append(sketch(written(tmp_path / f"own{seed}", own)))
        far.append(sketch(written(tmp_path / f"copy{seed}", mixed, alpha=1 + seed)))
    scores = np.array([[cosine(copy, own) for own in near] for copy in far])
    assert scores.argmax(axis=1).tolist() == list(range(12))


def test_sketches_estimate_cosines(tmp_path: Path) -> None:
    config = adapter_config(MANY)
    own, noise = (factors(MANY, seed=seed) for seed in (1, 2))
    found, exact = [], []
    first = write_files(tmp_path / "first", config, own)
    for index, part in enumerate((0.0, 0.5, 1.0, 2.0)):
        mixed = {name: tensor + part * noise[name] if "lora_B" in name else tensor for name, tensor in own.items()}
        other = write_files(tmp_path / f"other{index}", config, mixed)
        found.append(cosine(sketch(first), sketch(other)))
        flat = [np.concatenate([W.ravel() for _, W in sorted(read_deltas(f).items())]) for f in (first, other)]
        exact.append(cosine(*flat))
    assert found == pytest.approx(exact, abs=0.15)
    assert found == sorted(found, reverse=True)


def test_halves_of_bytes_are_read_as_any_other(tmp_path: Path) -> None:
    full, half = (
        write_adapter_files(tmp_path / str(d), MANY, dtype=d, seed=1) for d in (torch.float32, torch.bfloat16)
    )
    assert cosine(sketch(full), sketch(half)) > 0.999
