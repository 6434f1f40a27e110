"""Unexpected errors say nothing outside and everything in the log."""

import logging

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.db import DataError, OperationalError

from retrieval.api.methods import Methods


@pytest.mark.django_db
def test_a_crash_is_a_neutral_500_and_is_logged(client, monkeypatch, caplog):
    def crash(*_):
        raise RuntimeError("secret path /srv/x")

    monkeypatch.setattr(Methods, "get", crash)
    with caplog.at_level(logging.ERROR):
        answer = client.get("/api/v1/methods/")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.content.decode()
    assert "secret path" in caplog.text


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/api/v1/methods/", (Methods, "get")),
        ("/api/v1/methods/", (SessionStore, "load")),
        ("/", (SessionStore, "load")),
    ],
    ids=["in a view", "before a view", "on a page"],
)
def test_a_database_that_is_away_is_503_and_not_a_crash(client, monkeypatch, path, place):
    def away(*_, **__):
        raise OperationalError("the database system is shutting down")

    client.force_login(User.objects.create(username="ada"))
    monkeypatch.setattr(*place, away)
    client.raise_request_exception = False
    answer = client.get(path)
    assert (answer.status_code, bool(answer["Retry-After"])) == (503, True)
    if path.startswith("/api/"):
        assert answer.json()["code"] == "not_ready"


@pytest.mark.django_db
def test_what_the_database_cannot_hold_is_400(client, monkeypatch):
    def refuse(*_):
        raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")

    monkeypatch.setattr(Methods, "get", refuse)
    answer = client.get("/api/v1/methods/")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


@pytest.mark.django_db
def test_every_answer_carries_the_policy(client):
    for path in ("/healthz", "/api/v1/adapters/", "/nope/"):
        assert "script-src 'self'" in client.get(path)["Content-Security-Policy"]
