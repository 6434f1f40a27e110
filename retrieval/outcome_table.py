"""The outcomes in memory: read once they are asked for, and kept current by one cheap SELECT per request."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.outcomes import Outcomes
from registry.intake import WEIGHTS
from registry.models import RevisionFile
from retrieval.models import Outcome, OutcomeCounter, ProbeVector
from retrieval.pool import Pool

# The newest ones; with 384 numbers to a text 150 MB at most.
MAX_HELD = 100_000
SQL_CHUNK = 500

ROW = np.dtype(
    [
        ("text", "i8"),
        ("adapter", "i8"),
        ("revision", "i8"),
        ("reporter", "i8"),
        ("score", "f8"),
        ("cost", "f8"),
        ("id", "O"),
    ]
)
COLUMNS = ("probe__digest", "adapter_id", "revision_id", "probe__owner_id", "score", "cost", "id")


@dataclass(frozen=True)
class Table:
    """All outcomes whose texts have vectors in a space. Never changed.

    Attributes:
        position, rewritten: of the counter when it was read.
        is_whole: whether every outcome's text had its vector.
        rows: (n,) of ROW. vectors: (p, dim), of the texts. texts: digest → number of the text; shared by successors.
    """

    space: str
    position: int = 0
    rewritten: int = 0
    is_whole: bool = True
    rows: NDArray[Any] = field(default_factory=lambda: np.empty(0, ROW))
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    texts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What a caller may know of the experts that its filters leave.

    Attributes:
        experts: (e,) rows of the pool, which the expert numbers of `outcomes` count; adapters: their ids.
        ids: of each outcome. state: changes whenever outcomes do.
    """

    outcomes: Outcomes
    experts: NDArray[np.int64]
    adapters: NDArray[np.int64]
    ids: NDArray[Any]
    state: tuple[str, int, int]


_held: dict[str, Table] = {}
_reading = threading.Lock()


def forget() -> None:
    """Start again from the database at the next request."""
    _held.clear()
    _rows_in.cache_clear()


def current_table(space: str) -> Table:
    """The outcomes as of the last commit, in the space that answers."""
    table = _held.get(space)
    if table is None or _counter() != (table.position, table.rewritten):
        with _reading:
            table = _refreshed(_held.get(space) or Table(space))
            _held.clear()
            _held[space] = table
    return table


def _counter() -> tuple[int, int]:
    return OutcomeCounter.objects.filter(pk=1).values_list("position", "rewritten").first() or (0, 0)


def _refreshed(table: Table) -> Table:
    position, rewritten = _counter()
    if (position, rewritten) == (table.position, table.rewritten):
        return table
    if rewritten != table.rewritten or position < table.position or not table.is_whole:
        table = Table(table.space)
    new = Outcome.objects.filter(position__gt=table.position, position__lte=position)
    # The newest first, and only so many.
    columns = list(new.order_by("-position", "-pk").values_list(*COLUMNS)[:MAX_HELD])[::-1]
    missing = {digest for digest, *_ in columns if digest not in table.texts}
    vectors = _vectors(table.space, missing)
    texts = table.texts | {digest: len(table.texts) + number for number, digest in enumerate(vectors)}
    found = [(texts[digest], *rest) for digest, *rest in columns if digest in texts]
    rows = np.array([tuple(np.nan if value is None else value for value in row) for row in found], dtype=ROW)
    held = [table.vectors] if len(table.texts) else []
    added = [np.stack(list(vectors.values()))] if vectors else []
    return Table(
        table.space,
        position,
        rewritten,
        len(found) == len(columns),
        np.concatenate([table.rows, rows])[-MAX_HELD:],
        np.concatenate([*held, *added]) if added else table.vectors,
        texts,
    )


def _vectors(space: str, digests: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """By digest; the same text of several callers has one."""
    wanted = sorted(digests)
    found: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(wanted), SQL_CHUNK):
        rows = ProbeVector.objects.filter(space_id=space, probe__digest__in=wanted[start : start + SQL_CHUNK])
        for digest, vector in rows.order_by("pk").values_list("probe__digest", "vector"):
            found.setdefault(digest, np.frombuffer(vector, dtype="<f4"))
    return found


def known_outcomes(pool: Pool, mask: NDArray[np.bool_]) -> Known:
    """The outcomes of the pool's rows that a mask (n,) leaves, of the weights that they have now."""
    table = current_table(pool.space)
    at = _rows_in(_Pair(table, pool))
    chosen = np.flatnonzero((at >= 0) & mask[at]) if len(pool) else np.empty(0, np.int64)
    rows = table.rows[chosen]
    experts, expert = np.unique(at[chosen], return_inverse=True)
    texts, probe = np.unique(rows["text"], return_inverse=True)
    outcomes = Outcomes(
        # Where all are wanted, nothing is copied.
        probes=table.vectors if len(texts) == len(table.vectors) else table.vectors[texts],
        experts=len(experts),
        probe=probe,
        expert=expert,
        reporter=rows["reporter"],
        score=rows["score"],
        cost=rows["cost"],
    )
    state = (table.space, table.position, table.rewritten)
    return Known(outcomes, experts, pool.rows["adapter"][experts], rows["id"], state)


class _Pair:
    """A table and a pool, as a key: both are never changed."""

    def __init__(self, table: Table, pool: Pool) -> None:
        self.table, self.pool = table, pool

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pair) and self.table is other.table and self.pool is other.pool

    def __hash__(self) -> int:
        return hash((id(self.table), id(self.pool)))


@lru_cache(maxsize=2)
def _rows_in(pair: _Pair) -> NDArray[np.int64]:
    """The pool's row of each outcome's adapter; -1 where it is not there, or has other weights by now."""
    table, pool = pair.table, pair.pool
    if not len(pool) or not len(table.rows):
        return np.full(len(table.rows), -1, dtype=np.int64)
    order = np.argsort(pool.rows["adapter"])
    places = np.minimum(np.searchsorted(pool.rows["adapter"], table.rows["adapter"], sorter=order), len(pool) - 1)
    at = order[places]
    there = pool.rows["adapter"][at] == table.rows["adapter"]
    heads = pool.rows["revision"][at]
    old = there & (heads != table.rows["revision"])
    if old.any():
        asked = {*table.rows["revision"][old].tolist(), *heads[old].tolist()}
        weights = _weights(sorted(asked))
        both = zip(table.rows["revision"].tolist(), heads.tolist(), old.tolist(), strict=True)
        there &= np.array([not is_old or weights.get(one, 0) == weights.get(other) for one, other, is_old in both])
    return np.where(there, at, -1)


def _weights(revisions: list[int]) -> dict[int, str]:
    """The digest of each revision's weights."""
    found: dict[int, str] = {}
    for start in range(0, len(revisions), SQL_CHUNK):
        files = RevisionFile.objects.filter(revision_id__in=revisions[start : start + SQL_CHUNK], path=WEIGHTS)
        found.update(files.values_list("revision_id", "blob_id"))
    return found
