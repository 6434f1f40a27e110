"""Inner products of whole adapters against dense ΔW."""

from pathlib import Path

import pytest

from lora.similarity import inner_product
from lora.weights import AdapterFile
from tests.lora.factories import write_adapter_files
from tests.lora.raw_files import read_deltas
from tests.lora.recipes import merge_input


def opened(folder: Path) -> AdapterFile:
    return AdapterFile(folder / "adapter_model.safetensors", merge_input(folder).layout)


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
