"""Suites: tasks with samples, which stand for their experts, and queries that the experts are to be found by."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora.check import first_paragraph
from lora.errors import LoraError
from lora.examples import Example, instruction_of

TASKS = "tasks.jsonl"
EXAMPLES = ("examples.jsonl.gz", "examples.jsonl")
SAMPLES = "samples.jsonl"
QUERIES = "test.jsonl"
CARD = "README.md"
MAX_PROBLEMS = 20
MIN_EXPERTS = 2

Row = tuple[str, dict[str, Any]]


class BrokenSuite(LoraError):
    """A folder is no suite; the text has one line per problem."""

    code = "broken_suite"

    def __init__(self, folder: Path, problems: Sequence[str]) -> None:
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        super().__init__("\n".join([f"{folder} is no suite:", *problems[:MAX_PROBLEMS], *more]))
        self.problems = list(problems)


@dataclass(frozen=True)
class Task:
    """One task, and the expert for it.

    Attributes:
        category: what tasks of a kind share, or "".
        samples: what the expert shows of itself. queries: what it is to be found by.
        folder: the expert's PEFT folder, where the suite has it.
        description: what is said about the expert, or "".
    """

    name: str
    category: str
    samples: tuple[Example, ...]
    queries: tuple[Example, ...]
    folder: Path | None = None
    description: str = ""

    def instruction(self) -> str | None:
        """Return the first line that all samples and queries of the task have in common above other text, or None."""
        return instruction_of(example.input for example in (*self.samples, *self.queries))


@dataclass(frozen=True)
class Suite:
    """Tasks in order of their names.

    Attributes:
        digest: sha256 over samples and queries. What is said about experts is left out: one router reads it.
    """

    name: str
    digest: str
    tasks: tuple[Task, ...]

    @property
    def is_described(self) -> bool:
        """Whether something is said about every expert."""
        return all(task.description for task in self.tasks)


def read_suite(folder: Path) -> Suite:
    """Read `tasks.jsonl` with `examples.jsonl[.gz]`, or a folder of experts with `samples.jsonl` and `test.jsonl` each.

    Raises: BrokenSuite: with every problem that was found, by file and line.
    """
    problems: list[str] = []
    if not folder.is_dir():
        raise BrokenSuite(folder, ["there is no such folder"])
    tasks = _from_tables(folder, problems) if (folder / TASKS).is_file() else _from_experts(folder, problems)
    problems += [f"{task.name}: no samples" for task in tasks if not task.samples]
    problems += [f"{task.name}: no queries" for task in tasks if not task.queries]
    if not problems and len(tasks) < MIN_EXPERTS:
        problems.append(f"{len(tasks)} tasks; there must be {MIN_EXPERTS}, or there is nothing to choose")
    if problems:
        raise BrokenSuite(folder, problems)
    ordered = tuple(sorted(tasks, key=lambda task: task.name))
    return Suite(folder.resolve().name, _digest(ordered), ordered)


def _from_tables(folder: Path, problems: list[str]) -> list[Task]:
    path = next((folder / name for name in EXAMPLES if (folder / name).is_file()), None)
    if path is None:
        problems.append(f"no {EXAMPLES[1]} (or {EXAMPLES[0]}) beside {TASKS}")
        return []
    categories: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    for where, row in json_rows(folder / TASKS, problems):
        name, category, said = row.get("task"), row.get("category") or "", row.get("description") or ""
        if not isinstance(name, str) or not name.strip() or not isinstance(category, str):
            problems.append(f'{where}: "task" must be a name, and "category" text where there is one')
        elif name in categories:
            problems.append(f"{where}: the task {name!r} is there twice")
        elif not isinstance(said, str):
            problems.append(f'{where}: "description" must be text where there is one')
        else:
            categories[name], descriptions[name] = category, said
    found: dict[tuple[str, str], list[Example]] = {}
    for where, row in json_rows(path, problems):
        name, split = row.get("task"), row.get("split")
        if not isinstance(name, str) or name not in categories:
            problems.append(f"{where}: {TASKS} has no task {name!r}")
        elif split not in ("sample", "query"):
            problems.append(f'{where}: "split" must be "sample" or "query", not {split!r}')
        elif example := _example(where, row, problems):
            found.setdefault((name, split), []).append(example)
    return [
        Task(
            name,
            category,
            tuple(found.get((name, "sample"), ())),
            tuple(found.get((name, "query"), ())),
            description=descriptions[name],
        )
        for name, category in categories.items()
    ]


def _from_experts(folder: Path, problems: list[str]) -> list[Task]:
    experts = sorted(path.parent for path in folder.glob(f"*/{SAMPLES}") if (path.parent / QUERIES).is_file())
    if not experts:
        problems.append(f"neither {TASKS} nor folders of experts with {SAMPLES} and {QUERIES}")
    tasks = []
    for expert in experts:
        samples, queries = (
            tuple(
                example
                for where, row in json_rows(expert / name, problems)
                if (example := _example(where, row, problems)) is not None
            )
            for name in (SAMPLES, QUERIES)
        )
        weights = expert if (expert / "adapter_config.json").is_file() else None
        tasks.append(Task(expert.name, "", samples, queries, weights, _said(expert / CARD)))
    return tasks


def _said(card: Path) -> str:
    """Return the first prose of a card, "" where there is none."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return first_paragraph(text.partition("\n---")[2] if text.startswith("---\n") else text)


def json_rows(path: Path, problems: list[str]) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file, each with the words that say where it stands."""
    label = path.name if path.name not in (SAMPLES, QUERIES) else f"{path.parent.name}/{path.name}"
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        problems.append(f"{label} cannot be read: {error}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{label} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            problems.append(f"{where}: not JSON")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            problems.append(f"{where}: an object is expected")


def _example(where: str, row: dict[str, Any], problems: list[str]) -> Example | None:
    """Return the row's example. Texts may be longer than those of a request."""
    given, wanted = row.get("input"), row.get("output")
    if not isinstance(given, str) or not given.strip():
        problems.append(f'{where}: "input" must be text that is not blank')
    elif not isinstance(wanted, str | None):
        problems.append(f'{where}: "output" must be text where there is one')
    else:
        return Example(given, wanted)
    return None


def _digest(tasks: Sequence[Task]) -> str:
    digest = hashlib.sha256()
    for task in tasks:
        parts = [[[example.input, example.output] for example in split] for split in (task.samples, task.queries)]
        digest.update(json.dumps([task.name, task.category, *parts]).encode())
    return digest.hexdigest()
