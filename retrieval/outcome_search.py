"""The best experts by routers that know them by their outcomes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.outcomes import OutcomeRouter, Predict, Prediction
from lora.routers import TextSet
from retrieval.outcome_table import Known, known_outcomes
from retrieval.pool import Pool
from retrieval.request import RetrieveRequest
from retrieval.search import DECIMALS

Ints = NDArray[np.int64]

FITS = 16
# A fit is used for so many times as long as it took, also when there are newer outcomes.
USED_FOR = 20


@dataclass(frozen=True)
class Predicted:
    """What was found for a query.

    Attributes:
        rows: of the pool, best first; scores: the router's.
        evidence: of each, `{predicted: {score, cost, outcomes}}`: what to expect of it, and how many outcomes it has.
    """

    rows: Ints
    scores: NDArray[np.float64]
    evidence: list[dict[str, Any]]


def search_outcomes(
    pool: Pool, request: RetrieveRequest, router: OutcomeRouter, queries: Sequence[TextSet], mask: NDArray[np.bool_]
) -> list[Predicted]:
    """All experts of which a router expects something, best first, for each query; none where the outcomes of the rows
    that a mask (n,) leaves are too few.
    """
    known = known_outcomes(pool, mask)
    predict = _fitted(request.method.name, request.params, router, known)
    if predict is None:
        return [Predicted(np.empty(0, np.int64), np.empty(0), []) for _ in queries]
    return [_found(pool, known, predict(query.rows)) for query in queries]


def _found(pool: Pool, known: Known, predicted: Prediction) -> Predicted:
    there = np.flatnonzero(np.isfinite(predicted.scores))
    scores = np.round(predicted.scores[there], DECIMALS)
    quality = np.round(predicted.quality[there], DECIMALS)
    rows = known.experts[there]
    names = pool.rows["name"][rows]
    order = sorted(range(len(there)), key=lambda place: (-scores[place], -quality[place], names[place]))
    counts = np.bincount(known.outcomes.expert, minlength=known.outcomes.experts)[there]
    costs = predicted.costs[there] if predicted.costs is not None else np.full(len(there), np.nan)
    evidence = [
        {
            "predicted": {
                "score": float(quality[place]),
                "cost": round(float(costs[place]), DECIMALS) if np.isfinite(costs[place]) else None,
                "outcomes": int(counts[place]),
            }
        }
        for place in order
    ]
    return Predicted(rows[order], scores[order], evidence)


_fits: OrderedDict[tuple[Any, ...], tuple[Any, Predict | None, float]] = OrderedDict()
_fitting = threading.Lock()


def forget() -> None:
    _fits.clear()


def _fitted(name: str, params: Any, router: OutcomeRouter, known: Known) -> Predict | None:
    """The router fitted to the outcomes; remembered by their experts, so that callers who see the same share it."""
    if not router.learns:
        return router.fit(known.outcomes)
    key = (name, params, known.adapters.tobytes())
    with _fitting:
        state, predict, until = _fits.get(key, (None, None, 0.0))
        if state != known.state and time.monotonic() >= until:
            started = time.monotonic()
            predict = router.fit(known.outcomes)
            took = time.monotonic() - started
            _fits[key] = (known.state, predict, time.monotonic() + USED_FOR * took)
            while len(_fits) > FITS:
                _fits.popitem(last=False)
    return predict
