"""The spectral family against dense numpy, which forms every ΔW and shares no code with the methods."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lora.masks import uniform
from lora.merges import MERGES
from lora.weights import Factors
from tests.lora.in_memory import Recipe, dense
from tests.lora.raw_files import Array, best_of_rank, relative_error

LOCAL = ["tsv_m", "wudi", "swudi", "iso_c", "iso_cts", "svc", "pico", "core_ties"]  # module by module


def random_delta(seed: int, rank: int, d_out: int = 12, d_in: int = 10, scaling: float = 0.7) -> Factors:
    """Return a ΔW whose singular values fall off, as those of trained adapters do."""
    generator = torch.Generator().manual_seed(seed)
    decay = torch.linspace(1, 0.3, rank, dtype=torch.float64)
    A = torch.randn(rank, d_in, generator=generator, dtype=torch.float64)
    return Factors(A, torch.randn(d_out, rank, generator=generator, dtype=torch.float64) * decay, scaling)


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


def dense_svc(merge: Array, deltas: list[Array], floor: float) -> Array:
    U, sigma, Vh = svd(merge)
    factors = []
    for u, s, v in zip(U.T, sigma, Vh, strict=True):
        responses = [u @ delta for delta in deltas]
        kept = [max(floor, s * v @ response / (response @ response)) for response in responses]
        factors.append(len(deltas) / sum(kept))
    return U @ np.diag(factors * sigma) @ Vh


@pytest.mark.parametrize("floor", [0.1, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, -1.5, 1.0]])
def test_svc_is_the_dense_algorithm(deltas: list[Factors], floor: float, weights: list[float]) -> None:
    weights = weights[: len(deltas)]
    whole = [w * dense(delta) for w, delta in zip(weights, deltas, strict=True)]
    result = merged("svc", deltas, weights=weights, floor=floor, scale=0.3)
    assert relative_error(result, 0.3 * dense_svc(sum(whole), whole, floor)) < 1e-9
    for on in ("karcher", "multislerp"):
        expected = dense_svc(merged(on, deltas, weights=weights), whole, floor)
        assert relative_error(merged("svc", deltas, weights=weights, floor=floor, on=on), expected) < 1e-9


def test_svc_counts_what_inputs_share_once() -> None:
    first, second = random_delta(0, 2), random_delta(1, 2)
    assert relative_error(merged("svc", [first, first]), dense(first)) < 1e-10
    assert relative_error(merged("svc", [first, first, first.scaled(-1)]), dense(first)) > 0.1
    # two inputs that cancel each other respond nowhere, and their rounding must not speak for them
    survivors = merged("svc", [first, first.scaled(-1), second])
    assert relative_error(survivors, dense_svc(dense(second), [dense(second)], 0.1)) < 0.9


def dense_pico(deltas: list[Array]) -> list[Array]:
    left = np.hstack([U * s for U, s, _ in (svd(delta) for delta in deltas)])
    U, sigma, _ = svd(left)
    shares = sigma**2 / np.sum(sigma**2)
    weaken = np.eye(len(U)) + U @ np.diag(1 / (1 + (len(deltas) - 1) * shares) - 1) @ U.T
    return [weaken @ delta for delta in deltas]


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, -1.5, 1.0]])
def test_pico_weakens_merges_and_restores_the_norm(deltas: list[Factors], weights: list[float]) -> None:
    weights = weights[: len(deltas)]
    whole = [w * dense(delta) for w, delta in zip(weights, deltas, strict=True)]
    expected = sum(dense_pico(whole))
    norm = np.mean([np.linalg.norm(delta) for delta in whole])
    expected *= norm / np.linalg.norm(expected)
    assert relative_error(merged("pico", deltas, weights=weights, scale=0.3), 0.3 * expected) < 1e-10
    other = merged("pico", deltas, weights=weights, on="karcher")
    assert np.linalg.norm(other) == pytest.approx(norm)
    assert relative_error(other, expected) > 1e-3


def test_inputs_of_full_rank_give_the_published_recipes() -> None:
    deltas = [random_delta(seed, 10) for seed in range(2)]
    whole = [dense(delta) for delta in deltas]
    share = int(10 / len(deltas))  # of min(d_out, d_in) directions
    assert relative_error(merged("tsv_m", deltas, rank=10), dense_tsv(whole, [share, share])) < 1e-9
    own = round((10 - int(10 * 0.8)) / len(deltas))
    assert relative_error(merged("iso_cts", deltas, norm="none"), dense_iso_cts(whole, 10, own, "none")) < 1e-9
    U, sigma, Vh = np.linalg.svd(sum(whole), full_matrices=False)
    assert relative_error(merged("iso_c", deltas, norm="none"), sigma.mean() * U @ Vh) < 1e-9


@pytest.mark.parametrize("name", ["tsv_m", "wudi", "swudi", "svc"])
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


def representations(deltas: list[Array]) -> tuple[Array, list[Array]]:
    U, sigma, Vh = svd(np.hstack(deltas))
    return U, np.split(np.diag(sigma) @ Vh, len(deltas), axis=1)


def kept(entries: Array, floor: float) -> Array:
    return np.where(np.abs(entries) >= floor, entries, 0)


def floor_of(parts: list[Array], density: float) -> float:
    entries = np.sort(np.abs(np.concatenate([part.ravel() for part in parts])))
    return float(entries[-max(1, int(density * entries.size))]) * (1 - 1e-6)  # float32 rounds the threshold


def disjoint_mean(parts: list[Array]) -> Array:
    stack = np.stack(parts)
    agrees = np.sign(stack) == np.sign(stack.sum(0))
    return (stack * agrees).sum(0) / np.maximum((agrees & (stack != 0)).sum(0), 1)


def knots_recipe() -> Recipe:
    tall = {i: random_delta(i, 2, 14, 9) for i in range(3)}
    wide = {i: random_delta(10 + i, 3, 8, 15) for i in (0, 2)}
    return Recipe({"tall": tall, "wide": wide}, [1.0, 0.5, -1.5])


def results_of(recipe: Recipe, name: str, **params: Any) -> dict[str, Array]:
    merge = MERGES.get(name).run(recipe, MERGES.parse(name, params))
    return {module.layout.path: sum(dense(term) for term in terms) for module, terms in merge}


@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_knots_ties_is_ties_on_dense_representations(scope: str, density: float) -> None:
    recipe = knots_recipe()
    bases, reps = {}, {}
    for path, owners in recipe.deltas.items():
        bases[path], parts = representations([recipe.weights[i] * dense(delta) for i, delta in owners.items()])
        reps[path] = dict(zip(owners, parts, strict=True))
    floors = {i: floor_of([parts[i] for parts in reps.values() if i in parts], density) for i in range(3)}
    found = results_of(recipe, "knots_ties", scope=scope, density=density, scale=0.5)
    for path, parts in reps.items():
        local = {i: floor_of([part], density) for i, part in parts.items()} if scope == "tensor" else floors
        expected = 0.5 * bases[path] @ disjoint_mean([kept(part, local[i]) for i, part in parts.items()])
        assert relative_error(found[path], expected) < 1e-6


def test_knots_dare_ties_drops_rescales_and_elects() -> None:
    recipe = knots_recipe()
    found = results_of(recipe, "knots_dare_ties", density=0.4, seed=7)
    for path, owners in recipe.deltas.items():
        U, parts = representations([recipe.weights[i] * dense(delta) for i, delta in owners.items()])
        dropped = []
        for i, part in zip(owners, parts, strict=True):
            drawn = uniform(7, f"digest {i}", path, slice(0, len(part)), part.shape[1]).numpy()
            dropped.append(np.where(drawn < 0.4, part / 0.4, 0))
        assert relative_error(found[path], U @ disjoint_mean(dropped)) < 1e-6
    whole = results_of(recipe, "knots_dare_ties", density=1.0)
    ties = results_of(recipe, "knots_ties", density=1.0)
    assert all(relative_error(whole[path], ties[path]) < 1e-12 for path in ties)
    assert relative_error(results_of(recipe, "knots_dare_ties", density=0.4, seed=8)["tall"], found["tall"]) > 0.1


@pytest.mark.parametrize("name", ["knots_ties", "knots_dare_ties"])
def test_knots_ignores_zero_inputs_and_stays_in_the_span(name: str) -> None:
    deltas = [random_delta(seed, 2) for seed in range(3)]
    zero = Factors(deltas[0].A, torch.zeros_like(deltas[0].B), 1.0)
    result = merged(name, [*deltas, zero], density=0.5)
    assert relative_error(result, merged(name, deltas, density=0.5)) < 1e-12
    assert np.linalg.matrix_rank(result, tol=1e-5) <= 6
    assert not merged(name, [zero, zero], density=0.5).any()
    assert relative_error(merged(name, deltas[:1], density=0.5, scale=3.0), 3 * dense(deltas[0])) < 1e-12
    twins = merged(name, [deltas[0], deltas[0]], density=1.0)
    assert relative_error(twins, dense(deltas[0])) < 1e-6
    assert np.isfinite(merged(name, [deltas[0], deltas[0].scaled(-1)])).all()


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_core_ties_is_ties_between_the_bases_of_even_factors(deltas: list[Factors], density: float) -> None:
    whole = [dense(delta) for delta in deltas]
    triples = [svd(delta) for delta in whole]
    U = svd(np.hstack([U * np.sqrt(s) for U, s, _ in triples]))[0]
    V = svd(np.hstack([Vh.T * np.sqrt(s) for _, s, Vh in triples]))[0]
    cores = [U.T @ delta @ V for delta in whole]
    expected = U @ disjoint_mean([kept(core, floor_of([core], density)) for core in cores]) @ V.T
    assert relative_error(merged("core_ties", deltas, density=density, scale=0.5), 0.5 * expected) < 1e-10


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_cart_adds_the_strongest_deviations_to_the_mean(deltas: list[Factors], density: float) -> None:
    whole = [dense(delta) for delta in deltas]
    mean = sum(whole) / len(whole)
    k = math.ceil(density * sum(delta.A.shape[0] for delta in deltas))
    expected = mean + 0.3 * sum(best_of_rank(delta - mean, k) for delta in whole)
    assert relative_error(merged("cart", deltas, density=density, scale=0.3), expected) < 1e-10
    assert relative_error(merged("cart", deltas, density=1.0), mean) < 1e-10
