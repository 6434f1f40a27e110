"""One line per request, under an id that the answer and the jobs carry; nothing private in it."""

import json
import logging
import logging.config
import re
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from structlog.contextvars import bound_contextvars, clear_contextvars

from config.logs import logging_config
from registry.jobs import enqueue
from registry.tokens import create_token
from workers import runner


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.DEBUG, "config.request_log")
    return lambda: [record for record in caplog.records if record.name == "config.request_log"]


@pytest.mark.django_db
def test_a_request_is_one_line_with_its_route_and_no_query(client, lines) -> None:
    client.get("/api/v1/adapters/ada/unknown/?search=secret")
    [line] = lines()
    assert (line.method, line.status, line.user_id, line.remote) == ("GET", 404, None, "127.0.0.1")
    assert line.route == "/api/v1/adapters/<str:owner>/<str:name>/"
    assert line.ms >= 0
    assert "secret" not in json.dumps(line.__dict__, default=str)


@pytest.mark.django_db
def test_no_other_line_repeats_the_request(client, monkeypatch, capsys) -> None:
    with as_json():
        client.get("/nothing/?text=secret")
        monkeypatch.setattr("config.health.CHECKS", {"store": lambda: False})
        monkeypatch.setattr("config.health._running", {})
        client.get("/readyz?text=secret")
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["logger"] for line in told] == ["config.request_log"] * 2
    assert "secret" not in json.dumps(told)


@pytest.mark.django_db
def test_the_line_names_the_user_by_number(client, lines) -> None:
    user = User.objects.create_user("ada")
    _, secret = create_token(user, "test", 1)
    client.get("/api/v1/jobs/", headers={"Authorization": f"Bearer {secret}"})
    [line] = lines()
    assert line.user_id == user.pk
    assert secret not in json.dumps(line.__dict__, default=str)


@pytest.mark.django_db
@pytest.mark.parametrize(("sent", "kept"), [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ('"}', False)])
def test_an_id_that_looks_like_one_is_kept(client, sent: str, kept: bool) -> None:
    answered = client.get("/healthz", headers={"X-Request-ID": sent})["X-Request-ID"]
    assert (answered == sent) is kept
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answered)


def test_probes_are_told_at_debug_only(client, lines) -> None:
    client.get("/healthz")
    assert [line.levelno for line in lines()] == [logging.DEBUG]


@pytest.mark.django_db
def test_a_job_keeps_the_id_and_its_lines_have_it(monkeypatch, capsys) -> None:
    with bound_contextvars(request_id="from-the-proxy"):
        job = enqueue("snapshot")
    clear_contextvars()
    monkeypatch.setattr("workers.handlers.snapshot.handle", lambda work: 1 / 0)
    with as_json():
        runner.run(str(job.pk))
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    [line] = [line for line in told if "ZeroDivisionError" in line.get("exception", "")]
    assert (line["job_id"], line["kind"], line["attempt"]) == (str(job.pk), "snapshot", 1)
    assert line["request_id"] == "from-the-proxy"


class as_json:
    """The configuration of production, for as long as the block runs."""

    def __enter__(self) -> None:
        logging.config.dictConfig(logging_config("WARNING", as_json=True))

    def __exit__(self, *_: object) -> None:
        logging.config.dictConfig(logging_config("WARNING"))


def test_tracebacks_show_no_values(capsys) -> None:
    token = "hf_" + "s" * 40
    with as_json():
        try:
            raise ValueError(f"a token of {len(token)} letters")
        except ValueError:
            logging.getLogger("registry").exception("failed", extra={"where": Path("x")})
    told = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert told["message"] == "failed"
    assert "ValueError" in told["exception"]
    assert token not in json.dumps(told)


def test_libraries_that_log_secrets_are_kept_from_debug(capsys) -> None:
    logging.config.dictConfig(logging_config("DEBUG", as_json=True))
    try:
        logging.getLogger("botocore.auth").debug("Authorization: AWS4-HMAC-SHA256")
        logging.getLogger("some.library").debug("seen")
    finally:
        logging.config.dictConfig(logging_config("WARNING"))
    told = capsys.readouterr().err
    assert "AWS4" not in told
    assert "seen" in told
