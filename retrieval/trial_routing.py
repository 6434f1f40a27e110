"""What came of running experts on a query, as the JSON of `POST /retrieve/`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lora.trial_routers import Tried
from registry.changes import current_seq
from registry.models import Revision
from registry.recipes import adapter_and_revision
from retrieval.evidence import describe
from retrieval.module_request import ModuleRequest
from retrieval.module_routing import matched
from retrieval.search import DECIMALS


def trial_answer(
    request: ModuleRequest,
    revisions: Sequence[Revision],
    tried: Tried,
    skipped: Mapping[str, str],
    took: Mapping[str, float],
) -> dict[str, Any]:
    """The answer: one result, and beside it what was skipped and what speaks against the scores.

    Args:
        revisions: the experts that were run. skipped: adapter → why it was not. took: seconds of each step.
    """
    return {
        "router": request.method.name,
        "space": f"experts of {request.base_model}",
        "index_version": str(current_seq()),
        "took_ms": {name: round(seconds * 1000, 3) for name, seconds in took.items()},
        "warnings": [{"code": code, "message": message} for code, message in tried.warnings.items()],
        "skipped": [{"adapter": name, "reason": reason} for name, reason in skipped.items()],
        "results": [_result(request, revisions, tried)],
    }


def _result(request: ModuleRequest, revisions: Sequence[Revision], tried: Tried) -> dict[str, Any]:
    router = request.method.run(request.params)
    scores = np.round(tried.scores, DECIMALS)
    best, weights = matched(router, scores, [revision.adapter.full_name for revision in revisions], request.k)
    facts = describe(revisions[place].pk for place in best) if request.explain else {}
    matches = []
    for place, weight in zip(best, weights, strict=True):
        revision = revisions[place]
        match = adapter_and_revision(revision) | {"base_model": revision.base_model}
        match |= {"score": float(scores[place]), "weight": weight}
        if request.explain:
            match |= facts.get(revision.pk, {}) | {"evidence": {"samples": [], **tried.evidence[place]}}
        matches.append(match)
    reason = None if best else "below_threshold" if revisions else "no_experts"
    result: dict[str, Any] = {"abstained": not best, "reason": reason, "matches": matches}
    if tried.loss is not None:
        result["loss"] = dict(tried.loss)
    if tried.weights is not None:
        pairs = zip(revisions, tried.weights, strict=True)
        result["inputs"] = [adapter_and_revision(revision) | {"weight": weight} for revision, weight in pairs if weight]
    return result
