"""The elementwise family against whole matrices in numpy; random masks are shared, for they are the recipe's."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from peft.utils import merge_utils

from lora import elementwise
from lora.elementwise import Elementwise
from lora.errors import InvalidParams
from lora.layout import ModuleLayout
from lora.masks import uniform
from lora.merges import MERGES, Module
from lora.weights import Factors
from tests.lora.raw_files import Array

SHAPES = {"k": (12, 10), "q": (7, 16), "v": (16, 7)}
WEIGHTS = [[1.0, 1.0, 1.0], [0.3, -0.9, 1.8]]
Deltas = list[dict[str, Array]]  # of every input: path → ΔW
Oracle = Callable[..., dict[str, Array]]


class Recipe:
    """Modules in memory, every ΔW as the product of the identity and itself, so that its entries are exact."""

    rank = None

    def __init__(self, deltas: Deltas, weights: list[float]) -> None:
        self.deltas, self.weights, self.n = deltas, weights, len(deltas)

    def __iter__(self) -> Iterator[Module]:
        for path in sorted({path for item in self.deltas for path in item}):
            owners = tuple(i for i, item in enumerate(self.deltas) if path in item)
            d_out, d_in = self.deltas[owners[0]][path].shape
            layout = ModuleLayout(path, "linear", "a", "b", rank=1, d_in=d_in, d_out=d_out, scaling=1.0)
            factors = tuple(self._factors(self.deltas[i][path]) for i in owners)
            weights = tuple(self.weights[i] for i in owners)
            yield Module(layout, owners, factors, weights, tuple(digest(i) for i in owners))

    @staticmethod
    def _factors(delta: Array) -> Factors:
        matrix = torch.from_numpy(delta)
        return Factors(matrix, torch.eye(len(matrix), dtype=torch.float64), 1.0)


def digest(i: int) -> str:
    return f"digest {i}"


def random_deltas(*missing: tuple[int, str], n: int = 3, shapes: dict[str, tuple[int, int]] = SHAPES) -> Deltas:
    """Return float32 numbers, as entries are compared in that precision; without the modules named."""
    generator = np.random.default_rng(7)
    return [
        {
            path: generator.standard_normal(shape).astype(np.float32).astype(np.float64)
            for path, shape in shapes.items()
            if (i, path) not in missing
        }
        for i in range(n)
    ]


def merged(name: str, deltas: Deltas, weights: list[float] | None = None, **params: Any) -> dict[str, Array]:
    recipe = Recipe(deltas, weights or [1.0] * len(deltas))
    result = {}
    for module, delta in MERGES.get(name).run(recipe, MERGES.parse(name, params)):
        if isinstance(delta, Elementwise):
            whole = torch.cat([block for _, block in delta.blocks()])
        else:
            whole = sum(term.scaling * term.B @ term.A for term in delta)
        result[module.layout.path] = whole.double().numpy()
    return result


def per_module(rule: Callable[[str, list[int], Array, Array], Array], deltas: Deltas, weights: list[float]) -> Any:
    """Apply a rule to the path, the inputs, their entries (n, d_out, d_in) and their weights (n, 1, 1)."""
    result = {}
    for path in {path for item in deltas for path in item}:
        owners = [i for i, item in enumerate(deltas) if path in item]
        stack = np.stack([deltas[i][path] for i in owners])
        result[path] = rule(path, owners, stack, np.array([weights[i] for i in owners])[:, None, None])
    return result


def everywhere(scope: str, keep: Callable[[Array], Array], deltas: Deltas) -> Deltas:
    """Multiply the entries of every input by the mask that `keep` gives a flat array of them."""
    if scope == "tensor":
        return [{path: d * keep(d.ravel()).reshape(d.shape) for path, d in item.items()} for item in deltas]
    result = []
    for item in deltas:
        mask = keep(np.concatenate([d.ravel() for d in item.values()]))
        masks = np.split(mask, np.cumsum([d.size for d in item.values()])[:-1])
        result.append({path: d * part.reshape(d.shape) for (path, d), part in zip(item.items(), masks, strict=True)})
    return result


def ranks_from_top(entries: Array) -> Array:
    """Return 0 for the largest magnitude, 1 for the next, …"""
    return np.argsort(np.argsort(-np.abs(entries), kind="stable"), kind="stable")


def elected_mean(stack: Array, weights: Array, semantics: str, average: bool = True) -> Array:
    """Elect signs and average, entry by entry, in a loop."""
    merged = np.zeros(stack.shape[1:])
    for place in np.ndindex(*merged.shape):
        values, scale = stack[(slice(None), *place)], weights[:, 0, 0]
        votes = values if semantics == "peft" else values * scale
        sign = 1 if math.fsum(votes) >= 0 else -1
        agree = [i for i, vote in enumerate(votes) if vote * sign > 0]
        if agree:
            total = sum(scale[i] * values[i] for i in agree)
            parts = sum(abs(scale[i]) for i in agree) if semantics == "mergekit" else len(agree)
            merged[place] = total / (parts if average else 1)
    return merged


def drawn(seed: int, i: int, path: str, shape: tuple[int, ...]) -> Array:
    return uniform(seed, digest(i), path, slice(0, shape[0]), shape[1]).double().numpy()


def ties(deltas: Deltas, weights: list[float], density: float, scope: str, semantics: str) -> dict[str, Array]:
    kept = everywhere(scope, lambda x: ranks_from_top(x) < max(1, int(density * x.size)), deltas)
    return per_module(lambda p, o, stack, w: elected_mean(stack, w, semantics), kept, weights)


def magnitude_prune(deltas: Deltas, weights: list[float], density: float, scope: str) -> dict[str, Array]:
    kept = everywhere(scope, lambda x: ranks_from_top(x) < max(1, int(density * x.size)), deltas)
    return per_module(lambda p, o, stack, w: (w * stack).sum(0), kept, weights)


def breadcrumbs(
    deltas: Deltas, weights: list[float], density: float, scope: str, gamma: float = 0.01
) -> dict[str, Array]:
    def keep(x: Array) -> Array:
        rank, top = ranks_from_top(x), int(gamma * x.size)
        return (rank >= top) & (rank < top + int(density * x.size))

    return per_module(lambda p, o, stack, w: (w * stack).sum(0), everywhere(scope, keep, deltas), weights)


def dropped(deltas: Deltas, density: float, seed: int) -> Deltas:
    return [
        {path: delta * (drawn(seed, i, path, delta.shape) < density) / density for path, delta in item.items()}
        for i, item in enumerate(deltas)
    ]


def dare(deltas: Deltas, weights: list[float], density: float, seed: int) -> dict[str, Array]:
    return per_module(lambda p, o, stack, w: (w * stack).sum(0), dropped(deltas, density, seed), weights)


def dare_ties(deltas: Deltas, weights: list[float], density: float, seed: int, semantics: str) -> dict[str, Array]:
    def rule(path: str, owners: list[int], stack: Array, w: Array) -> Array:
        return elected_mean(stack, w, semantics, average=semantics != "mergekit")

    return per_module(rule, dropped(deltas, density, seed), weights)


def della(
    deltas: Deltas, weights: list[float], density: float, epsilon: float, seed: int, semantics: str
) -> dict[str, Array]:
    def prune(i: int, path: str, delta: Array) -> Array:
        rank = np.stack([delta.shape[1] - 1 - ranks_from_top(row) for row in delta])  # 0 for the smallest of a row
        probability = density - epsilon + 2 * epsilon * rank / (delta.shape[1] - 1)
        kept = delta * (drawn(seed, i, path, delta.shape) < probability)
        if semantics == "paper":
            return kept / probability
        return kept * np.abs(delta).sum() / np.abs(kept).sum()

    pruned = [{path: prune(i, path, delta) for path, delta in item.items()} for i, item in enumerate(deltas)]
    return per_module(lambda p, o, stack, w: elected_mean(stack, w, semantics), pruned, weights)


def sce(deltas: Deltas, weights: list[float], density: float) -> dict[str, Array]:
    def rule(path: str, owners: list[int], stack: Array, w: Array) -> Array:
        x = w * stack
        variance = np.mean((x - x.mean(0)) ** 2, axis=0)
        order = ranks_from_top(variance.ravel()).reshape(variance.shape)
        x = x * (order < int(density * np.count_nonzero(variance)))
        share = np.mean(x**2, axis=(1, 2), keepdims=True)
        agrees = np.sign(x) == np.where(x.sum(0) >= 0, 1, -1)
        divisor = (share * agrees).sum(0)
        return (share * agrees * x).sum(0) / np.where(divisor == 0, 1, divisor)

    return per_module(rule, deltas, weights)


def emr_unified(deltas: Deltas, weights: list[float]) -> dict[str, Array]:
    def rule(path: str, owners: list[int], stack: Array, w: Array) -> Array:
        sign = np.sign((w * stack).sum(0))
        return sign * np.where(np.sign(w * stack) == sign, np.abs(w * stack), 0).max(0)

    return per_module(rule, deltas, weights)


def consensus(deltas: Deltas, weights: list[float], threshold: float, agreement: int) -> dict[str, Array]:
    def rule(path: str, owners: list[int], stack: Array, w: Array) -> Array:
        total = (w * stack).sum(0)
        masks = np.abs(w * stack) > threshold * np.abs(total - w * stack)
        return total * (masks.sum(0) >= agreement)

    return per_module(rule, deltas, weights)


def both_scopes(oracle: Oracle, **params: Any) -> list[tuple[Oracle, dict[str, Any]]]:
    return [(oracle, params | {"scope": scope}) for scope in ("tensor", "global")]


CASES: list[tuple[Oracle, dict[str, Any]]] = [
    *(case for s in ("paper", "peft", "mergekit") for case in both_scopes(ties, density=0.3, semantics=s)),
    *both_scopes(ties, density=1.0, semantics="paper"),
    *both_scopes(magnitude_prune, density=0.4),
    *both_scopes(magnitude_prune, density=1.0),
    *both_scopes(breadcrumbs, density=0.7, gamma=0.1),
    *both_scopes(breadcrumbs, density=0.95, gamma=0.05),
    (dare, {"density": 0.6, "seed": 5}),
    (dare, {"density": 1.0, "seed": 5}),
    *((dare_ties, {"density": 0.6, "seed": 5, "semantics": s}) for s in ("paper", "peft", "mergekit")),
    *((della, {"density": 0.6, "epsilon": 0.3, "seed": 5, "semantics": s}) for s in ("paper", "mergekit")),
    (sce, {"density": 1.0}),
    (sce, {"density": 0.4}),
    (emr_unified, {}),
    (consensus, {"threshold": 0.4, "agreement": 2}),
    (consensus, {"threshold": 1.0, "agreement": 1}),
]
cases = pytest.mark.parametrize(
    ("oracle", "params"), CASES, ids=["-".join([o.__name__, *map(str, p.values())]) for o, p in CASES]
)


@cases
@pytest.mark.parametrize("weights", WEIGHTS, ids=["equal", "mixed"])
def test_method_equals_the_dense_formula(oracle: Oracle, params: dict[str, Any], weights: list[float]) -> None:
    deltas = random_deltas((1, "k"), (2, "v"))
    found = merged(oracle.__name__, deltas, weights, scale=-0.7, **params)
    expected = oracle(deltas, weights, **params)
    assert found.keys() == expected.keys()
    for path, delta in expected.items():
        assert np.abs(delta).max() > 0
        np.testing.assert_allclose(found[path], -0.7 * delta, rtol=1e-5, atol=1e-6)


@cases
def test_blocks_of_any_height_give_the_same_bits(
    oracle: Oracle, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = random_deltas((1, "k"))
    whole = merged(oracle.__name__, deltas, WEIGHTS[1], **params)
    for entries in (1, 100):
        monkeypatch.setattr(elementwise, "BLOCK_ENTRIES", entries)
        monkeypatch.setattr(elementwise, "HELD_ENTRIES", 0)
        streamed = merged(oracle.__name__, deltas, WEIGHTS[1], **params)
        for path, delta in whole.items():
            np.testing.assert_array_equal(streamed[path], delta)


@cases
def test_one_input_is_only_weighted_and_scaled(oracle: Oracle, params: dict[str, Any]) -> None:
    [delta] = random_deltas(n=1)
    found = merged(oracle.__name__, [delta], [-1.0], scale=0.5, **params)
    assert found.keys() == delta.keys()
    for path, expected in delta.items():
        np.testing.assert_allclose(found[path], -0.5 * expected)


@pytest.mark.parametrize("name", sorted({oracle.__name__ for oracle, _ in CASES}))
def test_modules_of_few_entries_and_without_any_effect_are_finite(name: str) -> None:
    shapes = {"column": (5, 1), "entry": (1, 1), "row": (1, 6)}
    zeros = {path: np.zeros(shape) for path, shape in shapes.items()}
    for deltas in ([*random_deltas(n=2, shapes=shapes), zeros], [zeros, zeros]):
        for delta in merged(name, deltas).values():
            assert np.isfinite(delta).all()
    assert not any(delta.any() for delta in merged(name, [zeros, zeros]).values())


@pytest.mark.parametrize("name", ["ties", "dare_ties", "della"])
def test_semantics_differ(name: str) -> None:
    choices = MERGES.schema(name)["properties"]["semantics"]["enum"]
    results = [merged(name, random_deltas(), WEIGHTS[1], semantics=choice)["k"] for choice in choices]
    for i, first in enumerate(results):
        assert all(np.abs(first - second).max() > 0.1 for second in results[:i])


def test_mergekit_divides_by_weights_and_the_paper_by_the_number_that_agree() -> None:
    deltas = [{"m": np.array([[2.0, 2.0]])}, {"m": np.array([[4.0, -4.0]])}]
    paper, theirs = (merged("ties", deltas, [1.5, 0.5], density=1, semantics=s)["m"] for s in ("paper", "mergekit"))
    assert paper.tolist() == [[(3 + 2) / 2, 3]]
    assert theirs.tolist() == [[(3 + 2) / 2, 2]]
    assert merged("ties", deltas, [1.5, 0.5], density=1, semantics="peft")["m"].tolist() == [[2.5, -2]]


def test_breadcrumbs_of_few_entries_keeps_what_is_asked_for() -> None:
    few = [{"m": np.array([[9.0, -3.0, 1.0, 0.5]])}, {"m": np.zeros((1, 4))}]
    assert merged("breadcrumbs", few, density=0.75, gamma=0.01)["m"].tolist() == [[9, -3, 1, 0]]  # γ·4 < 1 drops none
    assert merged("breadcrumbs", few, density=0.5, gamma=0.25)["m"].tolist() == [[0, -3, 1, 0]]
    assert merged("breadcrumbs", few, density=0.1, gamma=0.0)["m"].tolist() == [[9, 0, 0, 0]]
    assert merged("breadcrumbs", few, density=1e-9, gamma=0.999999)["m"].tolist() == [[0, 0, 0, 0.5]]


def test_sce_of_one_active_input_or_equal_ones_returns_it() -> None:
    [delta] = random_deltas(n=1)
    nothing = {path: np.zeros_like(matrix) for path, matrix in delta.items()}
    for others in ([nothing], [nothing, nothing], [delta, delta]):
        found = merged("sce", [delta, *others], density=0.3)
        for path, matrix in delta.items():
            np.testing.assert_allclose(found[path], matrix, rtol=1e-6)


def test_emr_takes_the_largest_that_agrees_and_consensus_what_several_need() -> None:
    deltas = [
        {"m": np.array([[5.0, 1.0, 3.0]])},
        {"m": np.array([[2.0, -2.0, -3.0]])},
        {"m": np.array([[-6.0, -4, 0]])},
    ]
    assert merged("emr_unified", deltas)["m"].tolist() == [[5, -4, 0]]
    # their distances from the sum (1, -5, 0) are (4, 6, 3), (1, 3, 3) and (7, 1, 0)
    assert merged("consensus", deltas, threshold=1, agreement=1)["m"].tolist() == [[1, -5, 0]]
    assert merged("consensus", deltas, threshold=1, agreement=2)["m"].tolist() == [[1, 0, 0]]


def test_dropped_entries_are_made_up_for_on_average() -> None:
    deltas = random_deltas(n=2)
    for name, params in (("dare", {"density": 0.3}), ("della", {"density": 0.5, "epsilon": 0.3})):
        runs = np.stack([merged(name, deltas, seed=seed, **params)["q"] for seed in range(300)])
        kept = (runs != 0).mean()
        assert 0.4 < kept < 0.9
        if name == "dare":
            expected = sum(item["q"] for item in deltas)
            spread = np.sqrt(sum(item["q"] ** 2 for item in deltas) * (1 / 0.3 - 1) / len(runs))
            assert (np.abs(runs.mean(0) - expected) < 5 * spread).all()


def test_random_masks_belong_to_the_input_and_not_to_its_place() -> None:
    first, second = random_deltas(n=2)
    alone = merged("dare", [first, {path: matrix * 0 for path, matrix in second.items()}], seed=3)
    joined = merged("dare", [first, second], seed=3)
    rest = merged("dare", [{path: matrix * 0 for path, matrix in first.items()}, second], seed=3)
    for path in first:
        np.testing.assert_allclose(joined[path], alone[path] + rest[path], atol=1e-6)
        assert np.abs(joined[path] - merged("dare", [first, second], seed=4)[path]).max() > 0.1


@pytest.mark.parametrize("name", ["ties", "magnitude_prune", "dare", "dare_ties", "della", "breadcrumbs", "sce"])
@pytest.mark.parametrize("density", [0, -0.1, 1.1, math.nan])
def test_density_is_a_fraction(name: str, density: float) -> None:
    with pytest.raises(InvalidParams):
        MERGES.parse(name, {"density": density})


def test_bounds_between_parameters_are_checked() -> None:
    for density, epsilon in ((0.1, 0.1), (0.1, 0.2), (0.9, 0.1), (1, 0)):
        with pytest.raises(InvalidParams, match="epsilon"):
            MERGES.parse("della", {"density": density, "epsilon": epsilon})
    MERGES.parse("della", {"density": 0.5, "epsilon": 0})
    with pytest.raises(InvalidParams, match="gamma"):
        MERGES.parse("breadcrumbs", {"density": 0.95, "gamma": 0.1})
    with pytest.raises(InvalidParams, match="only 2 inputs"):
        merged("consensus", random_deltas(n=2), agreement=3)


@pytest.mark.parametrize(
    ("name", "theirs", "params"),
    [
        ("magnitude_prune", merge_utils.magnitude_prune, {"density": 0.3}),
        ("dare", merge_utils.dare_linear, {"density": 0.3}),
        ("dare_ties", merge_utils.dare_ties, {"density": 0.3, "semantics": "peft"}),
    ],
)
@pytest.mark.parametrize("weights", WEIGHTS, ids=["equal", "mixed"])
def test_peft_computes_the_same_of_the_same_masks(
    name: str, theirs: Any, params: dict[str, Any], weights: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    deltas = random_deltas(shapes={"m": (9, 11)})
    masks = iter(drawn(0, i, "m", (9, 11)) < 0.3 for i in range(3))
    monkeypatch.setattr(torch, "bernoulli", lambda p: torch.from_numpy(next(masks)).to(p.dtype))
    tensors = [torch.from_numpy(item["m"]) for item in deltas]
    expected = theirs(tensors, torch.tensor(weights, dtype=torch.float64), density=0.3)
    np.testing.assert_allclose(merged(name, deltas, weights, **params)["m"], expected.numpy(), rtol=1e-5, atol=1e-6)
