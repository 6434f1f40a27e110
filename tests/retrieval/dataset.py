"""The tasks in tests/data/retrieval_dev as experts and queries, and how often a router finds a query's own expert."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parents[1] / "data" / "retrieval_dev"
SAMPLES_PER_EXPERT = 20
TEXTS_PER_REQUEST = 256
DEPTHS = (1, 3, 8)
# Percent at DEPTHS of the centroid cosine with the default encoder: the 60 core tasks, and all 103.
CORE_BASELINE = (82.7, 91.9, 96.5)
FULL_BASELINE = (75.8, 87.7, 94.0)
TOLERANCE = 0.5

# The matches' adapter names of each text, best first.
Ask = Callable[[list[str]], list[list[str]]]


@dataclass(frozen=True)
class Task:
    """One expert: what it shows of itself, and what it is to be found by."""

    name: str
    samples: list[str]
    queries: list[str]


def load_tasks(*, core_only: bool) -> list[Task]:
    with (FOLDER / "tasks.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts: dict[tuple[str, str], list[str]] = {}
    with gzip.open(FOLDER / "examples.jsonl.gz", "rt", encoding="utf-8") as lines:
        for example in map(json.loads, lines):
            texts.setdefault((example["task"], example["split"]), []).append(example["input"])
    return [
        Task(row["task"], texts[row["task"], "sample"][:SAMPLES_PER_EXPERT], texts[row["task"], "query"])
        for row in rows
        if row["core"] or not core_only
    ]


def hit_rates(tasks: list[Task], ask: Ask) -> list[float]:
    """Percent of all queries whose own task is among the first 1, 3 and 8 names, as `ask` returns them."""
    own = [(task.name, query) for task in tasks for query in task.queries]
    ranks: list[int] = []
    for start in range(0, len(own), TEXTS_PER_REQUEST):
        part = own[start : start + TEXTS_PER_REQUEST]
        for (name, _), found in zip(part, ask([query for _, query in part]), strict=True):
            ranks.append(found.index(name) if name in found else len(found))
    return [100 * float(np.mean(np.array(ranks) < depth)) for depth in DEPTHS]
