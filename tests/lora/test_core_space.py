"""The core space against dense float64 matrices, whatever the factors and ranks are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora.core_space import CoreSpace, compact_svd, core_space, polar_factor
from lora.weights import Factors
from tests.lora.raw_files import relative_error


def random_delta(d_out: int, d_in: int, rank: int, scaling: float, seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
    return Factors(A, torch.randn(d_out, rank, generator=generator, dtype=torch.float64), scaling)


def dense(delta: Factors) -> np.ndarray:
    return delta.scaling * delta.B.numpy() @ delta.A.numpy()


def lifted(space: CoreSpace, core: torch.Tensor) -> np.ndarray:
    return dense(space.lift(core))


@st.composite
def families(draw: st.DrawFn) -> list[Factors]:
    d_out, d_in = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    ranks = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    scalings = [draw(st.sampled_from([1.0, -0.5, 1e-9, 3e7])) for _ in ranks]
    return [random_delta(d_out, d_in, r, s, seed) for seed, (r, s) in enumerate(zip(ranks, scalings, strict=True))]


@settings(max_examples=80, deadline=None)
@given(deltas=families())
def test_every_delta_is_its_core_between_the_bases(deltas: list[Factors]) -> None:
    space = core_space(deltas)
    assert space.positions == tuple(range(len(deltas)))
    total = sum(delta.A.shape[0] for delta in deltas)
    d_out, d_in = dense(deltas[0]).shape
    assert (space.left.shape, space.right.shape) == ((d_out, min(d_out, total)), (d_in, min(d_in, total)))
    for delta, core in zip(deltas, space.cores, strict=True):
        expected = dense(delta)
        assert relative_error(lifted(space, core.matrix), expected) < 1e-12
        assert core.norm == pytest.approx(np.linalg.norm(expected), rel=1e-12)
        sigma = np.linalg.svd(expected, compute_uv=False)
        assert core.sigma.numpy() == pytest.approx(sigma[: len(core.sigma)], rel=1e-9)
        for basis in (core.U, core.V, space.left, space.right):
            assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), stretch=st.sampled_from([1.0, 1e3, 1e7]))
def test_the_split_into_factors_does_not_matter(seed: int, stretch: float) -> None:
    plain = [random_delta(9, 7, r, 2.0, seed + r) for r in (2, 3)]
    generator = np.random.default_rng(seed)
    mix = torch.from_numpy(np.linalg.qr(generator.normal(size=(3, 3)))[0] * [stretch, 1, 1 / stretch])
    other = [plain[0], Factors(torch.linalg.inv(mix) @ plain[1].A, plain[1].B @ mix, plain[1].scaling)]
    first, second = core_space(plain), core_space(other)
    for left, right in zip(first.cores, second.cores, strict=True):
        tolerance = 1e-12 * stretch
        assert relative_error(lifted(second, right.matrix), lifted(first, left.matrix)) < tolerance
        assert torch.allclose(left.sigma, right.sigma, rtol=100 * tolerance)


def test_zero_deltas_are_left_out_and_the_others_keep_their_positions() -> None:
    first, last = random_delta(6, 5, 2, 1.0, 0), random_delta(6, 5, 3, 1.0, 1)
    untrained = Factors(first.A, torch.zeros_like(first.B), 1.0)
    cancelling = Factors(torch.cat([first.A, -first.A]), torch.cat([first.B, first.B], dim=1), 1.0)
    weightless = first.scaled(0.0)
    space = core_space([untrained, first, cancelling, weightless, last])
    assert space.positions == (1, 4)
    assert relative_error(lifted(space, space.cores[1].matrix), dense(last)) < 1e-12
    assert core_space([untrained, weightless]).cores == ()


def test_deficient_factors_and_far_smaller_neighbours_keep_their_own_rank() -> None:
    large = random_delta(30, 20, 4, 1e6, 0)
    deficient = Factors(large.A, large.B @ torch.diag(torch.tensor([1.0, 1, 0, 0], dtype=torch.float64)), 1.0)
    small = random_delta(30, 20, 3, 1e-9, 1)
    space = core_space([large, deficient, small])
    assert [len(core.sigma) for core in space.cores] == [4, 2, 3]
    assert relative_error(lifted(space, space.cores[2].matrix), dense(small)) < 1e-12


def test_polar_factor_is_the_nearest_orthonormal_matrix() -> None:
    X = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factor = polar_factor(X)
    P, _, Qh = np.linalg.svd(X.numpy(), full_matrices=False)
    assert factor.numpy() == pytest.approx(P @ Qh, abs=1e-12)
    assert torch.allclose(factor.T @ factor, torch.eye(3, dtype=torch.float64))


def test_polar_factor_of_equal_columns_shares_their_direction() -> None:
    column = torch.tensor([[0.6], [0.8]], dtype=torch.float64)
    factor = polar_factor(torch.cat([column, column * (1 + 1e-15)], dim=1))
    assert factor.numpy() == pytest.approx(np.array([[0.6, 0.6], [0.8, 0.8]]) / np.sqrt(2))
    assert polar_factor(column[:, :0]).shape == (2, 0)


def test_compact_svd_drops_rounding_of_what_the_matrix_came_from() -> None:
    X = torch.diag(torch.tensor([1.0, 1e-6, 1e-12], dtype=torch.float64))
    assert len(compact_svd(X)[1]) == 2
    assert len(compact_svd(X, 1e3)[1]) == 1
    assert [part.shape for part in compact_svd(X, 1e9)] == [(3, 0), (0,), (0, 3)]
