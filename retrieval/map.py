"""A map of the experts: points in the plane, close together where their samples are alike.

The plane is fitted to the oldest public experts, as many as the largest power of two among them, and all others are
projected onto it. So a new expert moves nobody, every process draws one map, and what a caller may not see has no part
in it. When the pool has doubled, the plane is fitted anew and turned so that the old map is recognised in the new one.
"""

import hashlib
from collections import Counter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from registry.errors import NotReady
from registry.queries import Caller
from retrieval.live import current_view
from retrieval.plane import Plane, fit
from retrieval.search import View

# What a browser draws smoothly with room to spare; of a larger pool the newest are drawn.
MAX_POINTS = 20_000
MIN_POINTS = 3
# Below, all public experts count, and each upload may move the others a little.
FIRST_FIT, LAST_FIT = 64, 8192
# How many callers' maps a process remembers, each some megabytes at most; and how many planes.
REMEMBERED = 8
PLANES = 64

Map = dict[str, Any]
Ints = NDArray[np.int64]

# By caller, for as long as the view lives: a change of what is visible makes a new view.
_drawn: WeakKeyDictionary[View, dict[int | None, Map]] = WeakKeyDictionary()
_plane_of: WeakKeyDictionary[View, Plane | None] = WeakKeyDictionary()
# By the space and the revisions that a plane was fitted to, which never change.
_planes: dict[tuple[str, bytes], Plane] = {}


def is_worth_drawing(user: Caller) -> bool:
    """Whether there is a map with more than a few points for the caller."""
    try:
        view = current_view()
    except NotReady:
        return False
    return view.select(user.pk).count >= MIN_POINTS and plane_of(view) is not None


def map_of_experts(user: Caller) -> Map:
    """What the map shows to the caller, column by column; empty where there is too little to show.

    Returns: `{version, total, count, names, x, y, base_models, base_model, tags, tag}`: coordinates in units of
        `plane.UNIT`; `base_model` and `tag` are places in the lists of names, -1 for none. Of an expert's tags, the one
        that most experts have. `total` is how many could be drawn.
    """
    try:
        view = current_view()
    except NotReady:
        return _columns("", 0, [], np.empty((0, 2), np.int64), [], [])
    maps = _drawn.setdefault(view, {})
    drawn = maps.get(user.pk)
    if drawn is None:
        if len(maps) >= REMEMBERED:
            maps.clear()
        drawn = maps[user.pk] = _draw(view, user.pk)
    return drawn


def plane_of(view: View) -> Plane | None:
    """The plane of a view's public experts; None where there are too few."""
    if view not in _plane_of:
        public = np.flatnonzero(view.pool.rows["public"])
        oldest = public[np.argsort(view.pool.rows["prototype"][public])][:LAST_FIT]
        count = len(oldest) if len(oldest) < FIRST_FIT else 1 << (len(oldest).bit_length() - 1)
        _plane_of[view] = _steady(view, oldest[:count]) if count >= MIN_POINTS else None
    return _plane_of[view]


def _steady(view: View, rows: Ints) -> Plane:
    """The plane of some rows of the pool, in line with that of their older half."""
    commits = hashlib.sha256("".join(view.pool.rows["commit"][rows]).encode())
    key = (view.pool.space, commits.digest())
    plane = _planes.get(key)
    if plane is None:
        plane = fit(view.vectors(rows))
        if len(rows) >= 2 * FIRST_FIT:
            plane = plane.turned_to(_steady(view, rows[: len(rows) // 2]))
        if len(_planes) >= PLANES:
            _planes.clear()
        _planes[key] = plane
    return plane


def _draw(view: View, user_id: int | None) -> Map:
    plane = plane_of(view)
    seen = np.flatnonzero(view.pool.allowed(user_id, ()))
    newest = seen[np.argsort(-view.pool.rows["adapter"][seen])][:MAX_POINTS]
    if plane is None or len(newest) < MIN_POINTS:
        return _columns("", 0, [], np.empty((0, 2), np.int64), [], [])
    rows = newest[np.argsort(view.pool.rows["name"][newest])]
    shown = view.pool.rows[rows]
    return _columns(
        plane.version,
        len(seen),
        shown["name"].tolist(),
        plane.place(view.vectors(rows)),
        shown["base_name"].tolist(),
        _commonest_tags(view, shown["adapter"]),
    )


def _commonest_tags(view: View, adapters: Ints) -> list[str]:
    """Of each adapter's tags the one that most of the adapters have, "" where it has none."""
    tags = view.pool.tags[np.isin(view.pool.tags["adapter"], adapters)]
    counts = Counter(tags["tag"].tolist())
    names = {code: name for name, code in view.pool.codes.items() if code in counts}
    best: dict[int, str] = {}
    for adapter, tag in sorted(tags.tolist(), key=lambda pair: (counts[pair[1]], names[pair[1]])):
        best[adapter] = names[tag]
    return [best.get(adapter, "") for adapter in adapters.tolist()]


def _columns(version: str, total: int, names: list[str], places: Ints, bases: list[str], tags: list[str]) -> Map:
    columns: Map = {"version": version, "total": total, "count": len(names), "names": names}
    columns |= {"x": places[:, 0].tolist(), "y": places[:, 1].tolist()}
    for one, many, values in (("base_model", "base_models", bases), ("tag", "tags", tags)):
        known = {value: place for place, (value, _) in enumerate(Counter(filter(None, values)).most_common())}
        columns |= {many: list(known), one: [known.get(value, -1) for value in values]}
    return columns
