"""The parts of `manage.py demo` that decide; the whole of it is in tests/journeys/test_demo.py."""

import json
import socket
import stat
from copy import deepcopy

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command

from registry.models import AccessToken
from workers.demo import journey
from workers.demo.account import demo_login

RESULTS = [
    {
        "task": task,
        "inputs": [f"Do it.\n{task} item"],
        "expected": ["right"],
        "answers": {"base": [""], "expert": ["right"], "merge": ["right"]},
        "right": {"base": 1, "expert": 8} | ({"merge": 2} if task in journey.MERGED else {}),
    }
    for task in journey.TASKS
]


def test_experts_that_answer_enough_have_no_shortcomings():
    assert journey.shortcomings(RESULTS) == []


@pytest.mark.parametrize(
    ("model", "right", "said"),
    [("expert", 7, "record-to-json answers 7"), ("base", 2, "base model answers 2"), ("merge", 1, "merge answers 1")],
)
def test_a_model_that_misses_its_bar_is_named(model, right, said):
    results = deepcopy(RESULTS)
    results[0]["right"][model] = right
    assert any(said in sentence for sentence in journey.shortcomings(results))


def test_answers_stand_side_by_side_with_an_empty_one_shown():
    lines = "\n".join(journey.side_by_side(RESULTS[0]))
    assert "record-to-json item" in lines
    assert "(nothing)" in lines
    assert "8/1" in lines


def test_recorded_answers_are_for_the_same_weights_only(tmp_path, monkeypatch):
    record = tmp_path / "answers.json"
    record.write_text(json.dumps({"at": "then", "weights": {"demo/a": "1"}, "results": RESULTS}))
    assert journey.ask({}, {"demo/a": "1"}, record) == (RESULTS, "then")
    monkeypatch.setattr(journey, "EXAMPLES", tmp_path)  # without ask.py, asking anew cannot but fail
    with pytest.raises(journey.DemoError, match=r"ask\.py"):
        journey.ask({}, {"demo/a": "2"}, record)


def test_every_prompt_is_held_out_from_the_samples_of_its_expert():
    for task in journey.TASKS:
        samples = (journey.ZOO / task / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        assert journey.prompt(task) not in {json.loads(line)["input"] for line in samples}


def test_a_taken_port_is_told_with_the_way_out(settings, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings.HOST, settings.PORT = other.getsockname()
        settings.DATA_DIR = tmp_path
        with pytest.raises(CommandError, match=rf"make demo PORT={settings.PORT + 1}"):
            call_command("demo", "--no-serve")


@pytest.mark.django_db
def test_the_login_stays_the_same_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "login.json"
    first = demo_login(path, lambda token: False)
    assert User.objects.get(username="demo").check_password(first.password)
    assert demo_login(path, lambda token: token == first.token) == first
    assert AccessToken.objects.count() == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.django_db
def test_a_revoked_token_is_replaced_and_a_changed_password_is_not(tmp_path):
    path = tmp_path / "login.json"
    first = demo_login(path, lambda token: False)
    user = User.objects.get(username="demo")
    user.set_password("chosen by hand")
    user.save()
    second = demo_login(path, lambda token: False)
    assert (second.password, second.token == first.token) == ("", False)
    assert User.objects.get(username="demo").check_password("chosen by hand")
