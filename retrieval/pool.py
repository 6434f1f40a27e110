"""The adapters that text routers can find, as columns in memory: who may see them, and what filters ask about."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from django.db.models import FilteredRelation, Q, Subquery
from numpy.typing import NDArray

from registry.changes import current_seq
from registry.models import Adapter, ChangeCounter

# Strings that filters compare are stored as codes; objects are what answers show.
ROW = np.dtype(
    [
        ("adapter", "i8"),
        ("prototype", "i8"),
        ("revision", "i8"),
        ("user", "i8"),
        ("public", "?"),
        ("owner", "i4"),
        ("base_model", "i4"),
        ("license", "i4"),
        ("name", "O"),
        ("commit", "O"),
        ("base_name", "O"),
    ]
)
TAG = np.dtype([("adapter", "i8"), ("tag", "i4")])
COLUMNS = (
    "pk",
    "vector__pk",
    "head_id",
    "namespace__owner_id",
    "visibility",
    "namespace__name",
    "base_model",
    "license",
    "full_name",
    "head__commit",
    "tags",
)


@dataclass(frozen=True)
class Pool:
    """Every adapter with a head, not yanked, whose head has a prototype of a kind in `space`; of kinds that have one
    row. Never changed: `refreshed` copies.

    Attributes:
        seq: the last change that it has seen.
        rows: (n,) of ROW, in no particular order.
        tags: (t,) of TAG.
        codes: string → code; shared by all successors and only ever added to.
    """

    space: str
    seq: int = -1
    rows: NDArray[Any] = field(default_factory=lambda: np.empty(0, ROW))
    tags: NDArray[Any] = field(default_factory=lambda: np.empty(0, TAG))
    codes: dict[str, int] = field(default_factory=dict)
    kind: str = "centroid"

    def __len__(self) -> int:
        return len(self.rows)

    def refreshed(self) -> "Pool":
        """The pool as of now; only adapters that changed since `seq` are read."""
        seq = current_seq()
        if seq == self.seq:
            return self
        if seq < self.seq:  # the database was restored from a backup
            return Pool(self.space, kind=self.kind).refreshed()
        found = list(_changed(self.space, self.kind, self.seq))
        # What was committed since the look above is in the rows, too: they tell as of when they are.
        seq = found[0]["seq"] if found else seq
        live = [row for row in found if row["live"]]
        gone = np.array([row["pk"] for row in found], dtype=np.int64)
        rows = np.array([self._row(row) for row in live], dtype=ROW)
        tags = np.array([(row["pk"], self._code(tag)) for row in live for tag in row["tags"]], dtype=TAG)
        return Pool(
            self.space,
            seq,
            np.concatenate([self.rows[~np.isin(self.rows["adapter"], gone)], rows]),
            np.concatenate([self.tags[~np.isin(self.tags["adapter"], gone)], tags]),
            self.codes,
            self.kind,
        )

    def _row(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return (
            row["pk"],
            row["vector__pk"],
            row["head_id"],
            row["namespace__owner_id"],
            row["visibility"] == Adapter.Visibility.PUBLIC,
            self._code(row["namespace__name"]),
            self._code(row["base_model"]),
            self._code(row["license"]),
            row["full_name"],
            row["head__commit"],
            row["base_model"],
        )

    def _code(self, text: str) -> int:
        return self.codes.setdefault(text, len(self.codes))

    def allowed(self, user_id: int | None, filters: Iterable[tuple[str, tuple[str, ...]]]) -> NDArray[np.bool_]:
        """Which rows a caller sees and every filter lets through, (n,) bool; values of one filter are alternatives."""
        mask = self.rows["public"].copy()
        if user_id is not None:
            mask |= self.rows["user"] == user_id
        for key, values in filters:
            codes = [self.codes[value] for value in values if value in self.codes]
            if key == "tag":
                tagged = self.tags["adapter"][np.isin(self.tags["tag"], codes)]
                mask &= np.isin(self.rows["adapter"], tagged)
            else:
                mask &= np.isin(self.rows[key], codes)
        return mask


def _changed(space: str, kind: str, since: int) -> Iterable[dict[str, Any]]:
    """Adapters that changed after `since`, each with the last change of all as `seq`.

    One statement, so that head, vector and `seq` belong together.
    """
    vector = FilteredRelation(
        "head__prototypes",
        condition=Q(head__prototypes__kind=kind, head__prototypes__space_id=space),
    )
    changed = Adapter.objects.filter(change_seq__gt=since).annotate(vector=vector)
    last = Subquery(ChangeCounter.objects.values("value")[:1])
    for row in changed.order_by().values(*COLUMNS, "yanked_at", seq=last).iterator(chunk_size=2000):
        yield row | {"live": row["vector__pk"] is not None and row["yanked_at"] is None}
