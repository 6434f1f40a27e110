"""What every HTML view shares: refusals become the site's own error pages."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from registry.errors import Invalid, NotFound, PermissionRefused

View = Callable[..., HttpResponse]


def page(view: View) -> View:
    """Turns the services' NotFound, PermissionRefused and Invalid into pages of status 404, 403 and 400."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NotFound as error:
            raise Http404(error.message) from error
        except PermissionRefused as error:
            raise PermissionDenied(error.message) from error
        except Invalid as error:
            return render(request, "400.html", {"message": error.message}, status=error.http_status)

    return answer
