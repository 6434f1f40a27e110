"""The page that compares routers, as the server sends it, and the same numbers over REST."""

import csv
import io
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from retrieval.models import Evaluation
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db

SETTING = {"samples": 20, "queries": None, "space": "all-MiniLM-L6-v2@0"}


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": min(1, value + 0.1)}


def rates(value: float, queries: int = 100) -> dict[str, Any]:
    return {"queries": queries, "mrr": share(value), "top": {depth: share(value) for depth in "138"}}


def keep(subject: str, value: float, **columns: Any) -> Evaluation:
    figures = {
        "experts": 2,
        "as_given": rates(value),
        "took_ms": {"encode": 4.0, "route": 0.25},
        "category": None,
        "tasks": [{"task": "easy", "queries": 50, "top": {"1": 1.0}}, {"task": "hard", "queries": 50, "top": {"1": 0}}],
    }
    row = {"suite": "mine", "digest": "a" * 64, "measure": "retrieval", "setting": SETTING, "figures": figures}
    key = str(Evaluation.objects.count()).rjust(64, "0")
    return Evaluation.objects.create(key=key, subject=subject, created_at=timezone.now(), **(row | columns))


def keep_answers(subject: str, value: float, **columns: Any) -> Evaluation:
    figures = {"queries": 100, "as_given": {"top_1": share(value)}}
    return keep(subject, 0, measure="answers", figures=figures, setting=SETTING | {"base_model": "b"}, **columns)


def test_an_empty_leaderboard_says_which_command_fills_it(client: Client) -> None:
    html = client.get("/leaderboard/").content.decode()
    check_html(html)
    assert "manage.py evaluate --suite examples/zoo" in html
    assert client.get("/api/v1/leaderboard/").json() == {"count": 0, "results": []}


def test_routers_come_best_first_with_intervals_and_a_caution(client: Client) -> None:
    keep("adapter_soup", 0.5)
    keep("lora_retriever", 0.75)
    keep("one_of_a_later_version", 0.25)
    html = client.get("/leaderboard/").content.decode()
    check_html(html)
    assert html.index("LoraRetriever") < html.index("AdapterSoup") < html.index("one_of_a_later_version")
    assert "65.0 to 85.0" in html
    assert 'href="/leaderboard/" aria-current="page"' in html
    assert "does not say how good the answers are" in html
    # The hardest task is told first.
    assert html.index(">hard<") < html.index(">easy<")


def test_routers_that_are_made_to_run_experts_say_by_what(client: Client) -> None:
    keep("what_the_weight:prior", 0.2, params={"score": "prior"})
    keep("lorahub", 0.1)
    page = client.get("/leaderboard/").content.decode()
    assert "What the Weight?, by running the experts, prior" in page
    assert "LoraHub" in page
    assert 'href="/retrieve/?router=what_the_weight"' in page
    assert "<code>what_the_weight, score: prior</code>" in page


def test_answers_stand_below_what_is_found_with_their_references(client: Client) -> None:
    keep_answers("lora_retriever", 0.8)
    keep_answers("own_expert", 0.9, is_reference=True)
    keep("lora_retriever", 0.75)
    html = client.get("/leaderboard/").content.decode()
    check_html(html)
    assert html.index("What they find") < html.index("What they answer")
    assert "own expert" in html
    boards = client.get("/api/v1/leaderboard/").json()["results"]
    assert [board["measure"] for board in boards] == ["retrieval", "answers"]
    assert [row["subject"] for row in boards[1]["rows"]] == ["own_expert", "lora_retriever"]


def test_suites_of_one_name_are_told_apart_by_their_content(client: Client) -> None:
    keep("lora_retriever", 0.75)
    keep("lora_retriever", 0.5, digest="b" * 64)
    assert client.get("/api/v1/leaderboard/?suite=mine").json()["count"] == 2
    (board,) = client.get(f"/api/v1/leaderboard/?suite={'b' * 64}").json()["results"]
    assert board["rows"][0]["figures"]["as_given"]["top"]["1"]["value"] == 0.5
    assert client.get("/api/v1/leaderboard/?suite=nothing").json()["results"] == []


def test_the_numbers_come_as_a_file(client: Client) -> None:
    keep("lora_retriever", 0.75, suite="=evil()")
    answer = client.get("/leaderboard.csv")
    assert answer["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["figure"] for row in rows] == ["top_1", "top_3", "top_8", "mrr"]
    assert rows[0]["suite"] == "'=evil()"
    assert (rows[0]["value"], rows[0]["low"], rows[0]["queries"]) == ("0.75", "0.65", "100")
