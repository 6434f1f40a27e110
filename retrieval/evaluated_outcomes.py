"""Routers that know experts by their outcomes, put to texts that they have not seen: what their picks score."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.evaluation import DECIMALS, Doubles, Ints, interval, ratio
from lora.outcome_suite import ONE_IN, OutcomeSuite
from lora.outcomes import OutcomeRouter, Prediction
from lora.routers import ROUTERS
from retrieval.evaluations import VARIANTS, Encode, Report, Result

MEASURE = "outcomes"


def outcome_routers() -> list[str]:
    """The names of the routers that know experts by their outcomes."""
    return [name for name in ROUTERS.names() if ROUTERS.get(name).traits["prototype"] == "outcomes"]


def outcome_results(
    suite: OutcomeSuite,
    routers: Sequence[str],
    setting: dict[str, Any],
    encode: Encode,
    say: Report,
) -> Iterator[Result]:
    """What the experts that each router picks score and cost, and those of who picks without looking at the text.

    Texts that are not held out are known to the routers, as if they had been reported.

    Args:
        setting: as `told_setting` returns it.
    """
    asked = suite.asked(setting["queries"])
    texts = suite.known_texts()
    rows, took = _timed(lambda: encode([*texts, *(suite.texts[place] for place in asked)]))
    known = suite.known(rows[: len(texts)], texts)
    encode_ms = 1000 * took / len(rows)
    counted = {"experts": len(suite.experts), "queries": len(asked), "known": len(known.score)}
    for name, weights in _references(suite, asked).items():
        figures = counted | {VARIANTS[0]: _figures(suite, asked, weights)}
        yield Result(MEASURE, name, setting, figures, is_reference=True)
    for name in routers:
        router: OutcomeRouter = ROUTERS.get(name).run(ROUTERS.parse(name, {}))
        predict, fitted = _timed(lambda router=router: router.fit(known))
        if predict is None:
            say(f"{name} has too little to go by, and is left out. {router.lacks}")
            continue
        picks, took = _timed(lambda predict=predict: [_pick(predict(row[None])) for row in rows[len(texts) :]])
        ms = {"encode": round(encode_ms, 3), "route": round(1000 * took / len(asked), 3), "fit": round(1000 * fitted)}
        weights = np.eye(len(suite.experts))[picks]
        yield Result(MEASURE, name, setting, counted | {VARIANTS[0]: _figures(suite, asked, weights), "took_ms": ms})


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    found = run()
    return found, time.perf_counter() - started


def _pick(predicted: Prediction) -> int:
    """The first match, as an answer of `/retrieve/` has it: equal scores go by quality, and then by name."""
    scores, quality = (np.round(part, DECIMALS) for part in (predicted.scores, predicted.quality))
    there = np.flatnonzero(np.isfinite(scores))
    return int(there[np.lexsort((there, -quality[there], -scores[there]))[0]])


def _references(suite: OutcomeSuite, asked: Ints) -> dict[str, Doubles]:
    """Who picks without looking at the text, and who knows the scores: the share of each expert, (q, n), by name."""
    known = np.where(suite.held_out[:, None], np.nan, suite.scores)
    n = len(suite.experts)
    means = [np.mean(column[np.isfinite(column)]) if np.isfinite(column).any() else -1.0 for column in known.T]
    scores, costs = suite.scores[asked], np.nan_to_num(suite.costs[asked])
    # Of those that score most, the cheapest.
    best = np.where(scores == scores.max(axis=1, keepdims=True), costs, np.inf).argmin(axis=1)
    return {
        "oracle": np.eye(n)[best],
        "best_single": np.eye(n)[np.full(len(asked), int(np.argmax(means)))],
        "random_expert": np.full((len(asked), n), 1 / n),
    }


def _figures(suite: OutcomeSuite, asked: Ints, weights: NDArray[np.float64]) -> dict[str, Any]:
    """`{share, score, cost}` with intervals over tasks, of who picks experts in these shares (q, n); `cost` is left out
    where not every answer has one."""
    scores, costs = suite.scores[asked], suite.costs[asked]
    tasks = suite.tasks[asked]
    gained = (weights * scores).sum(axis=1)
    found = {"share": ratio(gained, scores.max(axis=1), tasks), "score": interval(gained, tasks)}
    if np.isfinite(costs).all():
        found["cost"] = interval((weights * costs).sum(axis=1), tasks)
    return {name: told.to_json() for name, told in found.items()}


def told_setting(space: str, queries: int | None, costs: dict[str, float]) -> dict[str, Any]:
    """What has to be equal for two results to be comparable.

    Args:
        queries: of each task so many are asked about; None for all.
        costs: as of `read_outcomes`.
    """
    return {"space": space, "queries": queries, "one_in": ONE_IN, "costs": costs}
