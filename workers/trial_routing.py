"""Routing by trial: the experts of a job on top of the base model, run on the caller's texts."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from lora.examples import Example
from lora.recipe import MergeInput
from lora.runtime.adapted import AdaptedModel, DoesNotFit
from lora.runtime.probe import Probe, RunningBase
from lora.trial_routers import Tried
from lora.weights import AdapterFile
from registry.merges import local_file
from retrieval.module_request import ModuleRequest
from retrieval.trial_routing import trial_answer
from workers.base_models import base_for
from workers.offered import offered
from workers.runner import Work


def route_by_trial(work: Work, request: ModuleRequest) -> dict[str, Any]:
    """The JSON of `POST /retrieve/`. Raises: BaseNotHere; Conflict: all were taken back; LoraError: no finite loss."""
    started = time.perf_counter()
    revisions, skipped, tried, loaded = offered(work), {}, Tried(np.empty(0)), started
    work.log(f"{len(revisions)} experts of {request.base_model} are in question")
    if revisions:
        base = base_for(work, request.base_model, "answer", 1.0)
        with ExitStack() as stack:
            items = [local_file(revision, stack) for revision in revisions]
            skipped = _unfit(base, items)
            for name, reason in skipped.items():
                work.log(f"{name} is left out: {reason}")
            revisions = [revision for revision in revisions if revision.adapter.full_name not in skipped]
            items = [item for item in items if item.name not in skipped]
            loaded = time.perf_counter()
            if items:
                tried = _tried(work, request, base, items)
    took = {"encode": loaded - started, "search": time.perf_counter() - loaded}
    return trial_answer(request, revisions, tried, skipped, took)


def _unfit(base: RunningBase, items: Sequence[MergeInput]) -> dict[str, str]:
    """Name → what the base does not take of an expert."""
    found = {}
    for item in items:
        try:
            with AdapterFile(item.weights_path, item.layout) as file:
                AdaptedModel(base.model, [file])
        except DoesNotFit as error:
            found[item.name] = str(error)
    return found


def _tried(work: Work, request: ModuleRequest, base: RunningBase, items: Sequence[MergeInput]) -> Tried:
    [query] = work.job.private["queries"]
    examples = [Example(**one) if request.reads_labels else Example(one) for one in query]
    work.log(f"Running {len(items)} experts on {len(examples)} texts")
    with ExitStack() as stack:
        files = [stack.enter_context(AdapterFile(item.weights_path, item.layout)) for item in items]
        adapted = stack.enter_context(AdaptedModel(base.model, files))
        probe = Probe(base, adapted, items, [0.0] * len(items))
        return request.method.run(request.params).rank(probe, examples, explain=request.explain)
