"""Interference against its definitions on dense ΔW, in numpy."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from lora.energy import EnergyCurve
from lora.interference import Interference, module_interference, sampled_rows
from lora.layout import ModuleLayout
from lora.merges import Module
from lora.moments import moments
from lora.weights import Factors
from tests.lora.in_memory import dense, random_delta
from tests.lora.raw_files import Array

D_OUT, D_IN = 40, 24


def module(deltas: Mapping[int, Factors] | Sequence[Factors], path: str = "m") -> Module:
    owners = deltas if isinstance(deltas, Mapping) else dict(enumerate(deltas))
    (d_out, rank), d_in = next(iter(owners.values())).B.shape, next(iter(owners.values())).A.shape[1]
    layout = ModuleLayout(path, "linear", "a", "b", rank=rank, d_in=d_in, d_out=d_out, scaling=1.0)
    n = len(owners)
    return Module(layout, tuple(owners), tuple(owners.values()), (1.0,) * n, ("",) * n)


def some(count: int = 3) -> list[Factors]:
    return [random_delta(seed, rank=2 + seed, d_out=D_OUT, d_in=D_IN, scaling=0.3 + seed) for seed in range(count)]


def dense_overlap(one: Array, other: Array) -> float:
    """‖UᵀU'‖²_F/min(r) of the column spaces, by dense SVDs."""
    bases = []
    for W in (one, other):
        U = np.linalg.svd(W)[0]
        bases.append(U[:, : np.linalg.matrix_rank(W)])
    return float(np.square(bases[0].T @ bases[1]).sum() / min(base.shape[1] for base in bases))


def test_cosines_norms_and_stable_ranks_are_those_of_dense_matrices():
    deltas = some()
    whole = Interference(3)
    whole.add(module_interference(module(deltas)))
    flat = np.stack([dense(delta).ravel() for delta in deltas])
    norms = np.linalg.norm(flat, axis=1)
    expected = flat @ flat.T / norms[:, None] / norms
    found = whole.as_json()
    assert np.allclose(found["cosine"], expected, atol=1e-6)
    assert np.allclose(whole.norms, norms, rtol=1e-12)
    stable = [(sigma := np.linalg.svd(dense(delta))[1]) @ sigma / sigma[0] ** 2 for delta in deltas]
    assert np.allclose(found["stable_rank"], stable, atol=1e-6)


def test_overlaps_are_those_of_dense_singular_spaces():
    deltas = some()
    # One that shares a direction on each side with the first, and one whose factors are rank-deficient.
    shared = Factors(
        torch.cat([deltas[0].A[:1], deltas[1].A[:1]]), torch.cat([deltas[0].B[:, :1], deltas[2].B[:, :1]], dim=1), 1.0
    )
    deficient = Factors(
        torch.cat([deltas[2].A, deltas[2].A[:1]]), torch.cat([deltas[2].B, -deltas[2].B[:, 1:2]], 1), 2.0
    )
    everything = [*deltas, shared, deficient]
    found = module_interference(module(everything))
    for i, one in enumerate(everything):
        for j, other in enumerate(everything):
            W, V = dense(one), dense(other)
            assert float(found.overlap[i, j]) == pytest.approx(dense_overlap(W, V), abs=1e-9)
            assert float(found.overlap_in[i, j]) == pytest.approx(dense_overlap(W.T, V.T), abs=1e-9)
    ranks = [np.linalg.matrix_rank(dense(delta)) for delta in everything]
    assert np.allclose(found.chance, np.array(ranks) / D_OUT)
    assert np.allclose(found.chance_in, np.array(ranks) / D_IN)


def test_random_subspaces_overlap_by_chance():
    deltas = [random_delta(seed, rank=8, d_out=512, d_in=256) for seed in range(8)]
    found = module_interference(module(deltas))
    off = ~torch.eye(8, dtype=torch.bool)
    assert float(found.overlap[off].mean()) == pytest.approx(8 / 512, rel=0.1)
    assert float(found.overlap_in[off].mean()) == pytest.approx(8 / 256, rel=0.1)


def test_signs_are_counted_in_the_sampled_rows():
    deltas = [*some(2), some(1)[0].scaled(-1.0)]
    rows = sampled_rows("m", D_OUT)
    assert len(rows) == len(set(rows)) == 32
    assert rows == sampled_rows("m", D_OUT) != sampled_rows("n", D_OUT)
    assert sampled_rows("m", 5) == [0, 1, 2, 3, 4]
    found = module_interference(module(deltas)).sign_conflict
    signs = [np.sign(dense(delta)[rows]) for delta in deltas]
    assert float(found[0, 1]) == pytest.approx(np.mean(signs[0] != signs[1]))
    assert [float(found[0, 0]), float(found[0, 2])] == [0, 1]


