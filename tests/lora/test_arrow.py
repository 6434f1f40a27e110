"""Arrow vectors against the float64 SVD of the dense product."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.errors import LoraError
from lora.prototypes.arrow import arrow, arrow_file
from lora.prototypes.centroid import centroid
from tests.lora.factories import MODULES, adapter_config, factors, write_files
from tests.lora.peft_models import save_adapter
from tests.lora.raw_files import read_deltas
from tests.lora.recipes import merge_input

Pair = tuple[torch.Tensor, torch.Tensor]


def random_pair(r: int, d_in: int, d_out: int, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(r, d_in, generator=generator), torch.randn(d_out, r, generator=generator)


def dense_svd(A: torch.Tensor, B: torch.Tensor, scaling: float) -> Pair:
    _, sigma, Vh = torch.linalg.svd(scaling * B.double() @ A.double(), full_matrices=False)
    v = Vh[0] * Vh[0][Vh[0].abs().argmax()].sign()
    return v, sigma


@settings(max_examples=60, deadline=None)
@given(
    r=st.integers(1, 9), d_in=st.integers(1, 12), d_out=st.integers(1, 12), seed=st.integers(0, 10**6),
    scaling=st.sampled_from([0.01, 1.0, 2.0, 64.0]),
)  # fmt: skip
def test_vector_and_spectrum_are_those_of_the_dense_product(
    r: int, d_in: int, d_out: int, seed: int, scaling: float
) -> None:
    A, B = random_pair(r, d_in, d_out, seed)
    v, sigma = arrow(A, B, scaling)
    expected_v, expected = dense_svd(A, B, scaling)
    assert v.dtype == sigma.dtype == torch.float32
    assert (v.shape, sigma.shape) == ((d_in,), (r,))
    known = min(r, len(expected))
    assert torch.allclose(sigma[:known].double(), expected[:known], rtol=1e-5, atol=1e-6 * float(expected[0]))
    assert (sigma[known:] <= 1e-6 * expected[0]).all()
    if known == 1 or expected[1] <= 0.99 * expected[0]:
        assert min((v - expected_v).abs().max(), (v + expected_v).abs().max()) < 1e-5
    assert v[v.abs().argmax()] > 0
    assert float(v.norm()) == pytest.approx(1, abs=1e-6)


def test_gauge_scale_sign_and_order_do_not_move_the_vector() -> None:
    A, B = random_pair(4, 30, 20)
    v, sigma = arrow(A, B, 1.0)
    G = torch.tensor([[2.0, 1, 0, 0], [0, 1, -1, 0], [1, 0, 3, 0], [0, 2, 0, 1]], dtype=torch.float64)
    for A2, B2, scaling in [
        (G @ A.double(), B.double() @ torch.linalg.inv(G), 1.0),
        (A * 8, B / 8, 1.0),
        (A, B / 16, 16.0),
        (-A, B, 1.0),
        (A[[2, 0, 3, 1]], B[:, [2, 0, 3, 1]], 1.0),
        (A, B, -1.0),
    ]:
        v2, sigma2 = arrow(A2, B2, scaling)
        assert torch.allclose(v, v2, atol=1e-6)
        assert torch.allclose(sigma, sigma2, rtol=1e-5)
    v3, sigma3 = arrow(A, B, 3.0)
    assert torch.equal(v, v3)
    assert torch.allclose(3 * sigma, sigma3)


def test_untrained_module_has_no_direction() -> None:
    v, sigma = arrow(torch.randn(3, 7), torch.zeros(5, 3), 2.0)
    assert torch.equal(v, torch.zeros(7))
    assert torch.equal(sigma, torch.zeros(3))


def test_ill_conditioned_and_deficient_factors_are_exact_too() -> None:
    A, B = random_pair(4, 30, 20)
    for scales in ([1, 1e-3, 1e-6, 1e-9], [1, 1, 0, 0], [1e-12, 1e-12, 1e-12, 1]):
        S = torch.tensor(scales)
        v, sigma = arrow(A * S[:, None], B, 1.0)
        expected_v, expected = dense_svd(A * S[:, None], B, 1.0)
        assert torch.allclose(v.double(), expected_v, atol=1e-6)
        assert torch.allclose(sigma.double(), expected[:4], rtol=1e-5, atol=1e-12)
    duplicated = torch.cat([A[:2], A[:2]])  # r = 4, rank 2
    assert torch.allclose(arrow(duplicated, B, 1.0)[0].double(), dense_svd(duplicated, B, 1.0)[0], atol=1e-6)


def test_repeated_singular_values_give_a_vector_of_their_subspace() -> None:
    Q, _ = torch.linalg.qr(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)))
    A, B = torch.diag(torch.tensor([2.0, 2.0, 1.0])) @ Q.T, torch.eye(10, 3)
    v, sigma = arrow(A, B, 1.0)
    assert torch.allclose(sigma, torch.tensor([2.0, 2.0, 1.0]))
    assert float((Q[:, :2].T @ v).norm()) == pytest.approx(1, abs=1e-6)


def test_file_gives_vectors_of_linear_modules_and_facts_of_all(tmp_path: Path) -> None:
    folder = save_adapter(
        tmp_path / "a",
        seed=1,
        r=3,
        lora_alpha=5,
        rank_pattern={"v": 2},
        target_modules=["q", "v", "embed", "conv"],
    )
    layout = merge_input(folder).layout
    vectors, facts = arrow_file(folder / "adapter_model.safetensors", layout)
    deltas = read_deltas(folder)
    assert set(vectors) == {path for path in deltas if path.endswith((".q", ".v"))}
    assert [fact["path"] for fact in facts] == sorted(deltas)
    for fact in facts:
        dense = torch.from_numpy(deltas[fact["path"]])
        sigma = torch.linalg.svdvals(dense)[: fact["rank"]]
        assert fact["sigma"] == pytest.approx(sigma.tolist(), rel=1e-5)
        assert fact["norm"] == pytest.approx(float(dense.norm()), rel=1e-6)
        assert fact["stable_rank"] == pytest.approx(float(dense.norm() ** 2 / sigma[0] ** 2), rel=1e-5)
        assert (fact["d_out"], fact["d_in"]) == tuple(dense.shape)
        if fact["path"] in vectors:
            product = torch.linalg.norm(dense @ vectors[fact["path"]].double())
            assert float(product) == pytest.approx(fact["sigma"][0], rel=1e-5)


def test_partly_zero_bf16_file(tmp_path: Path) -> None:
    tensors = factors(MODULES, dtype=torch.bfloat16)
    dead = "model.layers.0.self_attn.q_proj"
    tensors[f"base_model.model.{dead}.lora_B.weight"].zero_()
    folder = write_files(tmp_path / "a", adapter_config(MODULES), tensors)
    vectors, facts = arrow_file(folder / "adapter_model.safetensors", merge_input(folder).layout)
    by_path = {fact["path"]: fact for fact in facts}
    assert by_path[dead]["norm"] == by_path[dead]["stable_rank"] == 0
    assert not vectors[dead].any()
    assert sum(bool(v.any()) for v in vectors.values()) == len(MODULES) - 1


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    arrow(*random_pair(2, 5, 5), 1.0)
    assert torch.get_num_threads() == before


def test_centroid_is_the_unit_mean() -> None:
    rows = torch.nn.functional.normalize(torch.randn(20, 6), dim=1).numpy()
    mean = rows.mean(0)
    assert centroid(rows) == pytest.approx(mean / (mean**2).sum() ** 0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.eye(3)[:0], "at least one row"),
        (torch.ones(3), "at least one row"),
        (torch.full((2, 3), float("nan")), "finite"),
        (2 * torch.eye(3), "unit vectors"),
        (torch.zeros(2, 3), "unit vectors"),
        (torch.tensor([[1.0, 0], [-1, 0]]), "cancel"),
    ],
)
def test_bad_embeddings_have_no_centroid(rows: torch.Tensor, message: str) -> None:
    with pytest.raises(LoraError, match=message):
        centroid(rows.numpy())
