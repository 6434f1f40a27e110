"""The nearest texts on which an expert was measured."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lora.outcomes import Cells, Doubles, Floats, Ints, Outcomes

# Of an expert's texts, those that a confidence is estimated by.
JUDGED = 200


def nearest(rows: Floats, outcomes: Outcomes, count: int) -> Iterator[tuple[int, Doubles, Ints]]:
    """Yield each expert that has outcomes with the cosines (m, n) of a query's rows (m, dim) with its n texts, and the
    places in `outcomes.cells` of the nearest `count` of them, or of all, (m, min(count, n)), the nearest first."""
    cells = outcomes.cells
    cosines = np.round(rows.astype(np.float64) @ outcomes.probes.astype(np.float64).T, 9)
    for expert in range(outcomes.experts):
        start, end = cells.starts[expert], cells.starts[expert + 1]
        if start < end:
            mine = cosines[:, cells.probe[start:end]]
            yield expert, mine, start + np.argsort(-mine, axis=1, kind="stable")[:, :count]


def shrunk(scores: Doubles, prior: float) -> Doubles:
    """Return the mean of scores (…, k) with `prior` more that are all right and as many that are all wrong, (…,)."""
    means: Doubles = (scores.sum(axis=-1) + prior) / (scores.shape[-1] + 2 * prior)
    return means


def judged(cells: Cells, probes: Floats, expert: int, near: Doubles, count: int, prior: float) -> tuple[Doubles, Ints]:
    """Return of an expert's texts that are nearest to a query whether each is predicted rightly from the others, (n,),
    and their places.

    Args:
        near: largest cosine of each of its texts with the query, (all,). count, prior: of the prediction.
    """
    start = cells.starts[expert]
    places = start + np.argsort(-near, kind="stable")[:JUDGED]
    rows = probes[cells.probe[places]].astype(np.float64)
    cosines = np.round(rows @ rows.T, 9)
    np.fill_diagonal(cosines, -np.inf)
    others = np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, len(places) - 1)]
    predicted = shrunk(cells.score[places][others], prior) > 0.5
    return (predicted == (cells.score[places] > 0.5)).astype(np.float64), places
