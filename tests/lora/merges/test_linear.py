"""The linear family against dense numpy on flattened ΔW, which knows nothing of factors and Gram matrices."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lora.errors import InvalidParams
from lora.merging import OutputSpec, resolve_weights
from lora.weights import Factors
from tests.lora.factories import write_adapter_files
from tests.lora.in_memory import dense, merged, random_delta
from tests.lora.peft_models import peft_merge, save_adapter
from tests.lora.raw_files import Array, best_of_rank, read_config, read_deltas, relative_error
from tests.lora.recipes import run_merge

RANKS = [[2, 3], [3, 1, 2], [4, 4, 4, 4]]  # the last has more directions than the module has rows or columns
NONE = np.zeros((12, 10))


@pytest.fixture(params=RANKS, ids=str)
def deltas(request: pytest.FixtureRequest) -> list[Factors]:
    """Adapters with a part in common."""
    shared = random_delta(99, 1)
    parts = [random_delta(seed, rank) for seed, rank in enumerate(request.param)]
    return [Factors(torch.cat([p.A, shared.A]), torch.cat([p.B, 3 * shared.B], dim=1), p.scaling) for p in parts]


@pytest.fixture
def pair(deltas: list[Factors]) -> list[Factors]:
    return deltas[:2]


def unit(X: Array) -> Array:
    return X / np.linalg.norm(X)


def angle(x: Array, y: Array) -> float:
    """The angle by the half-chord formula, which is accurate where arccos is not."""
    return 2 * math.atan2(float(np.linalg.norm(unit(x) - unit(y))), float(np.linalg.norm(unit(x) + unit(y))))


def dense_slerp(x: Array, y: Array, t: float) -> Array:
    theta = angle(x, y)
    return (np.sin((1 - t) * theta) * x + np.sin(t * theta) * y) / np.sin(theta)


def relative(weights: list[float]) -> list[float]:
    return [weight * len(weights) / sum(map(abs, weights)) for weight in weights]


# --- sums -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "params"), [("weighted_sum", {"scale": 0.3}), ("cat", {}), ("svd", {})])
def test_sums_add_the_products(method: str, params: dict[str, float], deltas: list[Factors]) -> None:
    weights = [0.7, -0.4, 0.9, 1.5][: len(deltas)]
    total = sum(weight * dense(delta) for weight, delta in zip(weights, deltas, strict=True))
    actual = merged(method, deltas, weights, **params)
    assert relative_error(actual, params.get("scale", 1.0) * total) < 1e-12


def test_cat_keeps_every_factor_as_it_is(tmp_path: Path) -> None:
    folders = [write_adapter_files(tmp_path / str(r), rank=r, alpha=2 * r, seed=r) for r in (2, 3)]
    report = run_merge(tmp_path / "out", folders, "cat", weights=[1, -0.5], output=OutputSpec("exact"))
    first, second, out = (load_file(folder / "adapter_model.safetensors") for folder in [*folders, tmp_path / "out"])
    for name, tensor in out.items():
        if "lora_B" in name:
            assert torch.equal(tensor, torch.cat([first[name], second[name]], dim=1))
        else:
            assert torch.equal(tensor, torch.cat([2 * first[name], -first[name].new_ones(()) * second[name]]))
    assert read_config(tmp_path / "out")["r"] == 5
    assert report["energy_kept"] == 1


def test_cat_pads_modules_that_an_input_lacks_and_may_exceed_the_full_rank(tmp_path: Path) -> None:
    shapes = {"small": (2, 3), "large": (6, 5)}
    folders = [
        write_adapter_files(tmp_path / "a", shapes, rank=2, seed=1),
        write_adapter_files(tmp_path / "b", {"large": (6, 5)}, rank=4, seed=2),
    ]
    report = run_merge(tmp_path / "out", folders, "cat", output=OutputSpec("exact"))
    assert read_config(tmp_path / "out")["r"] == 6
    assert [row["rank"] for row in report["per_module"]] == [5, 2]  # of ΔW; the file has 6 everywhere
    first, second, out = map(read_deltas, [*folders, tmp_path / "out"])
    assert relative_error(out["large"], (first["large"] + second["large"]) / 2) < 1e-6
    assert relative_error(out["small"], first["small"] / 2) < 1e-6


@pytest.mark.parametrize("output", [OutputSpec(), OutputSpec("fixed", 2), OutputSpec("energy", 0.5)])
def test_cat_refuses_to_cut(output: OutputSpec, tmp_path: Path) -> None:
    folder = write_adapter_files(tmp_path / "a")
    with pytest.raises(InvalidParams, match=r"rank\.mode is exact.*svd"):
        run_merge(tmp_path / "out", [folder], "cat", output=output)


def test_cat_and_svd_are_those_of_peft(tmp_path: Path) -> None:
    folders = [save_adapter(tmp_path / str(r), r, r=r, lora_alpha=5, target_modules=["q", "v"]) for r in (2, 3, 4)]
    weights = [0.7, -0.2, 0.9]
    for method, output in (("cat", OutputSpec("exact")), ("svd", OutputSpec())):
        run_merge(tmp_path / method, folders, method, weights=weights, output=output)
        ours = read_deltas(tmp_path / method)
        for path, delta in peft_merge(folders, weights, combination_type=method).items():
            assert relative_error(ours[path], delta.double().numpy()) < 1e-5


def test_svd_makes_one_adapter_smaller(tmp_path: Path) -> None:
    folder = write_adapter_files(tmp_path / "a", rank=4)
    run_merge(tmp_path / "out", [folder], "svd", output=OutputSpec("fixed", 2))
    for path, delta in read_deltas(folder).items():
        assert relative_error(read_deltas(tmp_path / "out")[path], best_of_rank(delta, 2)) < 1e-6


# --- arcs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.5, -0.5]])
def test_slerp_follows_the_arc(t: float, weights: list[float], pair: list[Factors]) -> None:
    x, y = (weight * dense(delta) for weight, delta in zip(weights, pair, strict=True))
    assert relative_error(merged("slerp", pair, weights, t=t), dense_slerp(x, y, t)) < 1e-10


def test_slerp_keeps_the_norm_of_equal_norms(pair: list[Factors]) -> None:
    sized = [delta.scaled(1 / float(np.linalg.norm(dense(delta)))) for delta in pair]
    for t in (0.1, 0.5, 0.8):
        result = merged("slerp", sized, [1, 1], t=t)
        assert np.linalg.norm(result) == pytest.approx(1)
        assert angle(result, dense(sized[0])) == pytest.approx(t * angle(*map(dense, sized)))


def test_slerp_takes_the_chord_of_nearly_parallel_and_opposite_inputs(pair: list[Factors]) -> None:
    x = pair[0]
    near = Factors(x.A, x.B + 1e-3 * random_delta(7, x.A.shape[0]).B, x.scaling)
    for y in (near, near.scaled(-2), x.scaled(3), x.scaled(-1)):
        expected = 0.75 * dense(x) + 0.25 * dense(y)
        assert relative_error(merged("slerp", [x, y], [1, 1], t=0.25), expected) < 1e-12


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_counts_a_missing_or_untrained_input_as_at_right_angles(t: float, pair: list[Factors]) -> None:
    x, zero = pair[0], Factors(pair[1].A, 0 * pair[1].B, 1.0)
    cases = {
        math.sin((1 - t) * math.pi / 2): [{0: x}, {0: x, 1: zero}],
        math.sin(t * math.pi / 2): [{1: x}, {0: zero, 1: x}],
    }
    for factor, recipes in cases.items():
        for deltas in recipes:
            assert np.allclose(merged("slerp", deltas, [1, 1], t=t), factor * dense(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_slerp_takes_two_inputs_and_one_is_its_own_merge(method: str, pair: list[Factors]) -> None:
    with pytest.raises(InvalidParams, match="at most 2 inputs, not 3"):
        resolve_weights(method, [1, 1, 1])
    assert relative_error(merged(method, pair[:1], [1]), dense(pair[0])) < 1e-15


@pytest.mark.parametrize("weights", [[1.0, 1.0], [3.0, 1.0], [1.0, -2.0]])
def test_nuslerp_takes_its_position_from_the_weights(weights: list[float], pair: list[Factors]) -> None:
    t = abs(weights[1]) / sum(map(abs, weights))
    x, y = (np.sign(weight) * dense(delta) for weight, delta in zip(weights, pair, strict=True))
    assert relative_error(merged("nuslerp", pair, relative(weights)), dense_slerp(x, y, t)) < 1e-10
    rows = np.stack([dense_slerp(a, b, t) for a, b in zip(x, y, strict=True)])
    assert relative_error(merged("nuslerp", pair, relative(weights), scope="row"), rows) < 1e-10
    columns = np.stack([dense_slerp(a, b, t) for a, b in zip(x.T, y.T, strict=True)], axis=1)
    assert relative_error(merged("nuslerp", pair, relative(weights), scope="column"), columns) < 1e-10


@pytest.mark.parametrize("scope", ["tensor", "row", "column"])
def test_nuslerp_of_parallel_and_opposite_inputs_is_their_mean(scope: str, pair: list[Factors]) -> None:
    for factor in (1.0, 2.5, -0.5):
        both = [pair[0], pair[0].scaled(factor)]
        assert relative_error(merged("nuslerp", both, [1, 1], scope=scope), (1 + factor) / 2 * dense(pair[0])) < 1e-10
    assert np.abs(merged("nuslerp", [pair[0], pair[0].scaled(-1)], [1, 1], scope=scope)).max() < 1e-10


@pytest.mark.parametrize("scope", ["tensor", "row", "column"])
def test_nuslerp_counts_a_missing_input_as_at_right_angles(scope: str, pair: list[Factors]) -> None:
    for i, t in ((0, 0.75), (1, 0.25)):
        expected = math.sin(t * math.pi / 2) * dense(pair[0])
        assert relative_error(merged("nuslerp", {i: pair[0]}, relative([3, 1]), scope=scope), expected) < 1e-12


# --- means on the sphere ----------------------------------------------------------------------------------------------


def dense_multislerp(deltas: list[Array], shares: list[float]) -> Array:
    """The published steps, with the tangent step that is zero in exact arithmetic."""
    units = [unit(delta) for delta in deltas]
    mean = unit(sum(a * u for a, u in zip(shares, units, strict=True)))
    tangent = sum(a * (u - np.sum(u * mean) * mean) for a, u in zip(shares, units, strict=True))
    length = np.linalg.norm(tangent) + 1e-8
    on_sphere = mean * np.cos(length) + tangent * np.sin(length) / length
    return on_sphere * sum(a * np.linalg.norm(delta) for a, delta in zip(shares, deltas, strict=True))


def dense_karcher(deltas: list[Array], shares: list[float], steps: int) -> Array:
    units = [unit(delta) for delta in deltas]
    mean = unit(sum(a * u for a, u in zip(shares, units, strict=True)))
    for _ in range(steps):
        logs = [(u - np.sum(u * mean) * mean, angle(u, mean)) for u in units]
        step = sum(a * theta * unit(log) for a, (log, theta) in zip(shares, logs, strict=True) if theta > 1e-9)
        length = float(np.linalg.norm(step))
        mean = np.cos(length) * mean + (np.sin(length) / length * step if length else 0)
    return mean * sum(a * np.linalg.norm(delta) for a, delta in zip(shares, deltas, strict=True))


@pytest.mark.parametrize("signs", [[1, 1, 1, 1], [1, -1, 1, -1]])
def test_means_on_the_sphere_are_the_dense_ones(signs: list[int], deltas: list[Factors]) -> None:
    weights = relative([s * w for s, w in zip(signs, [1.0, 2.0, 0.5, 3.0], strict=True)][: len(deltas)])
    shares = [abs(weight) / len(weights) for weight in weights]
    signed = [np.sign(weight) * dense(delta) for weight, delta in zip(weights, deltas, strict=True)]
    assert relative_error(merged("multislerp", deltas, weights), dense_multislerp(signed, shares)) < 1e-8
    converged = merged("karcher", deltas, weights, max_iter=200, tol=1e-12)
    assert relative_error(converged, dense_karcher(signed, shares, 200)) < 1e-8
    few = merged("karcher", deltas, weights, max_iter=2, tol=1e-12)
    assert relative_error(few, dense_karcher(signed, shares, 2)) < 1e-10


def test_karcher_mean_of_two_is_slerp(pair: list[Factors]) -> None:
    sized = [delta.scaled(1 / float(np.linalg.norm(dense(delta)))) for delta in pair]
    for weights in ([1, 1], [3, 1]):
        expected = dense_slerp(*map(dense, sized), t=weights[1] / sum(weights))
        assert relative_error(merged("karcher", sized, relative(weights), max_iter=100, tol=1e-12), expected) < 1e-9


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_untrained_and_missing_inputs_have_no_direction_but_count_in_the_norm(
    method: str, deltas: list[Factors]
) -> None:
    zero = Factors(deltas[0].A, 0 * deltas[0].B, 1.0)
    alone = merged(method, deltas, [1] * len(deltas))
    ones = [1] * (len(deltas) + 1)
    for with_zero in (merged(method, [*deltas, zero], ones), merged(method, dict(enumerate(deltas)), ones)):
        assert relative_error(with_zero, len(deltas) / (len(deltas) + 1) * alone) < 1e-10
    assert not merged(method, [zero, zero], [1, 1]).any()


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_directions_that_cancel_give_the_mean(method: str, deltas: list[Factors]) -> None:
    opposite = [*deltas, *(delta.scaled(-1) for delta in deltas)]
    assert np.abs(merged(method, opposite, [1] * len(opposite))).max() < 1e-10
    unequal = [deltas[0], deltas[0].scaled(-3)]
    assert relative_error(merged(method, unequal, [1, 1]), -dense(deltas[0])) < 1e-10


# --- model stock ------------------------------------------------------------------------------------------------------


def dense_stock(deltas: list[Array]) -> Array:
    n = len(deltas)
    pairs = [
        np.sum(deltas[i] * deltas[j]) / max(np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[j]), 1e-300)
        for i in range(n)
        for j in range(i + 1, n)
    ]
    c = max(float(np.mean(pairs)), 0)
    return n * c / (1 + (n - 1) * c) * sum(deltas) / n


@pytest.mark.parametrize("weighted", [False, True])
def test_model_stock_is_the_dense_one(weighted: bool, deltas: list[Factors]) -> None:
    weights = relative([1.0, 2.0, 0.5, 3.0][: len(deltas)]) if weighted else [1.0] * len(deltas)
    whole = [weight * dense(delta) for weight, delta in zip(weights, deltas, strict=True)]
    assert relative_error(merged("model_stock", deltas, weights), dense_stock(whole)) < 1e-10
    rows = np.stack([dense_stock([delta[k] for delta in whole]) for k in range(len(whole[0]))])
    assert relative_error(merged("model_stock", deltas, weights, scope="row"), rows) < 1e-10


@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_model_stock_keeps_what_all_runs_share(scope: str, deltas: list[Factors]) -> None:
    same = [deltas[0]] * 3
    assert relative_error(merged("model_stock", same, [1, 1, 1], scope=scope), dense(deltas[0])) < 1e-10
    opposite = [deltas[0], deltas[0].scaled(-0.5)]
    assert not merged("model_stock", opposite, [1, 1], scope=scope).any()
    absent = merged("model_stock", dict(enumerate(same)), [1, 1, 1, 1], scope=scope)
    assert relative_error(absent, dense_stock([*[dense(deltas[0])] * 3, NONE])) < 1e-10
