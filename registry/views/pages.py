"""What every HTML view shares: refusals become the site's own error pages."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from registry.errors import AppError, NotFound, PermissionRefused

View = Callable[..., HttpResponse]


def page(view: View) -> View:
    """Turns the services' refusals into pages of the same status."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NotFound as error:
            raise Http404(error.message) from error
        except PermissionRefused as error:
            raise PermissionDenied(error.message) from error
        except AppError as error:
            return render(request, "refusal.html", {"message": error.message}, status=error.http_status)

    return answer
