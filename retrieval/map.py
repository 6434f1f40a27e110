"""A map of the experts: points in the plane, close together where their samples are alike."""

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from registry.errors import NotReady
from registry.queries import Caller
from retrieval.live import current_view
from retrieval.search import View

# What a page draws without getting slow; a larger pool shows its newest.
MAX_POINTS = 2000
MIN_POINTS = 3
# How many callers' maps a process remembers; each is at most some hundred kilobytes.
REMEMBERED = 32

Map = dict[str, Any]

# By caller, for as long as the view lives: a change of what is visible makes a new view.
_drawn: WeakKeyDictionary[View, dict[int | None, Map | None]] = WeakKeyDictionary()


def map_of_experts(user: Caller) -> Map | None:
    """The two main directions of the centroids that the caller may see.

    Returns: `{count, groups: [{base_model, points: [[x, y, name]]}]}`, or None where there is too little to show.
    """
    try:
        view = current_view()
    except NotReady:
        return None
    maps = _drawn.setdefault(view, {})
    if user.pk not in maps:
        if len(maps) >= REMEMBERED:
            maps.clear()
        maps[user.pk] = _draw(view, user.pk)
    return maps[user.pk]


def _draw(view: View, user_id: int | None) -> Map | None:
    seen = np.flatnonzero(view.pool.allowed(user_id, ()))
    newest = seen[np.argsort(-view.pool.rows["adapter"][seen])][:MAX_POINTS]
    if len(newest) < MIN_POINTS:
        return None
    rows = view.pool.rows[newest]
    groups: dict[str, list[list[Any]]] = {}
    for row, (x, y) in zip(rows, plane(view.vectors(newest)).round(4).tolist(), strict=True):
        groups.setdefault(row["base_name"], []).append([x, y, row["name"]])
    named = [{"base_model": base or "unknown", "points": groups[base]} for base in sorted(groups)]
    return {"count": len(newest), "groups": named}


def plane(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Coordinates (n, 2) along the two principal components of the rows (n, dim); signs are canonical."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    axes = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    largest = np.abs(axes).argmax(axis=0)
    return centred @ (axes * np.sign(axes[largest, [0, 1]]))
