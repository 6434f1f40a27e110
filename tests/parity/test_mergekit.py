"""mergekit's functions on ΔW as whole matrices, with a base of zeros where one is asked for.

Tolerance: 1e-5 relative. Our result has been through float32 factors; mergekit rounds norms to float32 on its way.
Weights of our relative methods are given with Σ|w| = n, where they are mergekit's.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mergekit.merge_methods.generalized_task_arithmetic import GTATask
from mergekit.merge_methods.karcher import karcher_merge_tensors
from mergekit.merge_methods.model_stock import ModelStockMergeTask
from mergekit.merge_methods.multislerp import multislerp
from mergekit.merge_methods.nuslerp import nuslerp
from mergekit.merge_methods.registry import REGISTERED_MERGE_METHODS
from mergekit.merge_methods.sce import sce_merge
from mergekit.merge_methods.slerp import slerp
from mergekit.sparsify import RescaleNorm

from tests.parity.engine import Adapters, deviation

TOLERANCE = 1e-5
WEIGHTS = [1.2, 0.6, 1.2]
BASE = "base"
WEIGHT_INFO = SimpleNamespace(name="layer", is_embed=False, optional=False)


def with_base(deltas: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {BASE: torch.zeros_like(deltas[0])} | {str(i): delta.clone() for i, delta in enumerate(deltas)}


def task_arithmetic(
    name: str, deltas: list[torch.Tensor], weights: list[float], *, rescale: bool = False, **options: Any
) -> torch.Tensor:
    """Run one of mergekit's generalized task arithmetic methods; options by its names, as defaults where it has any."""
    method = REGISTERED_MERGE_METHODS[name]
    defaults = {param.name: param.default_value for param in method.parameters()}
    each = {param.name: param.default_value for param in method.tensor_parameters()}
    each |= {key: value for key, value in options.items() if key in each}
    task = GTATask.model_construct(
        method=method,
        base_model=BASE,
        weight_info=WEIGHT_INFO,
        tensor_parameters=SimpleNamespace(data={str(i): each | {"weight": weight} for i, weight in enumerate(weights)}),
        int8_mask=False,
        normalize=options.get("normalize", defaults["normalize"]),
        lambda_=options.get("lambda_", defaults["lambda"]),
        rescale_norm=RescaleNorm.l1 if rescale else None,
    )
    return task.execute(tensors=with_base(deltas))


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5])
def test_slerp(t: float, pair: Adapters) -> None:
    first, second = pair.deltas
    assert deviation(pair.merged("slerp", t=t), slerp(t, first, second)) < TOLERANCE


@pytest.mark.parametrize(("scope", "options"), [("tensor", {"flatten": True}), ("row", {}), ("column", {"dim": 0})])
def test_nuslerp(scope: str, options: dict[str, Any], pair: Adapters) -> None:
    first, second = pair.deltas
    expected = nuslerp(0.7, first, second, **options)  # mergekit: t = w₂/Σw
    assert deviation(pair.merged("nuslerp", [0.6, 1.4], scope=scope), expected) < TOLERANCE


def test_multislerp(three: Adapters) -> None:
    assert deviation(three.merged("multislerp", WEIGHTS), multislerp(three.deltas, WEIGHTS)) < TOLERANCE


@pytest.mark.parametrize("max_iter", [1, 10])
def test_karcher(max_iter: int, three: Adapters) -> None:
    expected = karcher_merge_tensors(three.deltas, [weight / 3 for weight in WEIGHTS], max_iter=max_iter)
    assert deviation(three.merged("karcher", WEIGHTS, max_iter=max_iter), expected) < TOLERANCE


@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_model_stock(scope: str, three: Adapters) -> None:
    task = ModelStockMergeTask.model_construct(base_model=BASE, weight_info=WEIGHT_INFO, filter_wise=scope == "row")
    expected = task.execute(tensors=with_base(three.deltas))
    assert deviation(three.merged("model_stock", scope=scope), expected) < TOLERANCE


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_sce(density: float, three: Adapters) -> None:
    deltas = three.rounded
    expected = sce_merge(deltas, torch.zeros_like(deltas[0]), select_topk=density)
    assert deviation(three.merged("sce", density=density), expected) < TOLERANCE


def test_task_arithmetic(three: Adapters) -> None:
    expected = task_arithmetic("task_arithmetic", three.deltas, WEIGHTS, lambda_=0.4)
    assert deviation(three.merged("weighted_sum", WEIGHTS, scale=0.4), expected) < TOLERANCE


@pytest.mark.parametrize("weights", [WEIGHTS, [1.2, -0.6, 1.2]], ids=["positive", "mixed"])
@pytest.mark.parametrize(("density", "gamma"), [(0.9, 0.01), (0.4, 0.1)])
def test_breadcrumbs(density: float, gamma: float, weights: list[float], three: Adapters) -> None:
    expected = task_arithmetic("breadcrumbs", three.rounded, weights, density=density, gamma=gamma)
    assert deviation(three.merged("breadcrumbs", weights, density=density, gamma=gamma), expected) < TOLERANCE


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_ties(density: float, three: Adapters) -> None:
    expected = task_arithmetic("ties", three.rounded, WEIGHTS, density=density)
    assert deviation(three.merged("ties", WEIGHTS, density=density, semantics="mergekit"), expected) < TOLERANCE


@pytest.mark.parametrize(("density", "epsilon"), [(0.7, 0.15), (0.4, 0.3)])
def test_della(density: float, epsilon: float, three: Adapters, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter([three.drawn(3, i) for i in range(3)])  # of the same masks
    monkeypatch.setattr(torch, "bernoulli", lambda p: (next(numbers) < p).to(p.dtype))
    expected = task_arithmetic("della", three.rounded, WEIGHTS, rescale=True, density=density, epsilon=epsilon)
    ours = three.merged("della", WEIGHTS, density=density, epsilon=epsilon, seed=3, semantics="mergekit")
    assert deviation(ours, expected) < TOLERANCE
