"""Spectral rows against the float64 SVD of the dense product, and against what the adapter does to inputs."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.prototypes.arrow import arrow_file
from lora.prototypes.spectral import spectral, spectral_file
from tests.lora.factories import MODULES, adapter_config, factors, write_files
from tests.lora.peft_models import save_adapter
from tests.lora.raw_files import read_deltas
from tests.lora.recipes import merge_input
from tests.lora.test_arrow import random_pair


@settings(max_examples=60, deadline=None)
@given(
    r=st.integers(1, 9), d_in=st.integers(1, 12), d_out=st.integers(1, 12), seed=st.integers(0, 10**6),
    scaling=st.sampled_from([0.01, 1.0, -2.0, 64.0]),
)  # fmt: skip
def test_rows_stretch_inputs_as_the_dense_product_does(
    r: int, d_in: int, d_out: int, seed: int, scaling: float
) -> None:
    A, B = random_pair(r, d_in, d_out, seed)
    dense = scaling * B.double() @ A.double()
    rows = spectral(A, B, scaling)
    assert rows.dtype == torch.float32
    assert rows.shape == (r, d_in)
    scale = float(dense.norm()) ** 2
    assert torch.allclose(rows.double().T @ rows.double(), dense.T @ dense, atol=1e-6 * scale)
    lengths = rows.double().norm(dim=1)
    sigma = torch.linalg.svdvals(dense)
    assert torch.allclose(lengths[: len(sigma)], sigma[:r], rtol=1e-5, atol=1e-6 * float(sigma[0]))


def test_gauge_does_not_move_the_rows_and_signs_are_canonical() -> None:
    A, B = random_pair(4, 30, 20)
    G = torch.tensor([[2.0, 1, 0, 0], [0, 1, -1, 0], [1, 0, 3, 0], [0, 2, 0, 1]], dtype=torch.float64)
    rows = spectral(A, B, 2.0)
    assert torch.allclose(spectral(G @ A.double(), B.double() @ torch.linalg.inv(G), 2.0), rows, atol=1e-4)
    assert torch.allclose(spectral(A[[2, 0, 3, 1]], B[:, [2, 0, 3, 1]], -2.0), rows, atol=1e-4)
    assert (rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_deficient_and_untrained_factors() -> None:
    A, B = random_pair(4, 30, 20)
    duplicated = torch.cat([A[:2], A[:2]])  # r = 4, rank 2
    rows = spectral(duplicated, B, 1.0).double()
    dense = B.double() @ duplicated.double()
    assert torch.allclose(rows.T @ rows, dense.T @ dense, atol=1e-3)
    assert float(rows[2:].norm()) < 1e-4
    assert not spectral(A, torch.zeros(20, 4), 1.0).any()


def test_file_gives_the_linear_modules_with_their_own_ranks_and_scalings(tmp_path: Path) -> None:
    folder = save_adapter(
        tmp_path / "a",
        seed=1,
        r=3,
        lora_alpha=5,
        rank_pattern={"v": 2},
        target_modules=["q", "v", "embed", "conv"],
    )
    layout = merge_input(folder).layout
    found = spectral_file(folder / "adapter_model.safetensors", layout)
    vectors, _ = arrow_file(folder / "adapter_model.safetensors", layout)
    deltas = read_deltas(folder)
    assert set(found) == set(vectors)
    for path, rows in found.items():
        dense = torch.from_numpy(deltas[path]).double()
        assert len(rows) == layout.modules[path].rank
        assert torch.allclose(rows.double().T @ rows.double(), dense.T @ dense, atol=1e-5 * float(dense.norm()) ** 2)
        assert torch.allclose(rows[0] / rows[0].norm(), vectors[path], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_partly_zero_file_of_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = factors(MODULES, dtype=dtype)
    dead = "model.layers.0.self_attn.q_proj"
    tensors[f"base_model.model.{dead}.lora_B.weight"].zero_()
    folder = write_files(tmp_path / "a", adapter_config(MODULES), tensors)
    found = spectral_file(folder / "adapter_model.safetensors", merge_input(folder).layout)
    assert not found[dead].any()
    assert all(rows.isfinite().all() for rows in found.values())
