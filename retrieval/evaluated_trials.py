"""Suites put to the routers that run experts: how well each expert, on the base, does on what a query shows."""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from lora.errors import LoraError
from lora.evaluation import DECIMALS, Doubles, Found
from lora.examples import Example
from lora.runtime.adapted import AdaptedModel
from lora.runtime.probe import Probe, RunningBase
from lora.trial_routers import TRIAL_ROUTERS, TrialRouter
from lora.weights import AdapterFile
from retrieval.evaluations import Prepared, Report, Said, in_variant, method_of, router_of, shots, tries


def ask_trials(prepared: Prepared, files: Sequence[AdapterFile], base: RunningBase, say: Report) -> None:
    """Let the routers of the setting that run experts say of every query how well the experts suit it.

    Those that read labels are shown the first five labelled samples of a task, and say the same of all its queries; the
    others are shown each query.

    Args:
        files: of the suite's experts, in its order.
    Raises: LoraError: more experts than they run together, or a task without labelled samples. DoesNotFit.
    """
    for name in filter(tries, prepared.setting.routers):
        router: TrialRouter = router_of(prepared, name)
        if len(files) > router.most:
            raise LoraError(f"{name} runs {router.most} experts together at most; the suite has {len(files)}.")
        with AdaptedModel(base.model, files) as adapted:
            probe = Probe(base, adapted, (), [0.0] * len(files))
            for variant in prepared.asked:
                say(f"{name}, {variant}: running {len(files)} experts")
                prepared.said[name, variant] = _said(router, probe, list(_shown(prepared, name, variant)))


def _said(router: TrialRouter, probe: Probe, shown: list[tuple[list[Example], int]]) -> Said:
    started = time.perf_counter()
    scores: list[Doubles] = []
    for examples, queries in shown:
        scores += [router.rank(probe, examples, explain=False).scores] * queries
    took = 1000 * (time.perf_counter() - started) / len(scores)
    rounded = np.round(np.stack(scores), DECIMALS)
    return Said(Found(rounded, np.stack([router.keep(row) for row in rounded])), 0.0, took)


def _shown(prepared: Prepared, name: str, variant: str) -> Iterator[tuple[list[Example], int]]:
    """What is shown of a task, and of how many queries in turn it is what is known. Raises: LoraError."""
    reads_labels = "labels" in TRIAL_ROUTERS.get(method_of(name)).needs
    for task, queries in zip(prepared.suite.tasks, prepared.examples, strict=True):
        if reads_labels:
            yield shots(task, variant), len(queries)
        else:
            yield from (([in_variant(task, query, variant)], 1) for query in queries)
