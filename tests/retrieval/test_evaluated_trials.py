"""Suites put to the routers that run experts: every figure is what the router says of what a query shows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lora.errors import LoraError
from lora.evaluation import Asked, Pool
from lora.examples import Example
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import Probe
from lora.suite import Suite, Task
from lora.trial_routers import TRIAL_ROUTERS, trial_entries
from retrieval.evaluated_trials import ask_trials
from retrieval.evaluations import Prepared, Setting, retrieval_results
from tests.lora.runtime.tiny_language_model import opened, running_base, samples, write_inputs

NAMES = ("lorahub", "what_the_weight:prior", "what_the_weight:entropy")
LINE = "do it\n"


def with_line(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    return tuple(Example(LINE + one.input, one.output) for one in examples)


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Prepared, list]:
    """Two experts of a tiny base; each line of a task begins alike."""
    inputs = write_inputs(tmp_path)
    shown = [(with_line(item.samples), with_line(samples(9 + i, 2))) for i, item in enumerate(inputs)]
    tasks = tuple(Task(f"task-{i}", "", own, queries) for i, (own, queries) in enumerate(shown))
    rows = np.eye(4, dtype=np.float32)
    pool = Pool(("task-0", "task-1"), ("", ""), (rows[:1], rows[1:2]), (("a",), ("b",)))
    plain = tuple(query.input for task in tasks for query in task.queries)
    bare = tuple(text.removeprefix(LINE) for text in plain)
    own = np.array([0, 0, 1, 1])
    variants = {"as_given": Asked(own, rows, plain), "without_instruction": Asked(own, rows, bare)}
    setting = Setting(NAMES, samples=6, queries=None, space="none")
    queries = tuple(task.queries for task in tasks)
    return Prepared(Suite("tiny", "0", tasks), setting, lambda _: rows, pool, queries, variants, 0.0), opened(inputs)


def ranked(files: list, name: str, examples: list[Example]) -> np.ndarray:
    method, params = trial_entries()[name]
    router = TRIAL_ROUTERS.get(method).run(TRIAL_ROUTERS.parse(method, params))
    base = running_base()
    with AdaptedModel(base.model, files) as adapted:
        return router.rank(Probe(base, adapted, (), [0.0] * len(files)), examples, explain=False).scores


def test_the_names_are_those_of_the_routers_and_of_what_makes_them_try() -> None:
    assert set(NAMES) == set(trial_entries())


@pytest.mark.parametrize("name", NAMES)
def test_every_query_is_told_what_the_router_says_of_what_is_shown(asked, name: str) -> None:
    prepared, files = asked
    ask_trials(prepared, files, running_base(), lambda _: None)
    queries = [query for task in prepared.suite.tasks for query in task.queries]
    for variant, cut in (("as_given", 0), ("without_instruction", len(LINE))):
        found = prepared.said[name, variant].found.scores
        for row, query in enumerate(queries):
            task = prepared.suite.tasks[row // 2]
            shown = list(task.samples[:5]) if name == "lorahub" else [query]
            expected = ranked(files, name, [Example(one.input[cut:], one.output) for one in shown])
            assert found[row] == pytest.approx(expected, abs=1e-6)


def test_they_have_lines_with_what_made_them_try(asked) -> None:
    prepared, files = asked
    ask_trials(prepared, files, running_base(), lambda _: None)
    results = list(retrieval_results(prepared))
    assert [result.subject for result in results] == list(NAMES)
    assert [result.params for result in results] == [{}, {"score": "prior"}, {"score": "entropy"}]


def test_what_cannot_be_run_is_told(asked) -> None:
    prepared, files = asked
    unlabelled = [
        replace(task, samples=tuple(Example(one.input) for one in task.samples)) for task in prepared.suite.tasks
    ]
    other = replace(prepared, suite=replace(prepared.suite, tasks=tuple(unlabelled)), said={})
    with pytest.raises(LoraError, match="task-0 has no samples with outputs"):
        ask_trials(other, files, running_base(), lambda _: None)
    with pytest.raises(LoraError, match="20 experts together at most; the suite has 22"):
        ask_trials(prepared, files * 11, running_base(), lambda _: None)
