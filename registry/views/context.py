"""What every template may use."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest


def site(request: HttpRequest) -> dict[str, Any]:
    """Context processor: `site.external_url`, `site.signup_open`."""
    return {"site": {"external_url": settings.EXTERNAL_URL, "signup_open": settings.SIGNUP_OPEN}}
