"""What `manage.py check --deploy` says about this site beyond Django's own checks."""

import os
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, register
from django.core.checks import Warning as CheckWarning


@register(Tags.security, deploy=True)
def secret_key_is_set(**_: Any) -> list[CheckMessage]:
    if os.environ.get("SECRET_KEY"):
        return []
    text = f"SECRET_KEY is not set; the one in {settings.DATA_DIR / 'secret_key'} was made up."
    hint = "Set it, at least where several machines serve one site: sessions of one are unknown to the others."
    return [CheckWarning(text, hint=hint, id="loradex.W001")]


@register(Tags.security, deploy=True)
def external_url_is_https(**_: Any) -> list[CheckMessage]:
    if settings.HTTPS:
        return []
    text = f"EXTERNAL_URL is {settings.EXTERNAL_URL}: passwords and tokens travel in the clear."
    hint = "Put a proxy with TLS in front, and set EXTERNAL_URL to its https://…"
    return [CheckWarning(text, hint=hint, id="loradex.W002")]
