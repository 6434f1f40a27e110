"""Access tokens: `hf_` + 40 alphanumerics, shown once, stored as a digest, expiring, revocable."""

import hashlib
import secrets
import string
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from registry.errors import Invalid
from registry.models import AccessToken

ALPHABET = string.ascii_letters + string.digits
MAX_DAYS = 3650


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def create_token(user: AbstractBaseUser, name: str, days: int) -> tuple[AccessToken, str]:
    """A token valid for `days` (1..3650). Returns: its row and the secret, which is kept nowhere."""
    if not 1 <= days <= MAX_DAYS:
        raise Invalid(f"A token lasts 1 to {MAX_DAYS} days, not {days}.", detail={"days": "out of range"})
    secret = "hf_" + "".join(secrets.choice(ALPHABET) for _ in range(40))
    token = AccessToken.objects.create(
        user_id=user.pk,
        name=name,
        digest=_digest(secret),
        hint=secret[:7],
        expires_at=timezone.now() + timedelta(days=days),
    )
    return token, secret


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`."""

    def authenticate(self, request: Request) -> tuple[AbstractBaseUser, AccessToken] | None:
        scheme, _, secret = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        token = self._find(secret.strip().decode("latin-1"))
        if token is None or not token.user.is_active:
            raise AuthenticationFailed(
                "The token is unknown, revoked or expired. Make a new one under /settings/tokens/."
            )
        # Once a minute is enough for "last used", and spares a write per request.
        AccessToken.objects.filter(pk=token.pk).filter(
            Q(last_used_at=None) | Q(last_used_at__lt=timezone.now() - timedelta(minutes=1))
        ).update(last_used_at=Now())
        return token.user, token

    def _find(self, secret: str) -> AccessToken | None:
        return (
            AccessToken.objects.select_related("user")
            .filter(digest=_digest(secret), revoked_at=None, expires_at__gt=Now())
            .first()
        )

    def authenticate_header(self, request: Request) -> Any:
        return "Bearer"
