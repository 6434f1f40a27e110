"""What every HTML view shares: refusals become the site's own error pages."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse

from registry.errors import NotFound, PermissionRefused

View = Callable[..., HttpResponse]


def page(view: View) -> View:
    """Turns NotFound and PermissionRefused of the services into Django's 404 and 403."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NotFound as error:
            raise Http404(error.message) from error
        except PermissionRefused as error:
            raise PermissionDenied(error.message) from error

    return answer
