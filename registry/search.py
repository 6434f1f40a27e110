"""Search in lists of adapters: words and filters, the order, and how many adapters each further filter would leave."""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from django.db.models import QuerySet
from django.http import QueryDict

from registry.errors import Invalid
from registry.facets import Mask, listed
from registry.listing import fold
from registry.models import Adapter, AdapterTag, Revision
from registry.queries import Caller, visible_adapters

MAX_WORDS = 10
MAX_RANK = 2**31 - 1
ORDERINGS = {
    "name": "full_name",
    "created_at": "pk",  # ids are given out in the order of creation
    "updated_at": "updated_at",
    "downloads": "downloads",
    "size_bytes": "size_bytes",
    "rank": "rank",
}
# What a filter is called → the column that it compares.
COLUMNS = {
    "base_model": "base_model",
    "tag": "tag_rows__name",
    "license": "license",
    "owner": "namespace__name",
    "rank": "rank",
    "samples": "has_samples",
    "origin": "is_merged",
    "state": "state",
}
# Filters with few values: what a value is called → what the column holds.
CHOICES: dict[str, dict[str, Any]] = {
    "samples": {"yes": True, "no": False},
    "origin": {"trained": False, "merged": True},
    "state": {state: state for state in Revision.State.values},
}
MAX_VALUES = 100

Values = list[tuple[str, int]]


@dataclass(frozen=True)
class Search:
    """Words, all of which must occur; filters, values of one being alternatives, all of which must hold.

    Attributes:
        filters: name → values, each written as `Found.facets` writes it.
        ordering: a key of ORDERINGS, with `-` before it for descending.
    """

    text: str
    filters: dict[str, tuple[str, ...]]
    ordering: str


def parse_search(query: QueryDict, ordering: str = "name") -> Search:
    """The search that query parameters ask for; blank ones ask for nothing. `ordering`: used where none is given.

    Raises: Invalid: an ordering or a value that there cannot be.
    """
    ordering = query.get("ordering") or ordering
    if ordering.removeprefix("-") not in ORDERINGS:
        raise Invalid(
            f"ordering is one of {', '.join(ORDERINGS)}, or -… for descending.", detail={"ordering": "unknown"}
        )
    given = {name: [value for value in query.getlist(name) if value.strip()] for name in COLUMNS}
    filters = {
        name: tuple(dict.fromkeys(_written(name, value) for value in values))
        for name, values in given.items()
        if values
    }
    return Search(query.get("search", "").strip(), filters, ordering)


def _written(name: str, value: str) -> str:
    """A value of a filter in the one way to write it."""
    held = _column_value(name, value)
    return value if name in CHOICES else str(held)


def _column_value(name: str, value: str) -> Any:
    """What the column of a filter holds where it has this value."""
    if name == "rank":
        if not (value.isascii() and value.isdigit() and len(value) < 11 and int(value) <= MAX_RANK):
            raise Invalid("rank is a whole number.", detail={"rank": "not a number"})
        return int(value)
    if name not in CHOICES:
        return value.replace("\0", "\ufffd")  # no stored text has it, and PostgreSQL refuses NUL
    if value not in CHOICES[name]:
        raise Invalid(f"{name} is {', '.join(CHOICES[name])}.", detail={name: "unknown"})
    return CHOICES[name][value]


def search_adapters(user: Caller, search: Search) -> QuerySet[Adapter]:
    """The adapters that a search finds among those that the caller may see, in its order."""
    column = ORDERINGS[search.ordering.removeprefix("-")]
    sign = "-" if search.ordering.startswith("-") else ""
    rows = visible_adapters(user).order_by(sign + column, *(["pk"] if column != "pk" else []))
    for word in fold(search.text).split()[:MAX_WORDS]:
        rows = rows.filter(search_text__contains=word)
    for name, values in search.filters.items():
        wanted = [_column_value(name, value) for value in values]
        if name == "tag":
            rows = rows.filter(pk__in=AdapterTag.objects.filter(name__in=wanted).values("adapter"))
        else:
            rows = rows.filter(**{f"{COLUMNS[name]}__in": wanted})
    return rows


class Found:
    """What a search finds, as paginators want it: `count()`, and slices, which are lists of adapters in its order."""

    def __init__(self, user: Caller, search: Search) -> None:
        self._search = search
        self._listed = listed()
        self._sought = self._listed.visible(user)
        self._having = {name: self._listed.having(name, values) for name, values in search.filters.items()}
        self._ids: Any = search_adapters(user, search).values_list("pk", flat=True)
        if search.text:
            # All texts are read once, for the page, the count and the facets.
            with_words = search_adapters(user, replace(search, filters={})).values_list("pk", flat=True)
            self._sought = self._sought & self._listed.among(list(with_words))
            fitting = set(self._listed.rows["adapter"][self._fitting()].tolist())
            self._ids = [pk for pk in with_words if pk in fitting]

    def _fitting(self, without: str = "") -> Mask:
        """The rows that the words and every filter let through, but for one filter."""
        having = (mask for name, mask in self._having.items() if name != without)
        return reduce(np.logical_and, having, self._sought)

    def count(self) -> int:
        return int(self._fitting().sum())

    def __getitem__(self, part: slice) -> list[Adapter]:
        ids = list(self._ids[part])
        # Narrow rows are sorted, whole ones fetched by id.
        rows = Adapter.objects.select_related("namespace").defer("search_text").in_bulk(ids)
        return [rows[pk] for pk in ids if pk in rows]

    def facets(self) -> dict[str, Values]:
        """Filter → [(value, count)]: how many adapters of each value there are among those that every *other* filter
        lets through, which tells what choosing it would add. Most first, ranks in order; at most MAX_VALUES of them
        and those that are chosen.
        """
        return {
            name: _ordered(name, self._listed.count(name, self._fitting(without=name)), self._search)
            for name in COLUMNS
        }


def _ordered(name: str, counts: dict[str, int], search: Search) -> Values:
    chosen = dict.fromkeys(search.filters.get(name, ()), 0)
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [item for place, item in enumerate(found) if place < MAX_VALUES or item[0] in chosen]
    kept += [item for item in chosen.items() if item[0] not in counts]
    return sorted(kept, key=lambda item: int(item[0])) if name == "rank" else kept