def test_independent_adapters_disagree_in_half_of_their_signs():
    deltas = [random_delta(seed, rank=8, d_out=64, d_in=512) for seed in range(2)]
    assert float(module_interference(module(deltas)).sign_conflict[0, 1]) == pytest.approx(0.5, abs=0.03)


def test_a_split_of_the_factors_changes_nothing():
    deltas = some()
    R = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    R = R * torch.tensor([1.0, 30.0, 0.02], dtype=torch.float64)
    turned = [deltas[0], Factors(torch.linalg.inv(R) @ deltas[1].A, deltas[1].B @ R, deltas[1].scaling), deltas[2]]
    one, other = (module_interference(module(some_deltas)) for some_deltas in (deltas, turned))
    for name in ("products", "overlap", "overlap_in", "sign_conflict", "stable_rank", "chance"):
        assert torch.allclose(getattr(one, name), getattr(other, name), atol=1e-8)


def test_an_adapter_of_zeros_shares_nothing_and_conflicts_with_nobody():
    deltas = some(2)
    zero = Factors(deltas[0].A, torch.zeros_like(deltas[0].B), 1.0)
    whole = Interference(3)
    whole.add(module_interference(module([*deltas, zero])))
    found = whole.as_json()
    assert [row[2] for row in found["cosine"]] == [row[2] for row in found["overlap"]] == [0, 0, 0]
    assert [row[2] for row in found["sign_conflict"]] == [None, None, None]
    assert found["stable_rank"][2] == found["overlap_chance"]["out"][2] == whole.norms[2] == 0


def test_modules_count_by_their_energy_and_only_where_both_adapt_them():
    one, two, three = some()
    first, second = module({0: one, 1: two}, "first"), module({0: two, 2: three}, "second")
    whole = Interference(3)
    for part in (first, second):
        whole.add(module_interference(part))
    found = whole.as_json()
    # The pair (0, 1) meets in the first module only; (1, 2) nowhere.
    assert found["overlap"][0][1] == pytest.approx(dense_overlap(dense(one), dense(two)), abs=1e-6)
    assert found["overlap"][1][2] == 0
    assert found["sign_conflict"][1][2] is None
    energies = [np.square(dense(delta)).sum() for delta in (one, two)]
    expected = (energies[0] * 2 + energies[1] * 3) / sum(energies) / D_OUT
    assert found["overlap_chance"]["out"][0] == pytest.approx(expected, abs=1e-6)
    cosine = (dense(one) * dense(two)).sum() / math.sqrt(sum(energies) * energies[1])
    assert found["cosine"][0][1] == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize("weights", [[0.5, 0.5, 0.5], [1.0, -2.0, 0.0], [3.0, 1e-3, 1.0]])
def test_the_energy_curve_is_that_of_the_dense_sum(weights: list[float]):
    parts = [module({0: some()[0], 1: some()[1]}, "first"), module(some(), "second")]
    curve, squares = EnergyCurve(), []
    for part in parts:
        curve.add(moments(part).energies(weights))
        total = sum(weights[i] * dense(delta) for i, delta in zip(part.inputs, part.deltas, strict=True))
        squares.append(np.square(np.linalg.svd(total)[1]))
    for rank in (1, 2, 3, 5, 8, 16, 64):
        expected = sum(part[:rank].sum() for part in squares) / sum(part.sum() for part in squares)
        assert curve.kept[min(rank, len(curve.kept)) - 1] == pytest.approx(expected, abs=1e-7)
    assert curve.kept[-1] == pytest.approx(1)


def test_a_sum_of_more_than_full_rank_and_one_that_cancels():
    many = [random_delta(seed, rank=8, d_out=12, d_in=10) for seed in range(4)]
    energies = moments(module(many)).energies([1.0] * 4)
    assert len(energies) == 10
    assert np.allclose(energies.sqrt(), np.linalg.svd(sum(map(dense, many)))[1])
    curve = EnergyCurve()
    assert curve.kept == [1]
    curve.add(torch.zeros(3, dtype=torch.float64))
    assert curve.kept == [1]


def test_a_truncated_spectrum_counts_what_was_cut_off():
    curve = EnergyCurve()
    curve.add(torch.tensor([4.0, 2.0], dtype=torch.float64), total=8.0)
    assert curve.kept == [0.5, 0.75]


def test_the_curve_ends_where_the_spectrum_of_a_module_does():
    curve = EnergyCurve()
    curve.add(torch.tensor([4.0, 2.0], dtype=torch.float64), total=8.0)
    curve.add(torch.tensor([1.0, 0.5, 0.5], dtype=torch.float64), total=2.0)
    assert curve.kept == [0.5, 0.75]
