"""Search in lists of adapters: words and filters, the order, and how many adapters each further filter would leave."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast
from django.http import QueryDict

from registry.errors import Invalid
from registry.listing import fold
from registry.models import Adapter, AdapterTag, Namespace, Revision
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
# What is read of each adapter to count the values of a filter.
COUNTED: dict[str, Any] = COLUMNS | {"owner": "namespace_id", "tag": Cast("tags", TextField())}
MAX_VALUES = 100

Values = list[tuple[str, int]]


@dataclass(frozen=True)
class Search:
    """Words, all of which must occur; filters, values of one being alternatives, all of which must hold.

    Attributes:
        filters: name → values as the caller wrote them.
        ordering: a key of ORDERINGS, with `-` before it for descending.
    """

    text: str
    filters: dict[str, tuple[str, ...]]
    ordering: str

    def without(self, name: str) -> "Search":
        return replace(self, filters={key: values for key, values in self.filters.items() if key != name})


def parse_search(query: QueryDict, ordering: str = "name") -> Search:
    """The search that query parameters ask for; blank ones ask for nothing. `ordering`: used where none is given.

    Raises: Invalid: an ordering or a value that there cannot be.
    """
    ordering = query.get("ordering") or ordering
    if ordering.removeprefix("-") not in ORDERINGS:
        raise Invalid(
            f"ordering is one of {', '.join(ORDERINGS)}, or -… for descending.", detail={"ordering": "unknown"}
        )
    given = {name: tuple(dict.fromkeys(value for value in query.getlist(name) if value.strip())) for name in COLUMNS}
    filters = {name: values for name, values in given.items() if values}
    for name, values in filters.items():
        for value in values:
            _column_value(name, value)
    return Search(query.get("search", "").strip(), filters, ordering)


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


@dataclass(frozen=True)
class Found:
    """What a search finds.

    Attributes:
        ids: of all adapters found, in the search's order.
        facets: filter → [(value, count)]: how many adapters of each value there are among those that every *other*
            filter lets through, which tells what choosing it would add. Most first, ranks in order; at most
            MAX_VALUES of them and those that are chosen.
    """

    ids: list[int]
    facets: dict[str, Values]


def find_with_facets(user: Caller, search: Search) -> Found:
    """Everything about a search in one pass over narrow rows, and one more for each filter that it has."""
    rows = _read(search_adapters(user, search), "pk", *COUNTED.values())
    counts = {name: _count(name, [row[place] for row in rows]) for place, name in enumerate(COUNTED, 1)}
    for name in search.filters:
        others = search_adapters(user, search.without(name)).order_by()
        counts[name] = _count(name, [value for (value,) in _read(others, COUNTED[name])])
    named = {name: _named(name, counts[name]) for name in COUNTED}
    return Found([row[0] for row in rows], {name: _ordered(name, named[name], search) for name in COLUMNS})


def _read(rows: QuerySet[Adapter], *columns: Any) -> list[tuple[Any, ...]]:
    """As `values_list`, without its conversions, which cost more than the query where there are ten thousand rows."""
    with connection.cursor() as cursor:
        try:
            cursor.execute(*rows.values_list(*columns).query.sql_with_params())
        except EmptyResultSet:
            return []
        return cursor.fetchall()


def _count(name: str, column: Sequence[Any]) -> Counter[Any]:
    if name != "tag":
        return Counter(column)
    # One document for all rows is read much faster than one for each.
    return Counter(tag for tags in json.loads(f"[{','.join(column)}]") for tag in tags)


def _named(name: str, counts: Counter[Any]) -> dict[str, int]:
    """Counts by what the values are called."""
    if name == "owner":
        owners = dict(Namespace.objects.filter(pk__in=counts).values_list("pk", "name"))
        return {owners[pk]: count for pk, count in counts.items()}
    if name in CHOICES:
        return {word: counts[value] for word, value in CHOICES[name].items() if counts[value]}
    return {str(value): count for value, count in counts.items() if value}


def _ordered(name: str, counts: dict[str, int], search: Search) -> Values:
    chosen = dict.fromkeys(search.filters.get(name, ()), 0)
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [item for place, item in enumerate(found) if place < MAX_VALUES or item[0] in chosen]
    kept += [item for item in chosen.items() if item[0] not in counts]
    return sorted(kept, key=lambda item: int(item[0])) if name == "rank" else kept
