"""Unexpected errors say nothing outside and everything in the log."""

import logging

import pytest

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
def test_every_answer_carries_the_policy(client):
    for path in ("/healthz", "/api/v1/adapters/", "/nope/"):
        assert "script-src 'self'" in client.get(path)["Content-Security-Policy"]
