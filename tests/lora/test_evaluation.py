"""Ranks and figures against examples that can be computed by hand."""

import numpy as np
import pytest

from lora.evaluation import (
    HYBRID,
    Asked,
    Found,
    Interval,
    Pool,
    accuracy,
    by_category,
    by_task,
    interval,
    ratio,
    route,
    text_routers,
)
from lora.routers import ROUTERS

OWN = np.array([0, 1, 2, 2])
SCORES = np.array([[0.9, 0.1, 0.5], [0.5, 0.5, 0.5], [0.7, 0.6, 0.7], [0.1, 0.2, 0.3]])
FOUND = Found(SCORES, np.ones_like(SCORES, dtype=bool))


def test_ranks_count_who_is_better_and_ties_go_by_name() -> None:
    assert FOUND.ranks(OWN).tolist() == [0, 1, 1, 0]
    assert FOUND.order.tolist() == [[0, 2, 1], [0, 1, 2], [0, 2, 1], [2, 1, 0]]


def test_who_is_no_match_is_not_found_and_stands_before_nobody() -> None:
    kept = np.array([[False, True, True], [False, True, True], [True, True, False], [True, True, True]])
    assert Found(SCORES, kept).ranks(OWN).tolist() == [np.inf, 0, np.inf, 0]
    assert Found(SCORES, kept).order[0].tolist() == [2, 1, 0]


def test_accuracy_is_the_share_of_queries_per_depth_and_the_mean_of_inverse_places() -> None:
    ranks = np.array([0, 2, 7, np.inf])
    figures = accuracy(ranks, np.array([0, 0, 1, 1]))
    assert figures["queries"] == 4
    assert {depth: found["value"] for depth, found in figures["top"].items()} == {"1": 0.25, "3": 0.5, "8": 0.75}
    assert figures["mrr"]["value"] == pytest.approx((1 + 1 / 3 + 1 / 8) / 4, abs=1e-6)


def test_tasks_are_told_apart() -> None:
    rows = by_task(np.array([0, 3, 0, 0]), np.array([0, 0, 2, 2]), ["a", "b", "c"])
    assert rows == [
        {"task": "a", "queries": 2, "top": {"1": 0.5, "3": 0.5, "8": 1.0}},
        {"task": "c", "queries": 2, "top": {"1": 1.0, "3": 1.0, "8": 1.0}},
    ]


def test_with_the_own_expert_masked_another_of_its_category_counts() -> None:
    rows = tuple(np.eye(3, dtype=np.float32)[i : i + 1] for i in range(3))
    pool = Pool(("a", "b", "c"), ("x", "y", "x"), rows, (("",),) * 3)
    figures = by_category(FOUND, pool, OWN)
    # b has no other of its kind; without themselves, a finds c first, c finds a first and then second.
    assert figures["queries"] == 3
    assert figures["top"]["1"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["mrr"]["value"] == pytest.approx((1 + 1 + 1 / 2) / 3, abs=1e-6)
    apart = Pool(pool.names, ("x", "y", ""), rows, pool.texts)
    assert by_category(FOUND, apart, OWN) is None


def test_an_interval_covers_the_mean_and_is_the_same_every_time() -> None:
    tasks = np.repeat(np.arange(10), 5)
    values = (np.arange(50) % 5 < np.repeat(np.arange(10) % 5, 5)).astype(float)
    found = interval(values, tasks)
    assert found == interval(values, tasks)
    assert found.value == pytest.approx(0.4)
    assert found.low < found.value < found.high
    # Tasks have rates 0, .2, .4, .6, .8, twice each: the error of the mean of ten is .283 / √10.
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.08 / 10), rel=0.1)
    assert interval(values, tasks, seed=1) != found
    assert interval(np.ones(4), np.zeros(4, dtype=int)) == Interval(1.0, 1.0, 1.0)


def test_a_ratio_is_of_sums_in_every_draw() -> None:
    values, of, tasks = np.array([1.0, 0.0, 2.0, 3.0]), np.array([2.0, 2.0, 4.0, 3.0]), np.array([0, 0, 1, 2])
    found = ratio(values, of, tasks, draws=50)
    raw = np.random.Philox(0).random_raw(150).reshape(50, 3) % np.uint64(3)
    draws = [sum([[1, 2, 3][task] for task in draw]) / sum([[4, 4, 3][task] for task in draw]) for draw in raw.tolist()]
    assert found.value == pytest.approx(6 / 11)
    assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]))
    assert ratio(np.zeros(4), np.zeros(4), tasks) == Interval(0.0, 0.0, 0.0)


def test_intervals_are_of_tasks_and_not_of_queries() -> None:
    """A task's queries that all say the same thing say it once."""
    values = np.array([1.0, 0.0])
    few = interval(values, np.array([0, 1]))
    assert interval(np.repeat(values, 1000), np.repeat([0, 1], 1000)) == few
    # One more query of the second task: its weight is 2 of 3 wherever both are drawn.
    uneven = interval(np.array([1.0, 0.0, 0.0]), np.array([0, 1, 1]))
    assert uneven.value == pytest.approx(1 / 3)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def pool() -> Pool:
    seeds = np.random.default_rng(0)
    rows = [unit(seeds.normal(size=(m, 12)) + 2 * seeds.normal(size=12)) for m in (3, 1, 7, 4)]
    texts = tuple(tuple(f"{name} text {i}" for i in range(len(part))) for name, part in zip("abcd", rows, strict=True))
    return Pool(("a", "b", "c", "d"), ("", "", "", ""), tuple(rows), texts)


@pytest.fixture(scope="module")
def asked() -> Asked:
    rows = unit(np.random.default_rng(1).normal(size=(6, 12)))
    return Asked(np.array([0, 1, 2, 3, 0, 1]), rows, tuple("abcdef"))


def test_lora_retriever_scores_cosines_with_means(pool: Pool, asked: Asked) -> None:
    found = route(ROUTERS.get("lora_retriever"), {}, pool, asked)
    means = np.stack([rows.astype(float).mean(axis=0) for rows in pool.embeddings])
    cosines = asked.embeddings.astype(float) @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    assert found.scores == pytest.approx(cosines, abs=1e-6)
    assert found.kept.all()


def test_parameters_act_as_in_a_request(pool: Pool, asked: Asked) -> None:
    found = route(ROUTERS.get("lora_retriever"), {"min_score": 0.2}, pool, asked)
    assert (found.kept == (found.scores >= 0.2)).all()
    assert np.isinf(found.ranks(asked.own)).tolist() == (~found.kept[np.arange(6), asked.own]).tolist()


@pytest.mark.parametrize("name", [name for name in text_routers() if name != HYBRID])
def test_every_router_of_texts_is_scored(name: str, pool: Pool, asked: Asked) -> None:
    found = route(ROUTERS.get(name), {}, pool, asked)
    assert found.scores.shape == found.kept.shape == (6, 4)
    assert np.isfinite(found.scores).all()
    # The queries of an expert's own samples come back to it.
    own = Asked(
        np.repeat(np.arange(4), [3, 1, 7, 4]), pool.samples, tuple(text for texts in pool.texts for text in texts)
    )
    assert (route(ROUTERS.get(name), {}, pool, own).ranks(own.own) == 0).mean() > 0.7


def test_a_pool_out_of_order_is_refused() -> None:
    rows = (np.eye(2, dtype=np.float32)[:1],) * 2
    with pytest.raises(ValueError, match="sorted"):
        Pool(("b", "a"), ("", ""), rows, (("",), ("",)))
