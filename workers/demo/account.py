"""The account `demo`: made on the first run, the same on every later one."""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from django.contrib.auth.models import User

from registry.accounts import create_user
from registry.tokens import create_token

USER = "demo"
TOKEN_DAYS = 30


@dataclass(frozen=True)
class Login:
    """How to get in: in the browser with the password, over REST with the token."""

    user: str
    password: str
    token: str


def demo_login(path: Path, is_valid: Callable[[str], bool]) -> Login:
    """The account's login, kept in `path` (mode 600) because neither secret is stored anywhere else.

    `is_valid` tells whether a token still is. A password that was changed since is not touched, and left empty here.
    """
    kept = json.loads(path.read_text()) if path.exists() else {}
    password = kept.get("password") or secrets.token_urlsafe(12)
    user = User.objects.filter(username=USER).first() or create_user(USER, password)
    token = kept.get("token", "")
    if not token or not is_valid(token):
        _, token = create_token(user, "make demo", TOKEN_DAYS)
    login = Login(USER, password if user.check_password(password) else "", token)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(login), file)
    return login
