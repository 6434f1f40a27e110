"""Suites put to the routers that look inside: every figure is what the router says of that query and expert."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import save_file

from lora.evaluation import Asked, Pool
from lora.generic_texts import GENERIC_TEXTS
from lora.hybrid.abstention import Judgement
from lora.module_routers import MODULE_ROUTERS, Expert
from lora.module_routers.arrow_global import baselines, by_samples
from lora.prototypes.activations import activations
from lora.prototypes.arrow import arrow_file
from lora.prototypes.fisher import fisher
from lora.runtime.states import module_states
from lora.suite import Suite, Task
from registry.gates import GATES
from retrieval.evaluated_modules import ask_inside, inside_routers
from retrieval.evaluations import Prepared, Setting, retrieval_results
from tests.lora.runtime.tiny_language_model import opened, running_base, samples, write_inputs

ROUTERS = ("arrow", "arrow_global", "activation", "phatgoose", "spectr")


class Fitted:
    """A pool whose samples are for the first expert, by even odds."""

    space = SimpleNamespace(posterior=lambda row: row)

    def scores(self, texts):
        return np.tile([1.0, 0.0], (len(texts), 1)), [Judgement(fits=0.5, familiar=1.0)] * len(texts)


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Prepared, list]:
    """Two experts of a tiny base, whose tasks show and ask random words."""
    inputs = write_inputs(tmp_path)
    files = opened(inputs)
    tasks = tuple(
        Task(f"task-{i}", "", item.samples, samples(9 + i, 2), item.weights_path.parent)
        for i, item in enumerate(inputs)
    )
    for file in files:
        save_file(arrow_file(file.path, file.layout)[0], file.path.parent / GATES)
    texts = tuple(query.input for task in tasks for query in task.queries)
    rows = np.eye(4, dtype=np.float32)
    pool = Pool(("task-0", "task-1"), ("", ""), (rows[:1], rows[1:2]), (("a",), ("b",)))
    suite = Suite("tiny", "0", tasks)
    setting = Setting(ROUTERS, samples=3, queries=None, space="none")
    asked = {"as_given": Asked(np.array([0, 0, 1, 1]), rows, texts)}
    found = Prepared(suite, setting, lambda _: rows, pool, tuple(task.queries for task in tasks), asked, 0.0)
    found.__dict__["fitted"] = Fitted()
    return found, files


def test_every_router_says_of_every_query_what_it_says_of_one(prepared) -> None:
    suite, files = prepared
    base = running_base()
    ask_inside(suite, files, base, lambda _: None)
    vectors = [{path: v.numpy() for path, v in arrow_file(file.path, file.layout)[0].items()} for file in files]
    linear = [sorted(one) for one in vectors]
    means = [activations(base, paths, task.samples[:3]) for paths, task in zip(linear, suite.suite.tasks, strict=True)]
    for name, known in (("arrow", vectors), ("activation", means)):
        router = MODULE_ROUTERS.get(name).run(MODULE_ROUTERS.parse(name, {}))
        for row, text in enumerate(suite.asked["as_given"].texts):
            states = module_states(base, text, sorted({*linear[0], *linear[1]}))
            expected = router.rank(states, [Expert(one) for one in known]).scores
            assert suite.said[name, "as_given"].found.scores[row] == pytest.approx(expected, abs=1e-6)
    # Gates with the numbers of Arrow vectors are compared in another way.
    differ = [suite.said[name, "as_given"].found.scores for name in ROUTERS]
    assert all(not np.allclose(one, two) for i, one in enumerate(differ) for two in differ[:i])


def test_samples_count_as_they_do_in_a_request(prepared) -> None:
    suite, files = prepared
    base = running_base()
    ask_inside(suite, files, base, lambda _: None)
    vectors = [{path: v.numpy() for path, v in arrow_file(file.path, file.layout)[0].items()} for file in files]
    paths = sorted({path for one in vectors for path in one})
    background = [module_states(base, text, paths) for text in GENERIC_TEXTS]
    experts = [Expert(one, baselines(background, one)) for one in vectors]
    router = MODULE_ROUTERS.get("arrow_global").run(MODULE_ROUTERS.parse("arrow_global", {}))
    for row, text in enumerate(suite.asked["as_given"].texts):
        by_weights = router.rank(module_states(base, text, paths), experts).scores
        expected = by_weights + by_samples(np.array([1.0, 0.0]), 0.5)
        assert suite.said["arrow_global", "as_given"].found.scores[row] == pytest.approx(expected, abs=1e-6)


def test_they_have_lines_of_their_own(prepared) -> None:
    suite, files = prepared
    ask_inside(suite, files, running_base(), lambda _: None)
    results = list(retrieval_results(suite))
    assert [result.subject for result in results] == list(ROUTERS)
    assert all(result.figures["as_given"]["queries"] == 4 for result in results)
    assert all(result.figures["took_ms"]["encode"] > 0 for result in results)


def test_information_is_compared_at_labelled_samples_that_the_expert_is_not_known_by(prepared) -> None:
    suite, files = prepared
    suite = replace(suite, setting=replace(suite.setting, routers=("pi_tuning",)))
    base = running_base()
    ask_inside(suite, files, base, lambda _: None)
    paths = sorted({path for file in files for path, one in file.layout.modules.items() if one.kind == "linear"})
    known = [Expert(fisher(base, paths, task.samples[5:][:3])) for task in suite.suite.tasks]
    router = MODULE_ROUTERS.get("pi_tuning").run(MODULE_ROUTERS.parse("pi_tuning", {}))
    scores = suite.said["pi_tuning", "as_given"].found.scores
    for place, task in enumerate(suite.suite.tasks):
        states = {path: row[None] for path, row in fisher(base, paths, task.samples[:5]).items()}
        expected = router.rank(states, known).scores
        assert scores[2 * place : 2 * place + 2] == pytest.approx(np.tile(expected, (2, 1)), abs=1e-6)
    assert "pi_tuning" in inside_routers(suite.suite)
    few = [replace(task, samples=task.samples[:5]) for task in suite.suite.tasks]
    assert "pi_tuning" not in inside_routers(replace(suite.suite, tasks=tuple(few)))


def test_gates_are_asked_for_where_every_expert_has_some(prepared) -> None:
    suite, files = prepared
    assert "phatgoose" in inside_routers(suite.suite)
    (files[0].path.parent / GATES).unlink()
    assert "phatgoose" not in inside_routers(suite.suite)
    assert {"arrow", "arrow_global", "activation", "dam", "spectr"} <= set(inside_routers(suite.suite))
