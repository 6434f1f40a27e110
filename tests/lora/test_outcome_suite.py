"""Outcomes as people write them in files, which of them are held out, and what is wrong with broken ones."""

import gzip
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora.outcome_suite import ONE_IN, OutcomeSuite, read_outcomes
from lora.suite import BrokenSuite

LINES = [
    {"input": f"text {n}", "scores": {"b": n % 2, "a": 0.5}, "costs": {"b": n}, "task": "even" if n % 2 else "odd"}
    for n in range(40)
]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    raw = "\n".join(map(json.dumps, lines)).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def read(path: Path, lines: list[dict[str, Any]], **costs: float) -> OutcomeSuite:
    return read_outcomes(write(path, lines), costs)


def is_held(text: str) -> bool:
    return int(sha256(text.encode()).hexdigest(), 16) % ONE_IN == 0


def test_a_file_a_packed_one_and_a_folder_of_one_are_read_alike(tmp_path: Path) -> None:
    suite = read(tmp_path / "mine.jsonl", LINES)
    assert (suite.name, suite.experts) == ("mine", ("a", "b"))
    assert suite.scores.tolist() == [[0.5, n % 2] for n in range(40)]
    assert np.isnan(suite.costs[:, 0]).all()
    assert suite.costs[:, 1].tolist() == list(range(40))
    assert suite.tasks.tolist() == [1 - n % 2 for n in range(40)]
    packed = read(tmp_path / "packed" / "examples.jsonl.gz", LINES)
    assert packed.digest == suite.digest
    assert read_outcomes(tmp_path / "packed", {}).name == "packed"


def test_costs_of_experts_stand_in_for_those_that_lines_do_not_say(tmp_path: Path) -> None:
    suite = read(tmp_path / "mine.jsonl", LINES, a=7, b=9)
    assert suite.costs.tolist() == [[7, n] for n in range(40)]


def test_right_and_wrong_are_scores(tmp_path: Path) -> None:
    lines = [{"input": line["input"], "correct": {"a": True, "b": False}} for line in LINES]
    suite = read(tmp_path / "mine.jsonl", lines)
    assert suite.scores.tolist() == [[1, 0]] * 40
    # Without tasks every text is one of its own.
    assert len(set(suite.tasks.tolist())) == 40


def test_equal_texts_stand_on_one_side_and_what_is_asked_is_not_known(tmp_path: Path) -> None:
    lines = [*LINES, *({**line, "scores": {"a": 1, "b": 1}} for line in LINES), {"input": "one", "scores": {"a": 1}}]
    suite = read(tmp_path / "mine.jsonl", lines)
    assert suite.asked(None).tolist() == [n for n in range(80) if is_held(f"text {n % 40}")]
    texts = suite.known_texts()
    assert texts == [f"text {n}" for n in range(40) if not is_held(f"text {n}")] + ["one"] * (not is_held("one"))
    known = suite.known(np.eye(len(texts), dtype=np.float32), texts)
    told = sorted(zip(known.probe, known.expert, known.score, np.nan_to_num(known.cost, nan=-1), strict=True))
    assert told == sorted(
        (texts.index(line["input"]), "ab".index(name), score, line.get("costs", {}).get(name, -1))
        for line in lines
        if line["input"] in texts
        for name, score in line["scores"].items()
    )


def test_the_first_texts_of_each_task_can_be_asked_alone(tmp_path: Path) -> None:
    suite = read(tmp_path / "mine.jsonl", LINES)
    held = [n for n in range(40) if is_held(f"text {n}")]
    expected = sorted(next(n for n in held if n % 2 == part) for part in (0, 1))
    assert suite.asked(1).tolist() == expected
    assert suite.asked(100).tolist() == held


def test_every_broken_line_is_named(tmp_path: Path) -> None:
    good = {"input": "x", "scores": {"a": 1, "b": 0}}
    broken = [
        good | {"input": " "},
        good | {"scores": {}},
        good | {"scores": {"a": 1.5}},
        good | {"scores": {"a": "1"}},
        good | {"scores": {"a": float("nan")}},
        good | {"scores": None},
        good | {"costs": {"a": -1}},
        good | {"costs": {"c": 1}},
        good | {"costs": 3},
        good | {"task": 3},
        {"input": "x"},
    ]
    with pytest.raises(BrokenSuite) as caught:
        read(tmp_path / "mine.jsonl", [*LINES, *broken], c=1)
    told = caught.value.problems
    assert [line.split(":")[0] for line in told[:-1]] == [f"mine.jsonl line {41 + n}" for n in range(len(broken))]
    assert told[-1] == "no line has a score of 'c', whose cost you name"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"input": "x", "scores": {"a": 1}}], "1 experts; there must be 2"),
        ([line | {"scores": {"ab"[n % 2]: 1}, "costs": {}} for n, line in enumerate(LINES)], "every expert is scored"),
        ([line for line in LINES if is_held(line["input"])], "every expert is scored"),
        ([line for line in LINES if not is_held(line["input"])], "every expert is scored"),
    ],
)
def test_files_from_which_nothing_can_be_asked_are_refused(
    tmp_path: Path, lines: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(BrokenSuite, match=message):
        read(tmp_path / "mine.jsonl", lines)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(BrokenSuite, match="no such file"):
            read_outcomes(path, {})
