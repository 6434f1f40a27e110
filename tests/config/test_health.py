"""Readiness names what is missing, and answers in time."""

import threading
import time

import pytest

from config import health


@pytest.fixture
def checks(monkeypatch):
    parts = {name: lambda: True for name in health.CHECKS}
    monkeypatch.setattr(health, "CHECKS", parts)
    monkeypatch.setattr(health, "_running", {})
    monkeypatch.setattr(health, "TIMEOUT_S", 0.5)
    return parts


def test_all_is_well(checks, client) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "checks": dict.fromkeys(checks, True)})


def test_what_fails_is_named_and_may_be_left_out(checks, client) -> None:
    def away():
        raise ConnectionError("no broker")

    checks["broker"] = away
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert [name for name, passed in answer.json()["checks"].items() if not passed] == ["broker"]
    assert answer["Retry-After"]
    assert client.get("/readyz?exclude=broker").json()["checks"].keys() == checks.keys() - {"broker"}
    assert client.get("/readyz?exclude=broker&exclude=worker").status_code == 200


def test_a_part_that_hangs_delays_nobody_and_is_asked_once(checks, client) -> None:
    release, asked = threading.Event(), []

    def hang():
        asked.append(1)
        return release.wait(60)

    checks["store"] = hang
    try:
        for _ in range(3):
            started = time.monotonic()
            answer = client.get("/readyz")
            assert time.monotonic() - started < 10
            assert [name for name, passed in answer.json()["checks"].items() if not passed] == ["store"]
        assert len(asked) == 1
    finally:
        release.set()
