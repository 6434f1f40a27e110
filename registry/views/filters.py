"""The filters of the list of adapters."""

from collections import Counter
from typing import Any

from django.db.models import Q, QuerySet

from registry.models import Adapter, Revision
from registry.queries import Caller, visible_adapters

TEXT_FILTERS = ("search", "base_model", "tag", "license", "owner", "state", "ordering")
ORDERINGS = {
    "-updated_at": "newest first",
    "-downloads": "most downloaded",
    "full_name": "name",
}
STATES = [Revision.State.READY, Revision.State.CHECKING, Revision.State.REJECTED]
SHOWN_TAGS = 200


def read_filters(query: Any) -> dict[str, str]:
    """The filters of a query string; what is not known or not allowed is left out."""
    filters = {name: query.get(name, "").strip()[:500] for name in TEXT_FILTERS}
    if filters["ordering"] not in ORDERINGS:
        filters["ordering"] = next(iter(ORDERINGS))
    if filters["state"] not in STATES:
        filters["state"] = ""
    return filters


def filter_adapters(user: Caller, filters: dict[str, str]) -> QuerySet[Adapter]:
    """What the caller may see and the filters leave, in order."""
    adapters = visible_adapters(user)
    for word in filters["search"].split():
        adapters = adapters.filter(
            Q(full_name__icontains=word) | Q(description__icontains=word) | Q(tags__icontains=word)
        )
    if filters["base_model"]:
        adapters = adapters.filter(base_model=filters["base_model"])
    if filters["tag"]:
        adapters = adapters.filter(tags__icontains=f'"{filters["tag"]}"')
    if filters["license"]:
        adapters = adapters.filter(license=filters["license"])
    if filters["owner"]:
        adapters = adapters.filter(namespace__name__iexact=filters["owner"])
    if filters["state"] == Revision.State.READY:
        adapters = adapters.filter(head__isnull=False)
    elif filters["state"]:
        # Without a head, the newest revision's verdict is the adapter's state.
        adapters = adapters.filter(head=None, revisions__state=filters["state"]).distinct()
    return adapters.order_by(filters["ordering"], "pk").select_related("namespace", "head")


def choices(user: Caller) -> dict[str, list[Any]]:
    """What there is to choose from, among all that the caller may see."""
    adapters = visible_adapters(user)
    tags = Counter(tag for row in adapters.values_list("tags", flat=True) for tag in row)

    def values(field: str) -> list[str]:
        return list(adapters.exclude(**{field: ""}).values_list(field, flat=True).distinct().order_by(field))

    return {
        "base_model": values("base_model"),
        "license": values("license"),
        "owner": values("namespace__name"),
        "tag": [tag for tag, _ in tags.most_common(SHOWN_TAGS)],
        "state": [state.value for state in STATES],
        "ordering": list(ORDERINGS.items()),
    }
