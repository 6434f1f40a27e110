"""Inner products of whole adapters, exact and sketched, against dense ΔW."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lora.similarity import SKETCH_DIM, delta_sketch, inner_product
from lora.weights import AdapterFile
from tests.lora.factories import adapter_config, factors, write_adapter_files, write_files
from tests.lora.raw_files import Array, read_deltas
from tests.lora.recipes import merge_input

MANY = {f"model.layers.{layer}.q_proj": (48, 64) for layer in range(24)}


def opened(folder: Path) -> AdapterFile:
    return AdapterFile(folder / "adapter_model.safetensors", merge_input(folder).layout)


def sketch(folder: Path) -> Array:
    with opened(folder) as file:
        return delta_sketch(file)


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_inner_products_are_exact_over_shared_modules(tmp_path: Path) -> None:
    one = write_adapter_files(tmp_path / "one", seed=1)
    other = write_adapter_files(tmp_path / "other", rank=2, seed=2, modules={"model.layers.0.self_attn.q_proj": (8, 8)})
    [(path, W)] = read_deltas(other).items()
    with opened(one) as first, opened(other) as second:
        assert inner_product(first, second) == pytest.approx((read_deltas(one)[path] * W).sum())
        assert inner_product(second, first) == pytest.approx(inner_product(first, second))


def test_modules_of_another_shape_have_nothing_in_common(tmp_path: Path) -> None:
    one = write_adapter_files(tmp_path / "one", modules={"m": (8, 8)})
    other = write_adapter_files(tmp_path / "other", modules={"m": (8, 6)})
    with opened(one) as first, opened(other) as second:
        assert inner_product(first, second) == 0


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


def test_a_sketch_does_not_depend_on_the_split_and_scales_with_the_change(tmp_path: Path) -> None:
    own = factors(MANY, seed=1)
    turned = {name: tensor * (4.0 if "lora_A" in name else 0.25) for name, tensor in own.items()}
    folders = [write_files(tmp_path / name, adapter_config(MANY), t) for name, t in (("a", own), ("b", turned))]
    doubled = write_files(tmp_path / "c", adapter_config(MANY, alpha=16), own)
    assert np.allclose(sketch(folders[0]), sketch(folders[1]), rtol=1e-4)
    assert np.allclose(2 * sketch(folders[0]), sketch(doubled), rtol=1e-4)
    assert sketch(doubled).shape == (SKETCH_DIM,)


def test_halves_of_bytes_are_read_as_any_other(tmp_path: Path) -> None:
    full, half = (
        write_adapter_files(tmp_path / str(d), MANY, dtype=d, seed=1) for d in (torch.float32, torch.bfloat16)
    )
    assert cosine(sketch(full), sketch(half)) > 0.999
