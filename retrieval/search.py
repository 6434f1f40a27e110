"""The nearest experts: an index for what a snapshot covers, a matrix for the rest, one formula for all scores.

Exact where the index is; a graph, which large pools have, finds nearly all (`retrieval.index`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index import VectorIndex
from retrieval.milvus import MilvusIndex
from retrieval.models import Prototype
from retrieval.pool import Pool

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Index = VectorIndex | MilvusIndex
Filters = tuple[tuple[str, tuple[str, ...]], ...]

# Scores are told, compared and tied at this many decimals.
DECIMALS = 6
# So many selections are remembered, of so many experts altogether: about a byte each.
CACHED_SELECTIONS = 256
CACHED_ROWS = 64_000_000
SQL_CHUNK = 500


def exact_scores(query: NDArray[Any], vectors: NDArray[Any]) -> Floats:
    """Inner products in float64, rounded. A score depends on its own two vectors only, bit for bit.

    Args:
        query: (dim,). vectors: (n, dim).
    """
    products = vectors.astype(np.float64) * query.astype(np.float64)
    return np.round(products.sum(axis=1), DECIMALS)


@dataclass(frozen=True)
class Selection:
    """What one caller's filters leave of a view.

    Attributes:
        mask: (n,) bool, which rows of the pool. count: number of experts.
        selected: what the index is told of them; `indexed`: how many of its positions that are.
        tail: (t,) places in the tail.
    """

    mask: NDArray[np.bool_]
    count: int
    indexed: int
    selected: Any
    tail: Ints


class View:
    """What the searches of one moment see. Never changed, so that a request is answered from one state.

    Args:
        pool: the adapters.
        index: vectors by prototype id, or None; those of the pool that it lacks are the tail.
        version: names this state in answers.
        older: a view whose tail vectors need not be read again.
    """

    def __init__(self, pool: Pool, index: Index | None, version: str, older: "View | None" = None) -> None:
        self.pool = pool
        self.index = index
        self.version = version
        ids = pool.rows["prototype"]
        self._positions = index.positions_of(ids) if index is not None else np.full(len(ids), -1, dtype=np.int64)
        self._tail_rows = np.flatnonzero(self._positions < 0)
        self._tail = _read_vectors(ids[self._tail_rows], pool.space, older)
        self._selections: dict[tuple[int | None, Filters, int | None], Selection] = {}

    @property
    def tail_count(self) -> int:
        return len(self._tail_rows)

    @cached_property
    def _row_at(self) -> Ints:
        """Pool row of each index position; -1 where the adapter is gone or has a newer head."""
        rows = np.full(0 if self.index is None else len(self.index), -1, dtype=np.int64)
        indexed = np.flatnonzero(self._positions >= 0)
        rows[self._positions[indexed]] = indexed
        return rows

    def select(self, user_id: int | None, filters: Filters = (), without: int | None = None) -> Selection:
        """What this caller may see and asks for; remembered, because most requests ask for the same.

        Args:
            without: an adapter that is left out.
        """
        key = (user_id, filters, without)
        selection = self._selections.get(key)
        if selection is None:
            mask = self.pool.allowed(user_id, filters)
            if without is not None:
                mask &= self.pool.rows["adapter"] != without
            selection = self._select(mask)
            if len(self._selections) >= min(CACHED_SELECTIONS, CACHED_ROWS // max(len(mask), 1)):
                self._selections.clear()
            self._selections[key] = selection
        return selection

    def _select(self, mask: NDArray[np.bool_]) -> Selection:
        positions = self._positions[mask & (self._positions >= 0)]
        tail = np.flatnonzero(mask[self._tail_rows])
        selected = self.index.select(positions) if self.index is not None and len(positions) else None
        return Selection(mask, len(positions) + len(tail), len(positions), selected, tail)

    def search(self, query: NDArray[Any], k: int, selection: Selection) -> tuple[Ints, Floats]:
        """The k best: (rows of the pool, scores), best first, ties by name. Fewer where fewer are selected."""
        k = min(k, selection.count)
        fetch = 2 * k + 16
        while k:
            rows, floor = self._candidates(query.astype(np.float32), fetch, selection)
            scores = exact_scores(query, self.vectors(rows))
            names = self.pool.rows["name"][rows]
            best = sorted(range(len(rows)), key=lambda place: (-scores[place], names[place]))[:k]
            if np.isneginf(floor) or scores[best[-1]] > floor:
                return rows[best], scores[best]
            fetch *= 4
        return np.empty(0, np.int64), np.empty(0)

    def vector(self, row: int) -> NDArray[np.float32]:
        """The centroid (dim,) of a row of the pool."""
        return self.vectors(np.array([row]))[0]

    def _candidates(self, query: NDArray[np.float32], fetch: int, selection: Selection) -> tuple[Ints, float]:
        """Rows that may be among the best, and a score that none of the others exceeds: -inf where there are none."""
        found, bound = [], -np.inf
        if self.index is not None and selection.indexed:
            scores, positions = self.index.search(query, fetch, selection.selected)
            found.append(self._row_at[positions])
            # Where fewer came than were asked for there are no more.
            if fetch <= len(positions) < selection.indexed:
                bound = float(scores[-1])
        if len(selection.tail):
            scores = self._tail[selection.tail] @ query
            order = np.argsort(-scores)[:fetch]
            found.append(self._tail_rows[selection.tail[order]])
            if len(order) < len(scores):
                bound = max(bound, float(scores[order[-1]]))
        # float32 sums of unit vectors are off by at most dim roundings; the exact score is rounded once more.
        return np.concatenate(found), bound + len(query) * 2.0**-23 + 10.0**-DECIMALS

    def vectors(self, rows: Ints) -> NDArray[np.float32]:
        """The centroids (n, dim) of rows of the pool."""
        positions = self._positions[rows]
        if self.index is None or (positions < 0).all():
            return self._tail[np.searchsorted(self._tail_rows, rows)]
        vectors = self.index.vectors(np.maximum(positions, 0))
        if (outside := positions < 0).any():
            vectors[outside] = self._tail[np.searchsorted(self._tail_rows, rows[outside])]
        return vectors


def _read_vectors(ids: Ints, space: str, older: View | None) -> NDArray[np.float32]:
    """Vectors (len(ids), dim) of prototypes, from the older view's tail where it has them, else from the database."""
    if older is None or older.pool.space != space or not older.tail_count:
        return read_vectors(ids)
    known = older.pool.rows["prototype"][older._tail_rows]
    order = np.argsort(known)
    places = order[np.minimum(np.searchsorted(known, ids, sorter=order), len(known) - 1)]
    vectors = older._tail[places]
    new = known[places] != ids
    if new.any():
        vectors[new] = read_vectors(ids[new])
    return vectors


def read_vectors(ids: Ints) -> NDArray[np.float32]:
    """Vectors (len(ids), dim) of prototypes, from the database."""
    read: dict[int, bytes] = {}
    for start in range(0, len(ids), SQL_CHUNK):
        rows = Prototype.objects.filter(pk__in=ids[start : start + SQL_CHUNK].tolist())
        read.update(rows.order_by().values_list("pk", "vectors"))
    if not read:
        return np.empty((0, 0), dtype=np.float32)
    return np.stack([np.frombuffer(read[pk], dtype="<f4") for pk in ids.tolist()])
