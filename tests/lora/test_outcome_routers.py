"""Routers from outcomes against their formulas, written out text by text in plain Python."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from lora.errors import InvalidParams
from lora.outcomes import Outcomes, expect, shifted
from lora.prototypes.outcomes import score_table
from lora.routers import ROUTERS
from lora.routers.classifier import fit_head
from lora.routers.routellm_mf import Factors, loss_and_gradient, pairs

NAN = math.nan
ROUTERS_FROM_OUTCOMES = [name for name in ROUTERS.names() if ROUTERS.get(name).traits["prototype"] == "outcomes"]


def unit(rows: Any) -> Any:
    rows = np.asarray(rows, dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_outcomes(seed: int, experts: int = 4, texts: int = 12, share: float = 0.7) -> Outcomes:
    rng = np.random.default_rng(seed)
    probe, expert = np.nonzero(rng.random((texts, experts)) < share)
    costs = rng.random(len(probe))
    costs[rng.random(len(probe)) < 0.3] = NAN
    return Outcomes(
        unit(rng.normal(size=(texts, 5))), experts, probe, expert, rng.integers(0, 3, len(probe)),
        rng.integers(0, 3, len(probe)) / 2, costs,
    )  # fmt: skip


def predict(name: str, rows: Any, outcomes: Outcomes, **params: object) -> Any:
    made = ROUTERS.get(name).run(ROUTERS.parse(name, params)).fit(outcomes)
    return None if made is None else made(rows)


def near(row: Any, outcomes: Outcomes, expert: int, count: int, without: int = -1) -> list[int]:
    """The outcomes of an expert on the texts nearest to a row, each text once (as `random_outcomes` has them)."""
    mine = [i for i in range(len(outcomes.probe)) if outcomes.expert[i] == expert and outcomes.probe[i] != without]
    cosine = {i: round(float(row.astype(float) @ outcomes.probes[outcomes.probe[i]].astype(float)), 9) for i in mine}
    return sorted(mine, key=lambda i: (-cosine[i], outcomes.probe[i]))[:count]


def g(row: Any, outcomes: Outcomes, expert: int, count: int, prior: float, without: int = -1) -> float:
    found = near(row, outcomes, expert, count, without)
    return (sum(outcomes.score[i] for i in found) + prior) / (len(found) + 2 * prior)


@pytest.mark.parametrize("seed", range(3))
def test_s1_and_s2_are_means_over_the_texts_of_means_over_neighbours(seed: int) -> None:
    outcomes = random_outcomes(seed)
    rows = unit(np.random.default_rng(seed + 9).normal(size=(3, 5)))
    s1 = predict("benchmark_knn", rows, outcomes, neighbours=3, prior=0.5)
    s2 = predict("benchmark_knn", rows, outcomes, neighbours=3, prior=0.5, score="s2")
    for expert in range(4):
        predicted = [g(row, outcomes, expert, 3, 0.5) for row in rows]
        assert s1.scores[expert] == pytest.approx(sum(predicted) / 3, abs=1e-12)
        assert s2.scores[expert] == pytest.approx(sum(value > 0.5 for value in predicted) / 3, abs=1e-12)
        assert s2.quality[expert] == s1.scores[expert]


@pytest.mark.parametrize("seed", range(3))
def test_s3_weighs_a_prediction_by_how_often_such_were_right_near_by(seed: int) -> None:
    outcomes = random_outcomes(seed, texts=20, share=0.9)
    [row] = rows = unit(np.random.default_rng(seed + 9).normal(size=(1, 5)))
    wanted, means = [], []
    for expert in range(4):
        right, mass = 1.0, 2.0
        mine = [i for i in range(len(outcomes.probe)) if outcomes.expert[i] == expert]
        for i in mine:
            text = outcomes.probes[outcomes.probe[i]]
            hit = (g(text, outcomes, expert, 3, 1, without=outcomes.probe[i]) > 0.5) == (outcomes.score[i] > 0.5)
            weight = math.exp((round(float(row.astype(float) @ text.astype(float)), 9) - 1) / 0.1)
            right, mass = right + weight * hit, mass + weight
        p, s2 = right / mass, float(g(row, outcomes, expert, 3, 1) > 0.5)
        wanted.append(s2 * p + (1 - s2) * (1 - p))
        means.append((sum(outcomes.score[i] for i in mine) + 1) / (len(mine) + 2))
    if max(wanted) <= max(means):
        wanted = means
    found = predict("benchmark_knn", rows, outcomes, neighbours=3, score="s3")
    assert found.scores == pytest.approx(wanted, abs=1e-9)


def test_what_several_say_of_an_expert_and_a_text_is_one_outcome() -> None:
    text = unit([[1, 0]])
    outcomes = Outcomes(
        text, 1, np.zeros(3, int), np.zeros(3, int), np.arange(3), np.array([1.0, 1, 0]), np.array([2, NAN, 4])
    )
    assert predict("benchmark_knn", text, outcomes, prior=0).scores == pytest.approx([2 / 3])
    assert outcomes.cells.cost.tolist() == [3.0]


def test_few_outcomes_promise_little() -> None:
    text = unit([[1, 0]])
    one = Outcomes(text, 2, np.array([0]), np.array([1]), np.array([0]), np.array([1.0]), np.array([NAN]))
    found = predict("benchmark_knn", text, one)
    assert math.isnan(found.scores[0])
    assert found.scores[1] == pytest.approx(2 / 3)


def priced(scores: list[float], costs: list[float]) -> Outcomes:
    count = len(scores)
    return Outcomes(
        unit([[1, 0]]), count, np.zeros(count, int), np.arange(count), np.zeros(count, int), np.array(scores),
        np.array(costs),
    )  # fmt: skip


def test_the_cheapest_that_is_good_enough_comes_first() -> None:
    outcomes = priced([1.0, 0.8, 0.6, 0.2, 0.9], [9, 4, 2, 1, NAN])
    row = unit([[1, 0]])
    options = {"prior": 0, "threshold": 0.6}
    assert np.array_equal(
        predict("cost_aware", row, outcomes, **options).scores, [-9, -4, -2, NAN, NAN], equal_nan=True
    )
    under = predict("cost_aware", row, outcomes, threshold=0.7, budget=5, prior=0)
    assert np.array_equal(under.scores, [NAN, -4, NAN, NAN, NAN], equal_nan=True)
    # None is good enough under the budget: the best of those that are affordable.
    none = predict("cost_aware", row, outcomes, threshold=0.9, budget=5, prior=0)
    assert np.array_equal(none.scores, [NAN, -4, NAN, NAN, NAN], equal_nan=True)
    utility = predict("cost_aware", row, outcomes, rule="utility", price=0.1, prior=0)
    assert utility.scores[:4] == pytest.approx([0.1, 0.4, 0.4, 0.1])
    assert math.isnan(utility.scores[4])
    broke = predict("cost_aware", row, outcomes, budget=0.5)
    assert np.isnan(broke.scores).all()


def test_an_expert_costs_near_by_what_it_cost_elsewhere_where_nothing_else_is_known() -> None:
    rows = unit([[1, 0], [0, 1]])
    outcomes = Outcomes(
        rows, 1, np.array([0, 1]), np.zeros(2, int), np.zeros(2, int), np.array([1.0, 0]), np.array([NAN, 7])
    )
    found = predict("cost_aware", rows[:1], outcomes, neighbours=1)
    assert found.costs == pytest.approx([7])


def test_the_table_has_the_texts_that_tell_experts_apart() -> None:
    # Text 0: one expert; 1: two that tie; 2 and 3: two that differ.
    outcomes = Outcomes(
        unit(np.eye(4)), 5, np.array([0, 1, 1, 2, 2, 3, 3]), np.array([4, 1, 3, 3, 1, 1, 3]), np.zeros(7, int),
        np.array([1, 1, 1, 1, 0, 0.5, 0]), np.full(7, NAN),
    )  # fmt: skip
    rows, table, experts = score_table(outcomes, 100)
    assert experts.tolist() == [1, 3]
    assert table.tolist() == [[0, 1], [0.5, 0]]
    assert rows.tolist() == np.eye(4)[2:].tolist()
    assert score_table(outcomes, 2)[1].tolist() == [[0.5, 0]]


def test_the_head_is_where_the_loss_of_zooter_is_least() -> None:
    rng = np.random.default_rng(0)
    rows, table = unit(rng.normal(size=(30, 4))), rng.random((30, 3))
    table[rng.random(table.shape) < 0.2] = NAN
    table[:, 0] = rng.random(30)
    head = torch.tensor(fit_head(rows, table, 0.2, 1e-2), requires_grad=True)
    x = torch.cat([torch.tensor(rows, dtype=torch.float64), torch.ones(30, 1)], dim=1)
    loss = 1e-2 * (head**2).sum()
    for text in range(30):
        there = [e for e in range(3) if not math.isnan(table[text, e])]
        target = torch.softmax(torch.tensor(table[text, there]) / 0.2, 0)
        loss = loss + (target * (target.log() - torch.log_softmax((x[text] @ head)[there], 0))).sum() / 30
    loss.backward()
    assert head.grad is not None
    assert head.grad.abs().max() < 1e-5


def test_the_classifier_tells_who_answers_what() -> None:
    rng = np.random.default_rng(1)
    sides = np.repeat([0, 1], 20)
    rows = unit(np.eye(6)[sides] + 0.3 * rng.normal(size=(40, 6)))
    outcomes = Outcomes(
        rows, 3, np.tile(np.arange(40), 2), np.repeat([0, 2], 40), np.zeros(80, int),
        np.concatenate([sides == 0, sides == 1]).astype(float), np.full(80, NAN),
    )  # fmt: skip
    for name in ("classifier", "routellm_mf"):
        found = predict(name, unit([[1, 0, 0, 0, 0, 0]]), outcomes).scores
        assert found[0] > 0.6 > 0.4 > found[2], name
        assert math.isnan(found[1])
        both = predict(name, unit([[1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]), outcomes).scores
        assert both[0] == pytest.approx(both[2], abs=0.1), name
        again = predict(name, unit([[1, 0, 0, 0, 0, 0]]), outcomes).scores
        assert np.array_equal(found, again, equal_nan=True)


def test_the_gradient_of_the_factors_is_that_of_autograd() -> None:
    rng = np.random.default_rng(2)
    rows = unit(rng.normal(size=(5, 4))).astype(np.float64)
    battles = np.array([[0, 0, 1], [0, 2, 1], [3, 1, 0], [4, 2, 0]])
    model = Factors(rng.normal(size=(3, 2)), rng.normal(size=(2, 4)), rng.normal(size=2))
    loss, gradient = loss_and_gradient(model, rows, battles, 0.01)
    p, w, u = (torch.tensor(value, requires_grad=True) for value in vars(model).values())
    total = 0.01 * ((w**2).sum() + (u**2).sum())
    for text, better, worse in battles.tolist():
        hidden = w @ torch.tensor(rows[text])
        delta = [u @ (p[expert] / p[expert].norm() * hidden) for expert in (better, worse)]
        total = total - torch.log(torch.sigmoid(delta[0] - delta[1])) / len(battles)
    total.backward()
    assert loss == pytest.approx(total.item(), abs=1e-12)
    for mine, tensor in zip(vars(gradient).values(), (p, w, u), strict=True):
        assert mine == pytest.approx(tensor.grad.numpy(), abs=1e-12)
    one = u @ (p[1] / p[1].norm() * (w @ torch.tensor(rows[3])))
    assert model.deltas(rows)[3, 1] == pytest.approx(one.item(), abs=1e-12)


def test_pairs_are_who_did_better_on_one_text() -> None:
    table = np.array([[1, 0, NAN], [0.5, 0.5, 0.2]])
    assert pairs(table).tolist() == [[0, 0, 1], [1, 0, 2], [1, 1, 2]]


@pytest.mark.parametrize("name", ROUTERS_FROM_OUTCOMES)
def test_without_outcomes_a_router_says_what_it_lacks(name: str) -> None:
    empty = np.empty(0, int)
    nothing = Outcomes(np.empty((0, 4), np.float32), 0, empty, empty, empty, np.empty(0), np.empty(0))
    made = ROUTERS.get(name).run(ROUTERS.parse(name, {}))
    assert made.fit(nothing) is None
    assert "/outcomes/" in made.lacks
    with pytest.raises(InvalidParams):
        ROUTERS.parse(name, {"neighbour": 3})


def by_hand(rows: Any, outcomes: Outcomes) -> list[float]:
    """Expected scores, one outcome at a time."""
    weights: list[float] = []
    for i in range(len(outcomes.probe)):
        cosine = max(float(row.astype(float) @ outcomes.probes[outcomes.probe[i]].astype(float)) for row in rows)
        weight = math.exp((min(cosine, 1.0) - 1) / 0.1)
        weights.append(weight if weight >= 0.01 else 0.0)
    for expert in range(outcomes.experts):
        for reporter in set(outcomes.reporter.tolist()):
            own = [i for i in range(len(weights)) if (outcomes.expert[i], outcomes.reporter[i]) == (expert, reporter)]
            total = sum(weights[i] for i in own)
            for i in own:
                weights[i] *= min(1, 3 / total) if total else 1
    masses, sums = [0.0] * outcomes.experts, [0.0] * outcomes.experts
    for i, weight in enumerate(weights):
        masses[outcomes.expert[i]] += weight
        sums[outcomes.expert[i]] += weight * outcomes.score[i]
    counted = [min(mass, 1) for mass in masses]
    means = [total / mass if mass else 0 for total, mass in zip(sums, masses, strict=True)]
    unmeasured = (1 + sum(c * m for c, m in zip(counted, means, strict=True))) / (2 + sum(counted))
    return [(4 * unmeasured + total) / (4 + mass) for total, mass in zip(sums, masses, strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_expected_scores_are_weighted_means_with_a_prior(seed: int) -> None:
    outcomes = random_outcomes(seed, experts=3, texts=30)
    rows = unit(np.random.default_rng(seed + 5).normal(size=(2, 5)))
    assert expect(rows, outcomes).expected == pytest.approx(by_hand(rows, outcomes), abs=1e-9)


def said(scores: list[float], reporters: list[int], experts: int = 2) -> Outcomes:
    """What was said of expert 0 on one text."""
    n = len(scores)
    return Outcomes(
        unit([[1, 0]]), experts, np.zeros(n, int), np.zeros(n, int), np.array(reporters), np.array(scores),
        np.full(n, NAN),
    )  # fmt: skip


def test_one_caller_moves_an_expert_only_so_far_and_others_further() -> None:
    row = unit([[1, 0]])
    once, often = (expect(row, said([0.0] * n, [7] * n)).shifts for n in (1, 1000))
    assert once[1] == often[1] == 0
    assert -0.1 < once[0] < 0
    assert often[0] == pytest.approx(-(1 / 3) * 3 / 7)
    crowd = expect(row, said([0.0] * 1000, list(range(1000)))).shifts
    assert crowd[0] < 2 * often[0]
    far = expect(unit([[0, 1]]), said([0.0] * 1000, list(range(1000)))).shifts
    assert far.tolist() == [0, 0]


def test_no_outcomes_change_nothing() -> None:
    empty = np.empty(0, int)
    nothing = Outcomes(np.empty((0, 2), np.float32), 0, empty, empty, empty, np.empty(0), np.empty(0))
    found = expect(unit([[1, 0]]), nothing)
    assert (found.unmeasured, len(found.shifts)) == (0.5, 0)
    scores = np.array([0.7, 0.2, 0.1])
    assert shifted(scores, np.zeros(3)).tolist() == scores.tolist()
    assert shifted(np.empty(0), np.empty(0)).tolist() == []


def test_scores_move_in_their_own_unit() -> None:
    scores, shifts = np.array([0.7, 0.2, 0.1]), np.array([-0.3, 0.2, 0.0])
    moved = shifted(scores, shifts)
    assert moved == pytest.approx(scores + 6 * np.std(scores) * shifts)
    assert shifted(100 * scores - 7, shifts) == pytest.approx(100 * moved - 7)
