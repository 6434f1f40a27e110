"""`route`: runs the base model on a caller's texts, ranks experts by what enters their modules, or by trial."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.examples import Example
from lora.module_routers import Baselines, States
from lora.module_routers.arrow_global import by_samples
from lora.prototypes.fisher import fisher
from lora.runtime.probe import RunningBase
from lora.runtime.states import module_states
from registry import jobs
from registry.errors import Conflict, NotReady
from retrieval.baselines import read_baselines, store_baselines
from retrieval.hybrid_search import beliefs
from retrieval.module_request import ModuleRequest, parse_module_request
from retrieval.module_routing import Candidate, answer, candidates
from workers.backgrounds import background
from workers.base_models import running_base
from workers.runner import Work
from workers.trial_routing import route_by_trial


def handle(work: Work) -> None:
    """The job's result is what `POST /retrieve/` answers at once for other routers."""
    if work.job.owner is None:
        raise Conflict("The account that asked is gone.")
    request = parse_module_request(work.job.payload["request"], has_states=True)
    result = route_by_trial(work, request) if request.is_trial else _route(work, request)
    with jobs.finishing(work.job, result):
        pass


def _route(work: Work, request: ModuleRequest) -> dict[str, Any]:
    found = candidates(work.job.owner, request)
    work.log(f"{len(found)} experts of {request.base_model} are in question")
    if not found:
        return answer(request, [], {}, [{}] * len(work.job.private["queries"]), {})
    work.log(f"Loading {request.base_model}")
    base = running_base(request.base_model, lambda fraction: None)
    baselines: dict[int, Baselines] = {}
    if request.method.run.needs_baselines:
        baselines = _baselines(work, request.base_model, found, lambda: base)
    paths = sorted({path for one in found for path in one.vectors} & dict(base.model.named_modules()).keys())
    queries = work.job.private["queries"]
    work.log(f"Running it on {sum(map(len, queries))} texts")
    started = time.perf_counter()
    states = []
    for done, query in enumerate(queries):
        work.progress(0.3 + 0.6 * done / len(queries))
        read = _embedded if request.reads_labels else _read
        states.append(read(base, query, paths))
    encoded = time.perf_counter()
    shifts, warnings = _by_samples(work, request, found)
    result = answer(request, found, baselines, states, {}, shifts)
    took = {"encode": encoded - started, "search": time.perf_counter() - encoded}
    told = {"took_ms": {name: round(seconds * 1000, 3) for name, seconds in took.items()}, "warnings": warnings}
    return result | told


def _by_samples(
    work: Work, request: ModuleRequest, found: list[Candidate]
) -> tuple[list[NDArray[np.float64]], list[dict[str, str]]]:
    """What samples add to the scores for each query, where the router asks them; and why they cannot be asked."""
    if not request.method.run(request.params).counts_samples:
        return [], []
    try:
        believed = beliefs([one.revision for one in found], work.job.private["queries"])
    except NotReady as error:
        work.log(f"Samples do not count: {error.message}")
        return [], [{"code": "without_samples", "message": f"Samples did not count here: {error.message}"}]
    return [by_samples(posterior, fits) for posterior, fits in believed], []


def _embedded(base: RunningBase, examples: list[dict[str, str]], paths: list[str]) -> States:
    """The Fisher embedding of a task, as one row for each module."""
    return {path: row[None] for path, row in fisher(base, paths, [Example(**one) for one in examples]).items()}


def _read(base: RunningBase, texts: list[str], paths: list[str]) -> States:
    """The tokens of texts that describe one task together."""
    states = [module_states(base, text, paths) for text in texts]
    return (
        states[0] if len(states) == 1 else {path: np.concatenate([one[path] for one in states]) for path in states[0]}
    )


def _baselines(
    work: Work, base_model: str, found: list[Candidate], base: Callable[[], RunningBase]
) -> dict[int, Baselines]:
    """Those of all experts; what is missing is computed and stored."""
    known = read_baselines(one.revision for one in found)
    lacking = [one for one in found if one.revision not in known]
    if lacking:
        work.log(f"Reading generic texts for {len(lacking)} experts that were not compared with them yet")
        states = background(base_model, {path for one in lacking for path in one.vectors}, base)
        for done, one in enumerate(lacking):
            work.progress(0.3 * done / len(lacking))
            known[one.revision] = store_baselines(one.revision, one.vectors, states)
    return known
