"""Suites as people write them, and what is wrong with broken ones."""

import gzip
import json
from pathlib import Path

import pytest

from lora.suite import BrokenSuite, read_suite

ROOT = Path(__file__).resolve().parents[2]
TASKS = [{"task": "b", "category": "qa"}, {"task": "a"}]
EXAMPLES = [
    {"task": task, "input": f"{task} {split}", "output": "x", "split": split}
    for task in "ab"
    for split in ("sample", "query")
]


def write(folder: Path, tasks: list | str = TASKS, examples: list | str = EXAMPLES, *, packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    texts = [rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows)) for rows in (tasks, examples)]
    (folder / "tasks.jsonl").write_text(texts[0])
    if packed:
        (folder / "examples.jsonl.gz").write_bytes(gzip.compress(texts[1].encode()))
    else:
        (folder / "examples.jsonl").write_text(texts[1])
    return folder


def problems(folder: Path) -> list[str]:
    with pytest.raises(BrokenSuite) as caught:
        read_suite(folder)
    return caught.value.problems


def test_tables_are_read_in_order_of_names_packed_or_not(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path / "mine"))
    assert suite.name == "mine"
    assert [(task.name, task.category) for task in suite.tasks] == [("a", ""), ("b", "qa")]
    assert [example.input for example in suite.tasks[0].samples] == ["a sample"]
    assert [(example.input, example.output) for example in suite.tasks[1].queries] == [("b query", "x")]
    assert read_suite(write(tmp_path / "packed", packed=True)).digest == suite.digest


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    first = read_suite(write(tmp_path / "one")).digest
    assert read_suite(write(tmp_path / "two", TASKS[::-1])).digest == first
    assert (
        read_suite(write(tmp_path / "three", TASKS, [EXAMPLES[0] | {"input": "else"}, *EXAMPLES[1:]])).digest != first
    )


def test_a_folder_of_experts_is_a_suite() -> None:
    suite = read_suite(ROOT / "examples" / "zoo")
    assert len(suite.tasks) == 12
    antonym = suite.tasks[1]
    assert antonym.name == "antonym"
    assert antonym.folder == ROOT / "examples" / "zoo" / "antonym"
    assert antonym.instruction() == "Write a word with the opposite meaning."
    assert len(antonym.samples) == 40


def test_what_has_no_common_first_line_has_no_instruction(tmp_path: Path) -> None:
    assert [task.instruction() for task in read_suite(write(tmp_path / "mine")).tasks] == [None, None]


def test_every_broken_line_is_named(tmp_path: Path) -> None:
    tasks = '{"task": "a"}\nnot json\n[]\n{"task": "a"}\n{"name": "b"}\n\n{"task": "b"}'
    examples = [
        *EXAMPLES,
        {"task": "nobody", "input": "x", "split": "query"},
        {"task": "a", "input": " ", "split": "query"},
        {"task": "a", "input": "x", "split": "train"},
        {"task": "a", "input": "x", "output": 3, "split": "query"},
    ]
    found = problems(write(tmp_path / "mine", tasks, examples))
    assert [line.split(":")[0] for line in found] == [
        "tasks.jsonl line 2", "tasks.jsonl line 3", "tasks.jsonl line 4", "tasks.jsonl line 5",
        "examples.jsonl line 5", "examples.jsonl line 6", "examples.jsonl line 7", "examples.jsonl line 8",
    ]  # fmt: skip
    assert "not 'train'" in found[6]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    assert problems(tmp_path / "nowhere") == ["there is no such folder"]
    assert "neither tasks.jsonl nor folders of experts" in problems(tmp_path)[0]
    assert problems(write(tmp_path / "one", TASKS, EXAMPLES[:3])) == ["b: no queries"]
    assert "must be 2" in problems(write(tmp_path / "single", [{"task": "a"}], EXAMPLES[:2]))[0]
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "tasks.jsonl").write_text('{"task": "a"}')
    assert problems(tmp_path / "lone") == ["no examples.jsonl (or examples.jsonl.gz) beside tasks.jsonl"]


def test_damaged_files_are_told_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", packed=True)
    (folder / "examples.jsonl.gz").write_bytes(b"\x1f\x8bnot really")
    assert "examples.jsonl.gz cannot be read" in problems(folder)[0]


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", TASKS, "nonsense\n" * 50)
    with pytest.raises(BrokenSuite, match="and 34 more"):
        read_suite(folder)
