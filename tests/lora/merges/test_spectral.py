"""The spectral family against dense numpy, which forms every ΔW and shares no code with the methods."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lora.layout import ModuleLayout
from lora.merges import MERGES, Module
from lora.weights import Factors
from tests.lora.raw_files import Array, best_of_rank, relative_error

LOCAL = ["tsv_m", "wudi", "swudi", "iso_c", "iso_cts"]  # merge every module by itself, in the core space


@dataclass
class Recipe:
    """Modules in memory: path → input → ΔW."""

    deltas: dict[str, dict[int, Factors]]
    weights: list[float]
    rank: int | None = None

    @property
    def n(self) -> int:
        return len(self.weights)

    def __iter__(self) -> Iterator[Module]:
        for path, owners in sorted(self.deltas.items()):
            d_out, d_in = next(iter(owners.values())).B.shape[0], next(iter(owners.values())).A.shape[1]
            layout = ModuleLayout(path, "linear", "a", "b", rank=1, d_in=d_in, d_out=d_out, scaling=1.0)
            weights = tuple(self.weights[i] for i in owners)
            digests = tuple(f"digest {i}" for i in owners)
            yield Module(layout, tuple(owners), tuple(owners.values()), weights, digests)


def random_delta(seed: int, rank: int, d_out: int = 12, d_in: int = 10, scaling: float = 0.7) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    decay = torch.linspace(1, 0.3, rank, dtype=torch.float64)
    A = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
    return Factors(A, torch.randn(d_out, rank, generator=generator, dtype=torch.float64) * decay, scaling)


def dense(delta: Factors) -> Array:
    return delta.scaling * delta.B.numpy() @ delta.A.numpy()


def merged(name: str, deltas: Sequence[Factors], rank: int | None = None, weights: Any = None, **params: Any) -> Array:
    """Return the merge of one module that all inputs adapt."""
    recipe = Recipe({"m": dict(enumerate(deltas))}, list(weights or [1.0] * len(deltas)), rank)
    [(_, terms)] = MERGES.get(name).run(recipe, MERGES.parse(name, params))
    return sum(dense(term) for term in terms)


def svd(X: Array, tolerance: float = 1e-9) -> tuple[Array, Array, Array]:
    U, sigma, Vh = np.linalg.svd(X, full_matrices=False)
    k = int((sigma > tolerance * sigma[0]).sum()) if sigma[0] > 0 else 0
    return U[:, :k], sigma[:k], Vh[:k]


def polar(X: Array) -> Array:
    """X·(XᵀX)^(-½), the other formula for the polar factor."""
    values, vectors = np.linalg.eigh(X.T @ X)
    roots = np.where(values > 1e-12, 1 / np.sqrt(np.maximum(values, 1e-300)), 0)
    return X @ (vectors * roots) @ vectors.T


RANKS = [[2, 3], [3, 1, 2], [4, 4, 4]]  # the last has more directions than the module has rows or columns


@pytest.fixture(params=RANKS, ids=str)
def deltas(request: pytest.FixtureRequest) -> list[Factors]:
    return [random_delta(seed, rank) for seed, rank in enumerate(request.param)]


def dense_tsv(deltas: list[Array], shares: list[int]) -> Array:
    triples = [svd(delta) for delta in deltas]
    U = np.hstack([U[:, :k] for (U, _, _), k in zip(triples, shares, strict=True)])
    V = np.hstack([Vh[:k].T for (_, _, Vh), k in zip(triples, shares, strict=True)])
    sigma = np.concatenate([s[:k] for (_, s, _), k in zip(triples, shares, strict=True)])
    return polar(U) @ np.diag(sigma) @ polar(V).T


def test_tsv_m_is_the_dense_formula(deltas: list[Factors]) -> None:
    whole = [dense(delta) for delta in deltas]
    ranks = [delta.A.shape[0] for delta in deltas]
    assert relative_error(merged("tsv_m", deltas, scale=0.6), 0.6 * dense_tsv(whole, ranks)) < 1e-10
    weights = [0.5, -1.5, 1.0][: len(deltas)]
    weighted = [w * delta for w, delta in zip(weights, whole, strict=True)]
    assert relative_error(merged("tsv_m", deltas, weights=weights), dense_tsv(weighted, ranks)) < 1e-10


def test_tsv_m_shares_the_rank_and_gives_the_rest_to_the_strongest() -> None:
    deltas = [random_delta(0, 3), random_delta(1, 1), random_delta(2, 3, scaling=7.0)]
    result = merged("tsv_m", deltas, rank=6)
    assert np.linalg.matrix_rank(result) == 6
    assert relative_error(result, dense_tsv([dense(delta) for delta in deltas], [2, 1, 3])) < 1e-10
    assert relative_error(merged("tsv_m", deltas, rank=1), best_of_rank(dense(deltas[2]), 1)) < 1e-10


def dense_wudi(deltas: list[Array], ridge: float) -> Array:
    """Solve the linear least-squares problem for the rows of τ."""
    triples = [svd(delta) for delta in deltas]
    V = np.hstack([Vh.T for _, _, Vh in triples])
    answers = np.hstack([U * s for U, s, _ in triples])
    start = sum(deltas)
    equations = np.vstack([V.T, math.sqrt(ridge) * np.eye(len(V))])
    wanted = np.vstack([answers.T, math.sqrt(ridge) * start.T])
    return np.linalg.lstsq(equations, wanted, rcond=1e-10)[0].T


@pytest.mark.parametrize("ridge", [0.0, 0.01, 0.1, 5.0])
def test_wudi_solves_its_least_squares_problem(deltas: list[Factors], ridge: float) -> None:
    expected = dense_wudi([dense(delta) for delta in deltas], ridge)
    assert relative_error(merged("wudi", deltas, ridge=ridge, scale=2.0), 2 * expected) < 1e-9


def test_wudi_without_ridge_has_no_loss_and_is_where_descent_from_the_sum_ends() -> None:
    deltas = [random_delta(seed, 2) for seed in range(3)]
    whole = [dense(delta) for delta in deltas]
    result = merged("wudi", deltas, ridge=0.0)
    assert all(np.linalg.norm((result - tau) @ tau.T) < 1e-10 * np.linalg.norm(tau) ** 2 for tau in whole)
    C = sum(tau.T @ tau / np.linalg.norm(tau) ** 2 for tau in whole)
    D = sum(tau @ tau.T @ tau / np.linalg.norm(tau) ** 2 for tau in whole)
    descent = sum(whole)
    for _ in range(100_000):
        descent = descent - (descent @ C - D) / np.linalg.norm(C, 2)
    assert relative_error(result, descent) < 1e-6


def test_wudi_ridge_bounds_what_near_parallel_directions_do() -> None:
    first = random_delta(0, 2)
    other = Factors(first.A + 1e-5 * random_delta(1, 2).A, random_delta(2, 2).B, 0.7)
    total = np.linalg.norm(dense(first) + dense(other))
    assert np.linalg.norm(merged("wudi", [first, other], ridge=0.0)) > 1e3 * total
    assert np.linalg.norm(merged("wudi", [first, other])) < 1.74 * total
    same = Factors(first.A, other.B, 0.7)  # equal A: what the two say about it is averaged
    assert relative_error(merged("wudi", [first, same], ridge=0.0), (dense(first) + dense(same)) / 2) < 1e-10


def dense_swudi(deltas: list[Array], rule: str, time: float, start: Array) -> Array:
    C = sum(tau.T @ tau / np.linalg.norm(tau) ** 2 for tau in deltas)
    D = sum(tau @ tau.T @ tau / np.linalg.norm(tau) ** 2 for tau in deltas)
    values, V = np.linalg.eigh(C)
    values, V = np.maximum(values[::-1], 0), V[:, ::-1]
    rank = np.linalg.matrix_rank(C)
    if rule == "exponential":
        kept = 1 - np.exp(-values * time)
    else:
        roots = np.sqrt(values[:rank])
        kept = np.arange(len(values)) < math.ceil(roots.sum() ** 2 / values[:rank].sum())
    kept = np.where(np.arange(len(values)) < rank, kept, 0)
    gains = np.divide(kept, values, out=np.zeros_like(values), where=kept > 0)
    return start - start @ (V * kept) @ V.T + D @ (V * gains) @ V.T


@pytest.mark.parametrize("rule", ["exponential", "participation"])
@pytest.mark.parametrize("start", ["sum", "mean"])
@pytest.mark.parametrize("time", [3.0, 300.0])
def test_swudi_is_the_dense_filter(deltas: list[Factors], rule: str, start: str, time: float) -> None:
    whole = [dense(delta) for delta in deltas]
    total = sum(whole) / (len(whole) if start == "mean" else 1)
    params = {"filter": rule, "start": start, "time": time}
    assert relative_error(merged("swudi", deltas, **params), dense_swudi(whole, rule, time, total)) < 1e-8


def test_swudi_goes_from_its_start_to_wudi() -> None:
    deltas = [random_delta(seed, 2) for seed in range(3)]
    assert relative_error(merged("swudi", deltas, time=0.0), sum(dense(delta) for delta in deltas)) < 1e-12
    assert relative_error(merged("swudi", deltas, time=1e9), merged("wudi", deltas, ridge=0.0)) < 1e-8


def matched(directions: Array, sigma: Array, deltas: list[Array], norm: str) -> Array:
    norms = [np.linalg.norm(delta) for delta in deltas]
    wanted = {"none": sigma.mean() * np.linalg.norm(directions), "mean": np.mean(norms), "max": max(norms)}[norm]
    return directions * wanted / np.linalg.norm(directions)


@pytest.mark.parametrize("norm", ["none", "mean", "max"])
@pytest.mark.parametrize("rank", [None, 3])
def test_iso_c_cuts_the_sum_and_flattens_it(deltas: list[Factors], norm: str, rank: int | None) -> None:
    whole = [dense(delta) for delta in deltas]
    U, sigma, Vh = svd(sum(whole))
    expected = matched(U[:, :rank] @ Vh[:rank], sigma[:rank], whole, norm)
    result = merged("iso_c", deltas, rank, norm=norm)
    assert relative_error(result, expected) < 1e-10
    spectrum = np.linalg.svd(result, compute_uv=False)
    assert spectrum[: rank or len(sigma)] == pytest.approx(spectrum[0])


def dense_iso_cts(deltas: list[Array], total: int, own: int, norm: str) -> Array:
    U, sigma, Vh = svd(sum(deltas))
    shared = total - own * len(deltas)
    U, sigma, Vh = U[:, :shared], sigma[:shared], Vh[:shared]
    parts = [(U, sigma, Vh)]
    for delta in deltas:
        left, strengths, right = svd((np.eye(len(U)) - U @ U.T) @ delta)
        parts.append((left[:, :own], strengths[:own], right[:own]))
    left, strengths, right = (np.concatenate([part[i] for part in parts], axis=int(i == 0)) for i in range(3))
    return matched(polar(left) @ polar(right.T).T, strengths, deltas, norm)


@pytest.mark.parametrize("norm", ["none", "mean"])
@pytest.mark.parametrize(("rank", "common", "own"), [(None, 0.5, 1), (6, 0.5, 1), (6, 0.0, 2), (3, 0.8, 0)])
def test_iso_cts_joins_common_and_own_directions(norm: str, rank: int | None, common: float, own: int) -> None:
    deltas = [random_delta(seed, 2) for seed in range(3)]
    expected = dense_iso_cts([dense(delta) for delta in deltas], 6 if rank is None else rank, own, norm)
    assert relative_error(merged("iso_cts", deltas, rank, norm=norm, common=common), expected) < 1e-10
    if own == 0:
        assert relative_error(merged("iso_c", deltas, rank, norm=norm), expected) < 1e-10


@pytest.mark.parametrize("name", ["tsv_m", "wudi", "swudi"])
def test_inputs_without_common_directions_are_added_up(name: str) -> None:
    blocks = [random_delta(seed, 2, 4, 3) for seed in range(3)]
    deltas = []
    for i, block in enumerate(blocks):
        A, B = torch.zeros(2, 10, dtype=torch.float64), torch.zeros(12, 2, dtype=torch.float64)
        A[:, 3 * i : 3 * i + 3], B[4 * i : 4 * i + 4] = block.A, block.B
        deltas.append(Factors(A, B, 0.7))
    assert relative_error(merged(name, deltas), sum(dense(delta) for delta in deltas)) < 1e-10


@pytest.mark.parametrize("name", LOCAL)
def test_zero_inputs_have_no_say(name: str) -> None:
    deltas = [random_delta(seed, 2) for seed in range(3)]
    zero = Factors(deltas[0].A, torch.zeros_like(deltas[0].B), 1.0)
    for rank in (None, 4):
        padded = merged(name, [zero, *deltas, zero], rank)
        assert relative_error(padded, merged(name, deltas, rank)) < 1e-12
    assert not merged(name, [zero, zero]).any()
    assert relative_error(merged(name, [zero, deltas[0]], 1, scale=0.5), 0.5 * dense(deltas[0])) < 1e-12


@pytest.mark.parametrize("name", LOCAL)
def test_equal_and_opposite_inputs_are_stable(name: str) -> None:
    first, second = random_delta(0, 3), random_delta(1, 2)
    mix = torch.tensor([[2.0, 1, 0], [0, 1, -1], [1, 0, 3]], dtype=torch.float64)
    twin = Factors(mix @ first.A, first.B @ torch.linalg.inv(mix), 0.7)
    apart = merged(name, [first, twin, second])
    exact = merged(name, [first, first, second])
    assert relative_error(apart, exact) < 1e-10
    assert np.linalg.norm(apart) < 3 * np.linalg.norm(dense(first) * 2 + dense(second))
    opposite = merged(name, [first, twin.scaled(-1)])
    assert np.linalg.norm(opposite) < 1e-10 * np.linalg.norm(dense(first)) * 10


@pytest.mark.parametrize("name", LOCAL)
def test_modules_of_some_inputs_only(name: str) -> None:
    first, second, third = (random_delta(seed, 2) for seed in range(3))
    recipe = Recipe({"both": {0: first, 2: third}, "one": {1: second}}, [1.0, -2.0, 0.5])
    results = {
        module.layout.path: sum(dense(term) for term in terms)
        for module, terms in MERGES.get(name).run(recipe, MERGES.parse(name, {"scale": 3.0}))
    }
    assert relative_error(results["both"], merged(name, [first, third], weights=[1.0, 0.5], scale=3.0)) < 1e-12
    assert relative_error(results["one"], -6 * dense(second)) < 1e-12
