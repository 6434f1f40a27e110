"""`?page=`, `?page_size=` (at most 100) → `{count, next, previous, results}`."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response


class Pages(PageNumberPagination):
    page_size_query_param = "page_size"
    max_page_size = 100


def paginated(request: Request, rows: QuerySet[Any], to_json: Callable[[Any], Any]) -> Response:
    """One page of `rows`, each turned into JSON."""
    pages = Pages()
    return pages.get_paginated_response([to_json(row) for row in pages.paginate_queryset(rows, request)])
