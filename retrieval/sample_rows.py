"""Vectors of every expert of a pool in memory, grouped by expert: samples, which routers over samples search first, or
the one row of a hybrid space.

At most INDEXED vectors of an expert are held, fewer where those of a large pool would be more than MAX_ROWS; an expert
that has more samples is scored by all of them once it is on the short list.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.models import Prototype
from retrieval.pool import Pool

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

INDEXED = 20
# Of 384 numbers: 768 MB in a process that is asked for such a router, at 25,000 experts and beyond.
MAX_ROWS = 500_000
# New experts are copied together with the old ones when there are more of them than both.
MIN_TAIL = 256
TAIL_SHARE = 0.1
SQL_CHUNK = 500


@dataclass(frozen=True, eq=False)
class Block:
    """Experts with their vectors, one after the other.

    Attributes:
        revisions: (n,) int64, ascending. counts: (n,), how many samples each has in all.
        starts: (n + 1,), where the held vectors of each begin, and the end.
        rows: (total, dim) float32.
    """

    revisions: Ints
    counts: Ints
    starts: Ints
    rows: Floats

    def places_of(self, revisions: Ints) -> Ints:
        """Place of each revision, -1 where it is not here."""
        if not len(self.revisions):
            return np.full(len(revisions), -1, dtype=np.int64)
        found = np.minimum(np.searchsorted(self.revisions, revisions), len(self.revisions) - 1)
        return np.where(self.revisions[found] == revisions, found, -1)


class SampleRows:
    """The vectors of the experts of one pool. Never changed.

    Args:
        kind, space: of the prototypes.
        blocks: the vectors, also of experts that are gone. limit: the number of vectors per expert in them.
    """

    def __init__(self, pool: Pool, kind: str, space: str, blocks: list[Block], limit: int) -> None:
        self.pool = pool
        self.kind = kind
        self.space = space
        self.blocks = blocks
        self.limit = limit

    def selected(self, mask: NDArray[np.bool_]) -> Iterator[tuple[Block, Ints, Ints]]:
        """For each block: the places of the pool's rows that a mask (n,) leaves, and those rows."""
        rows = np.flatnonzero(mask)
        for block in self.blocks:
            places = block.places_of(self.pool.rows["revision"][rows])
            found = np.flatnonzero(places >= 0)
            order = found[np.argsort(places[found])]
            yield block, places[order], rows[order]

    def follows(self, pool: Pool, space: str) -> bool:
        """Whether these are the vectors of a pool in a space."""
        return self.pool is pool and self.space == space

    def refreshed(self, pool: Pool, space: str) -> "SampleRows":
        """The vectors of another pool; only experts that are not here yet are read."""
        limit = max(1, min(INDEXED, MAX_ROWS // max(len(pool), 1)))
        revisions = pool.rows["revision"]
        # Successors share their codes; after a restored backup, a revision's number may be that of another one.
        if pool.codes is not self.pool.codes or space != self.space or limit != self.limit:
            return SampleRows(pool, self.kind, space, [_read(revisions, self.kind, space, limit)], limit)
        known = [block.places_of(revisions) >= 0 for block in self.blocks]
        missing = revisions[~np.logical_or.reduce(known)]
        if not len(missing):
            return SampleRows(pool, self.kind, space, self.blocks, limit)
        main, *tail = self.blocks
        new = _joined([*tail, _read(missing, self.kind, space, limit)], revisions)
        blocks = [main, new]
        if len(new.revisions) > max(MIN_TAIL, TAIL_SHARE * len(main.revisions)):
            blocks = [_joined(blocks, revisions)]
        return SampleRows(pool, self.kind, space, blocks, limit)


_held = {kind: SampleRows(Pool(""), kind, "", [], 0) for kind in ("samples", "hybrid")}
_reading = threading.Lock()


def sample_rows(pool: Pool, kind: str = "samples", space: str | None = None) -> SampleRows:
    """The vectors of the experts of a pool, in its own space or another; the first call in a process reads all."""
    space = space or pool.space
    rows = _held[kind]
    if not rows.follows(pool, space):
        with _reading:
            rows = _held[kind]
            if not rows.follows(pool, space):
                rows = _held[kind] = rows.refreshed(pool, space)
    return rows


def spread(rows: Floats, limit: int) -> Floats:
    """At most `limit` rows, evenly spaced."""
    return rows if len(rows) <= limit else rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]


def _read(revisions: Ints, kind: str, space: str, limit: int) -> Block:
    """The block of those revisions that have vectors of a kind in a space."""
    ids, counts, parts = [], [], []
    ordered = np.sort(revisions).tolist()
    for start in range(0, len(ordered), SQL_CHUNK):
        found = Prototype.objects.filter(kind=kind, space_id=space, revision_id__in=ordered[start : start + SQL_CHUNK])
        columns = ("revision_id", "count", "dim", "vectors")
        for revision, count, dim, vectors in found.order_by("revision_id").values_list(*columns).iterator(100):
            ids.append(revision)
            counts.append(count)
            # A copy: a view would keep all samples of the expert in memory.
            parts.append(spread(np.frombuffer(vectors, dtype="<f4").reshape(count, dim), limit).copy())
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    rows = np.concatenate(parts) if parts else np.empty((0, 1), dtype=np.float32)
    return Block(np.array(ids, dtype=np.int64), np.array(counts, dtype=np.int64), starts, rows)


def _joined(blocks: list[Block], wanted: Ints) -> Block:
    """One block of the wanted revisions of several."""
    blocks = [block for block in blocks if len(block.revisions)]
    if not blocks:
        return _read(np.empty(0, dtype=np.int64), "", "", 1)
    revisions = np.concatenate([block.revisions for block in blocks])
    counts = np.concatenate([block.counts for block in blocks])
    firsts = np.concatenate([block.starts[:-1] for block in blocks])
    lengths = np.concatenate([np.diff(block.starts) for block in blocks])
    source = np.repeat(np.arange(len(blocks)), [len(block.revisions) for block in blocks])
    order = np.argsort(revisions)
    order = order[np.isin(revisions[order], wanted)]
    starts = np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64)
    rows = np.empty((int(starts[-1]), blocks[0].rows.shape[1]), dtype=np.float32)
    for number, block in enumerate(blocks):
        mine = np.flatnonzero(source[order] == number)
        rows[runs(starts[mine], lengths[order][mine])] = block.rows[runs(firsts[order][mine], lengths[order][mine])]
    return Block(revisions[order], counts[order], starts, rows)


def runs(firsts: Ints, lengths: Ints) -> Ints:
    """The numbers of several runs, one run after the other: `lengths[i]` numbers from `firsts[i]` on."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(firsts - (ends - lengths), lengths)
