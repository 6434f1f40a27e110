"""`manage.py evaluate --outcomes`: what routers pick by known outcomes, and who does not look at the text."""

import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from retrieval.leaderboard import boards, measured
from retrieval.models import Evaluation
from tests.pages.html import check_html
from tests.retrieval.dataset import load_tasks

pytestmark = pytest.mark.django_db

COSTS = {"large": 10.0, "sums": 1.0, "words": 1.0}


def lines() -> list[dict[str, Any]]:
    """Texts of four real tasks: `words` is right about two, `sums` about the others, `large` about nearly all."""
    return [
        {
            "task": task.name,
            "input": text,
            "scores": {"words": place < 2, "sums": place >= 2, "large": number % 8 > 0},
        }
        for place, task in enumerate(load_tasks(core_only=True)[:4])
        for number, text in enumerate([*task.samples, *task.queries])
    ]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outcomes") / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines())))
    return path


def evaluate(file: Path, *options: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("evaluate", "--outcomes", str(file), *options, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def prices() -> list[str]:
    return ["--costs", *(f"{name}={cost}" for name, cost in COSTS.items())]


def test_references_are_those_that_plain_loops_find(file: Path) -> None:
    table, _ = evaluate(file, "--routers", "benchmark_knn", "cost_aware", *prices())
    told = lines()
    asked = [line for line in told if int(sha256(line["input"].encode()).hexdigest(), 16) % 5 == 0]
    known = [line for line in told if line not in asked]
    best = max(COSTS, key=lambda name: sum(line["scores"][name] for line in known))
    assert best == "large"
    rows = {row.subject: row.figures for row in Evaluation.objects.all()}
    assert set(rows) == {"oracle", "best_single", "random_expert", "benchmark_knn", "cost_aware"}
    for subject, pick in {
        "best_single": lambda scores: [best],
        "random_expert": lambda scores: list(COSTS),
        "oracle": lambda scores: [min(COSTS, key=lambda name: (-scores[name], COSTS[name]))],
    }.items():
        score = cost = 0.0
        for line in asked:
            names = pick(line["scores"])
            score += sum(map(line["scores"].get, names)) / len(names) / len(asked)
            cost += sum(map(COSTS.get, names)) / len(names) / len(asked)
        figures = rows[subject]["as_given"]
        assert figures["score"]["value"] == pytest.approx(score, abs=1e-6)
        assert figures["cost"]["value"] == pytest.approx(cost, abs=1e-6)
        assert figures["share"]["value"] == pytest.approx(score, abs=1e-6)
        assert (rows[subject]["queries"], rows[subject]["known"]) == (len(asked), 3 * len(known))
    assert "| oracle | 100.0 (100.0–100.0) | 100.0 (100.0–100.0) | 1 |  |" in table


def test_routers_that_learn_from_outcomes_beat_who_does_not_look(file: Path) -> None:
    evaluate(file, *prices())
    (board,) = boards("mine")
    rows = {row["subject"]: row["figures"]["as_given"] for row in board["rows"]}
    assert board["measure"] == "outcomes"
    for name in ("benchmark_knn", "cost_aware", "classifier", "routellm_mf"):
        assert rows[name]["score"]["value"] > rows["best_single"]["score"]["value"] > 0.8, name
    # Good enough is had from the two that cost a tenth.
    assert rows["cost_aware"]["cost"]["value"] < 2
    assert rows["oracle"]["share"]["value"] == 1
    # What is picked is no retrieval, and says nothing of a router's place among the others.
    assert measured() == {}


def test_without_costs_there_are_none_and_who_needs_them_is_left_out(file: Path) -> None:
    table, said = evaluate(file, "--queries", "2")
    assert "cost_aware has too little to go by, and is left out. Report how experts did, and at what cost" in said
    assert "mean cost" not in table
    assert "`cost_aware`" not in table
    assert "benchmark_knn" in table
    (board,) = boards()
    assert board["queries"] == 8
    assert not any("cost" in row["figures"]["as_given"] for row in board["rows"])


def test_they_stand_on_the_leaderboard_and_in_its_file(file: Path, client: Client) -> None:
    evaluate(file, "--routers", "benchmark_knn", "cost_aware", *prices())
    html = client.get("/leaderboard/").content.decode()
    check_html(html)
    assert "What they pick by outcomes" in html
    assert html.index("The best expert for every text") < html.index("Benchmark k-NN")
    assert "Always the expert that is best on average" in html
    assert "mean cost" in html
    text = client.get("/leaderboard.csv").content.decode()
    assert {line.split(",")[9] for line in text.splitlines()[1:]} == {"share", "score", "cost"}
    evaluate(file, "--routers", "benchmark_knn", "--no-store")
    evaluate(file, "--routers", "benchmark_knn")
    # Without costs it is another board.
    assert client.get("/api/v1/leaderboard/?suite=mine").json()["count"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--routers", "lora_retriever"], r"Known: benchmark_knn, classifier, cost_aware, routellm_mf"),
        (["--lines", "3", "--base-model", "x"], r"--base-model, --lines goes with --suite"),
        (["--costs", "large"], r"large is not the name of an expert, = and a number from 0"),
        (["--costs", "large=-1"], r"number from 0"),
        (["--costs", "larger=1"], r"no line has a score of 'larger'"),
    ],
)
def test_what_does_not_go_together_is_refused(file: Path, options: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        evaluate(file, *options)
    assert not Evaluation.objects.exists()


def test_costs_and_suites_do_not_go_together(file: Path) -> None:
    with pytest.raises(CommandError, match="--costs goes with --outcomes"):
        call_command("evaluate", "--suite", "examples/zoo", "--costs", "a=1", stdout=io.StringIO())
