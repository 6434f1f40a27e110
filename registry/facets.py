"""What lists filter by, as columns in memory: the facets of any search are counted without reading a row."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.changes import current_seq
from registry.models import Adapter
from registry.queries import Caller

Mask = NDArray[np.bool_]

TAG = "tag"
# Facets of which an adapter has one value: what they are called → that value, empty where there is none to choose.
SINGLE: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "base_model": lambda row: row["base_model"],
    "license": lambda row: row["license"],
    "owner": lambda row: row["namespace__name"],
    "rank": lambda row: str(row["rank"] or ""),
    "samples": lambda row: "yes" if row["has_samples"] else "no",
    "origin": lambda row: "merged" if row["is_merged"] else "trained",
    "state": lambda row: row["state"],
}
# Values are stored as codes.
ROW = np.dtype([("adapter", "i8"), ("user", "i8"), ("public", "?"), *((name, "i4") for name in SINGLE)])
TAGGED = np.dtype([("adapter", "i8"), ("value", "i4")])
COLUMNS = (
    "pk",
    "namespace__owner_id",
    "visibility",
    "head_id",
    "yanked_at",
    "base_model",
    "license",
    "namespace__name",
    "rank",
    "has_samples",
    "is_merged",
    "state",
    "tags",
)


@dataclass(frozen=True)
class Listed:
    """Every adapter that is not yanked, as of one change. Never changed: `refreshed` makes a successor.

    Attributes:
        seq: the last change that it has seen.
        rows: (n,) of ROW, in no particular order.
        tags: (t,) of TAGGED.
        codes: value → code, in the order of the codes.
    """

    seq: int = -1
    rows: NDArray[Any] = field(default_factory=lambda: np.empty(0, ROW))
    tags: NDArray[Any] = field(default_factory=lambda: np.empty(0, TAGGED))
    codes: dict[str, int] = field(default_factory=dict)

    def refreshed(self) -> "Listed":
        """As of now; only adapters that changed since `seq` are read."""
        seq = current_seq()
        if seq == self.seq:
            return self
        if seq < self.seq:  # the database was restored from a backup
            return Listed().refreshed()
        changed = Adapter.objects.filter(change_seq__gt=self.seq).order_by().values(*COLUMNS)
        found = list(changed.iterator(chunk_size=2000))
        live = [row for row in found if row["yanked_at"] is None]
        codes = dict(self.codes)
        rows = np.array([_row(row, codes) for row in live], dtype=ROW)
        tags = np.array([(row["pk"], _code(tag, codes)) for row in live for tag in row["tags"]], dtype=TAGGED)
        gone = np.array([row["pk"] for row in found], dtype=np.int64)
        return Listed(
            seq,
            np.concatenate([self.rows[~np.isin(self.rows["adapter"], gone)], rows]),
            np.concatenate([self.tags[~np.isin(self.tags["adapter"], gone)], tags]),
            codes,
        )

    def visible(self, user: Caller) -> Mask:
        """The rows that `queries.visible_adapters` shows to the caller, (n,) bool."""
        public: Mask = self.rows["public"]
        return public | (self.rows["user"] == user.pk) if user.is_authenticated else public

    def among(self, adapters: Sequence[int] | NDArray[np.int64]) -> Mask:
        """The rows of some adapters, (n,) bool."""
        return np.isin(self.rows["adapter"], np.asarray(adapters, dtype=np.int64))

    def having(self, facet: str, values: Iterable[str]) -> Mask:
        """The rows that have any of the values, (n,) bool."""
        codes = [self.codes[value] for value in values if value in self.codes]
        if facet == TAG:
            return self.among(self.tags["adapter"][np.isin(self.tags["value"], codes)])
        return np.isin(self.rows[facet], codes)

    def count(self, facet: str, mask: Mask) -> dict[str, int]:
        """Value → how many of the rows in `mask` have it; the empty value is none."""
        if facet == TAG:
            codes = self.tags["value"][np.isin(self.tags["adapter"], self.rows["adapter"][mask])]
        else:
            codes = self.rows[facet][mask]
        counts = np.bincount(codes)
        values = list(self.codes)
        found = {values[code]: int(counts[code]) for code in np.flatnonzero(counts)}
        found.pop("", None)
        return found


def _row(row: Mapping[str, Any], codes: dict[str, int]) -> tuple[Any, ...]:
    is_public = row["visibility"] == Adapter.Visibility.PUBLIC and row["head_id"] is not None
    values = (_code(value_of(row), codes) for value_of in SINGLE.values())
    return (row["pk"], row["namespace__owner_id"], is_public, *values)


def _code(value: str, codes: dict[str, int]) -> int:
    return codes.setdefault(value, len(codes))


class _Live:
    def __init__(self) -> None:
        self.listed = Listed()


_live = _Live()
_refreshing = threading.Lock()


def listed() -> Listed:
    """As of the last committed change: one cheap SELECT tells whether anything changed."""
    if _live.listed.seq != current_seq():
        with _refreshing:
            # One assignment: requests that hold the old one finish with it.
            _live.listed = _live.listed.refreshed()
    return _live.listed


def forget() -> None:
    """Start again from the database at the next request."""
    with _refreshing:
        _live.listed = Listed()
