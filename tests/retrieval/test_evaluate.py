"""`manage.py evaluate`: what it measures, prints and keeps, with the default encoder and real tasks."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from lora.suite import read_suite
from retrieval.encoders import current_encoder
from retrieval.evaluations import Setting, prepare, retrieval_results
from retrieval.leaderboard import boards, measured
from retrieval.models import Evaluation
from tests.retrieval.dataset import CORE_BASELINE, load_tasks

pytestmark = pytest.mark.django_db

SAMPLES, QUERIES = 8, 3
# With 10 of the 50 queries of each task.
TOLERANCE = 3


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real tasks, of two categories; two of them begin every text with the same line."""
    folder = tmp_path_factory.mktemp("suites") / "six"
    folder.mkdir()
    tasks = load_tasks(core_only=True)[:6]
    rows = [{"task": task.name, "category": "odd" if i % 2 else "even"} for i, task in enumerate(tasks)]
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    examples = [
        {"task": task.name, "input": f"Do task {i}.\n{text}" if i < 2 else text, "output": "x", "split": split}
        for i, task in enumerate(tasks)
        for split, texts in (("sample", task.samples[:SAMPLES]), ("query", task.queries[:QUERIES]))
        for text in texts
    ]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    return folder


def evaluate(suite: Path, *options: str) -> str:
    out = io.StringIO()
    call_command("evaluate", "--suite", str(suite), *options, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def test_the_figures_are_those_of_a_dense_computation(suite: Path, tmp_path: Path) -> None:
    table = evaluate(suite, "--routers", "lora_retriever", "--json", str(tmp_path / "figures.json"))
    (result,) = json.loads((tmp_path / "figures.json").read_text())["results"]
    tasks = read_suite(suite).tasks
    encode = current_encoder().encode
    means = np.stack([encode([sample.input for sample in task.samples]).mean(axis=0) for task in tasks])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    queries = encode([query.input for task in tasks for query in task.queries])
    own = np.repeat(np.arange(6), QUERIES)
    scores = queries @ means.T
    ranks = (scores > scores[np.arange(len(own)), own][:, None] + 1e-7).sum(axis=1)
    figures = result["figures"]["as_given"]
    assert figures["queries"] == 6 * QUERIES
    assert figures["top"]["1"]["value"] == pytest.approx((ranks < 1).mean(), abs=1e-6)
    assert figures["mrr"]["value"] == pytest.approx((1 / (1 + ranks)).mean(), abs=1e-6)
    assert f"| `lora_retriever` | {100 * (ranks < 1).mean():.1f} |" in table
    # Each query has another task of its category.
    assert result["figures"]["category"]["queries"] == 6 * QUERIES
    assert {task["task"] for task in result["figures"]["tasks"]} == {task.name for task in tasks}


def test_without_the_common_line_queries_are_harder(suite: Path) -> None:
    evaluate(suite, "--routers", "lora_retriever")
    figures = Evaluation.objects.get().figures
    assert figures["without_instruction"]["mrr"]["value"] < figures["as_given"]["mrr"]["value"]


def test_the_same_evaluation_again_takes_the_place_of_the_last(suite: Path) -> None:
    evaluate(suite, "--routers", "lora_retriever", "adapter_soup")
    first = list(Evaluation.objects.order_by("subject").values_list("subject", "created_at"))
    evaluate(suite, "--routers", "lora_retriever")
    again = list(Evaluation.objects.order_by("subject").values_list("subject", "created_at"))
    assert [subject for subject, _ in again] == ["adapter_soup", "lora_retriever"]
    assert again[0] == first[0]
    assert again[1][1] > first[1][1]
    evaluate(suite, "--routers", "lora_retriever", "--samples", "2")
    assert sorted(len(board["rows"]) for board in boards()) == [1, 2]
    assert measured()["lora_retriever"]["suite"] == "six"


def test_it_can_leave_the_leaderboard_alone(suite: Path) -> None:
    assert "lora_retriever" in evaluate(suite, "--routers", "lora_retriever", "--no-store")
    assert not Evaluation.objects.exists()


def test_what_is_wrong_is_told_and_nothing_is_kept(suite: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"Known: .*lora_retriever"):
        evaluate(suite, "--routers", "lora_retreiver")
    with pytest.raises(CommandError, match="lorahub runs the experts on the base model: name that by --base-model"):
        evaluate(suite, "--routers", "lorahub")
    with pytest.raises(CommandError, match="there is no such folder"):
        evaluate(tmp_path / "nowhere")
    with pytest.raises(CommandError, match="not a whole number"):
        evaluate(suite, "--samples", "0")
    with pytest.raises(CommandError, match="has no weights in the suite"):
        evaluate(suite, "--routers", "lora_retriever", "--base-model", "acme/nothing")
    (tmp_path / "tasks.jsonl").write_text("{")
    (tmp_path / "examples.jsonl").write_text("")
    with pytest.raises(CommandError, match=r"tasks\.jsonl line 1: not JSON"):
        evaluate(tmp_path)
    assert not Evaluation.objects.exists()


def test_real_tasks_give_the_known_rates() -> None:
    """The 60 core tasks against each other, as over HTTP in tests/journeys/test_gate.py; all 103 are in the docs."""
    suite = read_suite(Path(__file__).resolve().parents[1] / "data" / "retrieval_dev")
    core = {task.name for task in load_tasks(core_only=True)}
    part = type(suite)(suite.name, suite.digest, tuple(task for task in suite.tasks if task.name in core))
    encoder = current_encoder()
    setting = Setting(("lora_retriever",), samples=20, queries=10, space=encoder.space_id)
    (result,) = retrieval_results(prepare(part, setting, encoder))
    rates = [100 * share["value"] for share in result.figures["as_given"]["top"].values()]
    assert rates == pytest.approx(CORE_BASELINE, abs=TOLERANCE)
