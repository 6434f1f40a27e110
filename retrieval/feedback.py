"""How outcomes near a query shift what a router ranks: `outcomes` of `POST /retrieve/`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.outcomes import Expected, expect, shifted
from retrieval.evidence import SHOWN
from retrieval.models import Probe
from retrieval.outcome_table import known_outcomes
from retrieval.search import DECIMALS, View

# Experts that are ranked again, beyond four for every one that is wanted.
SPARE = 64

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Feedback:
    """The outcomes that a caller may know, for the queries of one request.

    Args:
        user_id: whose own texts may be shown. mask: (n,), which rows of the pool count.
    """

    def __init__(self, view: View, user_id: int | None, mask: NDArray[np.bool_]) -> None:
        self._pool = view.pool
        self._user_id = user_id
        self._known = known_outcomes(view.pool, mask)

    def rank(
        self, query: NDArray[np.float32], rows: Ints, scores: Floats, k: int
    ) -> tuple[Ints, Floats, list[dict[str, Any]]]:
        """The k best of what a router found once outcomes count: their places in it, scores, and what shifted them.

        Args:
            query: its unit rows (m, dim) in the encoder's space. rows: of the pool; scores: the router's.
        """
        known = self._known
        expected = expect(query, known.outcomes)
        places = np.searchsorted(known.experts, rows)
        there = np.flatnonzero(places < len(known.experts))
        there = there[known.experts[places[there]] == rows[there]]
        shifts = np.zeros(len(rows))
        shifts[there] = expected.shifts[places[there]]
        moved = np.round(shifted(scores, shifts), DECIMALS)
        names = self._pool.rows["name"][rows]
        order = np.array(sorted(range(len(rows)), key=lambda place: (-moved[place], names[place]))[:k], dtype=np.int64)
        experts = dict(zip(there.tolist(), places[there].tolist(), strict=True))
        told = [
            {"outcomes": self._told(expected, experts.get(place), float(moved[place] - scores[place]))}
            for place in order.tolist()
        ]
        return order, moved[order], told

    def _told(self, expected: Expected, expert: int | None, shift: float) -> dict[str, Any]:
        outcomes = self._known.outcomes
        mine = np.flatnonzero((outcomes.expert == expert) & (expected.weights > 0)) if expert is not None else []
        told = {
            "shift": round(shift, DECIMALS),
            "expected": round(expected.unmeasured if expert is None else float(expected.expected[expert]), DECIMALS),
            "unmeasured": round(expected.unmeasured, DECIMALS),
            "count": len(mine),
            "nearest": [],
        }
        if len(mine):
            best = mine[np.lexsort((mine, -expected.weights[mine]))][:SHOWN]
            told["nearest"] = [
                {
                    "id": str(self._known.ids[place]),
                    "score": float(outcomes.score[place]),
                    "cosine": round(float(expected.cosines[place]), DECIMALS),
                    "weight": round(float(expected.weights[place]), DECIMALS),
                }
                for place in best.tolist()
            ]
        return told


def show_texts(user_id: int | None, told: list[dict[str, Any]]) -> None:
    """Add to `nearest` of evidence the texts that the caller has sent."""
    nearest = [item for one in told for item in one["nearest"]]
    if user_id is None or not nearest:
        return
    own = Probe.objects.filter(owner_id=user_id, outcomes__in=[item["id"] for item in nearest])
    texts = {str(pk): text for pk, text in own.values_list("outcomes", "text")}
    for item in nearest:
        if item["id"] in texts:
            item["text"] = texts[item["id"]]
