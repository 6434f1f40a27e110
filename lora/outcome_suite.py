"""Suites of outcomes: what experts scored on texts, from a file, and on which of these routers are asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.outcomes import Doubles, Floats, Ints, Outcomes
from lora.suite import EXAMPLES, MIN_EXPERTS, BrokenSuite, json_rows

# One text in so many is asked about; the others are what routers know.
ONE_IN = 5


@dataclass(frozen=True)
class OutcomeSuite:
    """What experts scored on t texts.

    Attributes:
        digest: sha256 over all of it.
        experts: their names, sorted, (n,). texts: (t,), as in the file; one may be there twice.
        tasks: of each text a number, (t,): a text without a task is one of its own.
        scores: 0..1, (t, n); costs: >= 0, (t, n). Both nan where nothing is said.
    """

    name: str
    digest: str
    experts: tuple[str, ...]
    texts: tuple[str, ...]
    tasks: Ints
    scores: Doubles
    costs: Doubles

    @cached_property
    def held_out(self) -> NDArray[np.bool_]:
        """Which texts are kept from routers, (t,): by their digest, so that equal texts stand on one side."""
        digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in self.texts]
        return np.array([int.from_bytes(digest, "big") % ONE_IN == 0 for digest in digests])

    def asked(self, queries: int | None) -> Ints:
        """Return the places of the texts to ask about: held out, every expert scored; the first `queries` of a task."""
        there = np.flatnonzero(self.held_out & np.isfinite(self.scores).all(axis=1))
        if queries is None:
            return there
        order = np.argsort(self.tasks[there], kind="stable")
        _, starts, sizes = np.unique(self.tasks[there][order], return_index=True, return_counts=True)
        within = np.arange(len(there)) - np.repeat(starts, sizes)
        return np.sort(there[order[within < queries]])

    def known(self, rows: Floats, texts: Sequence[str]) -> Outcomes:
        """Return all that routers may know, as if one caller had reported it.

        Args:
            rows: unit rows (p, dim) of `texts`, which are those of `known_texts`.
        """
        place = {text: number for number, text in enumerate(texts)}
        at, expert = np.nonzero(np.isfinite(self.scores) & ~self.held_out[:, None])
        return Outcomes(
            probes=rows,
            experts=len(self.experts),
            probe=np.array([place[self.texts[line]] for line in at], dtype=np.int64),
            expert=expert.astype(np.int64),
            reporter=np.zeros(len(at), dtype=np.int64),
            score=self.scores[at, expert],
            cost=self.costs[at, expert],
        )

    def known_texts(self) -> list[str]:
        """Return the texts that are not held out, each once."""
        return list(dict.fromkeys(np.array(self.texts, dtype=object)[~self.held_out].tolist()))


def read_outcomes(path: Path, costs: Mapping[str, float]) -> OutcomeSuite:
    """Read JSON lines `{input, scores: {expert: 0..1}, costs: {expert: number}, task}`, the last two optional.

    `correct` may stand for `scores`, with true and false for 1 and 0.

    Args:
        path: a file, packed where its name ends in `.gz`, or a folder that has it as `examples.jsonl[.gz]`.
        costs: of any answer of an expert, where a line does not say its cost.
    Raises: BrokenSuite: with every problem that was found, by file and line.
    """
    problems: list[str] = []
    file = path if path.is_file() else next((path / name for name in EXAMPLES if (path / name).is_file()), None)
    if file is None:
        raise BrokenSuite(path, [f"there is no such file, and no folder with {EXAMPLES[1]} or {EXAMPLES[0]} in it"])
    lines = [(where, row) for where, row in json_rows(file, problems) if _is_sound(where, row, problems)]
    experts = tuple(sorted({name for _, row in lines for name in _scores(row)}))
    problems += [f"no line has a score of {name!r}, whose cost you name" for name in costs if name not in experts]
    if not problems and len(experts) < MIN_EXPERTS:
        problems.append(f"{len(experts)} experts; there must be {MIN_EXPERTS}, or there is nothing to choose")
    if problems:
        raise BrokenSuite(path, problems)
    rows = [row for _, row in lines]
    suite = _table(path.resolve().name.partition(".jsonl")[0], experts, rows, costs)
    if not len(suite.asked(None)) or suite.held_out.all():
        raise BrokenSuite(path, [f"too few lines on which every expert is scored: one text in {ONE_IN} is asked about"])
    return suite


def _table(
    name: str, experts: tuple[str, ...], rows: Sequence[Mapping[str, Any]], costs: Mapping[str, float]
) -> OutcomeSuite:
    labels = [row.get("task") or f"\0{row['input']}" for row in rows]
    told = [[row["input"], row.get("task"), _scores(row), row.get("costs")] for row in rows]
    return OutcomeSuite(
        name=name,
        digest=hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest(),
        experts=experts,
        texts=tuple(row["input"] for row in rows),
        tasks=np.unique(labels, return_inverse=True)[1].astype(np.int64),
        scores=np.array([[_scores(row).get(expert, np.nan) for expert in experts] for row in rows], dtype=np.float64),
        costs=np.array(
            [[({**costs, **(row.get("costs") or {})}).get(expert, np.nan) for expert in experts] for row in rows],
            dtype=np.float64,
        ),
    )


def _scores(row: Mapping[str, Any]) -> Any:
    return row["scores"] if "scores" in row else row.get("correct")


def _is_sound(where: str, row: dict[str, Any], problems: list[str]) -> bool:
    """Return whether a line can be used; what is wrong with it is added to the problems."""
    given, task, scores, costs = row.get("input"), row.get("task") or "", _scores(row), row.get("costs") or {}
    before = len(problems)
    if not isinstance(given, str) or not given.strip():
        problems.append(f'{where}: "input" must be text that is not blank')
    if not isinstance(task, str):
        problems.append(f'{where}: "task" must be a name where there is one')
    if not isinstance(scores, dict) or not scores or not all(_is_number(score, 1) for score in scores.values()):
        problems.append(f'{where}: "scores" must be an object of experts and their scores, from 0 to 1')
    elif (
        not isinstance(costs, dict) or not all(_is_number(cost) for cost in costs.values()) or set(costs) - set(scores)
    ):
        problems.append(f'{where}: "costs" must be an object of experts with a score, and numbers from 0')
    return len(problems) == before


def _is_number(value: Any, maximum: float = 1e15) -> bool:
    return isinstance(value, int | float) and 0 <= value <= maximum
