"""Which experts fit a query."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.routers import Router
from registry.queries import Caller
from retrieval.encoders import Encoder, Rows
from retrieval.evidence import describe, find_evidence
from retrieval.live import current_view, index_status
from retrieval.metrics import SEARCH_SECONDS
from retrieval.request import parse_request
from retrieval.search import View
from retrieval.spaces import encoder_of

__all__ = ["index_status", "retrieve"]

Found = tuple[NDArray[np.int64], NDArray[np.float64]]


def retrieve(user: Caller, payload: Any) -> dict[str, Any]:
    """The experts that fit each query of a request, as the JSON of `POST /retrieve/`.

    What the caller may not see has no influence on any part of the answer but `index_version` and `took_ms`.

    Raises: Invalid, UnknownRouter, InvalidParams: the request. NotReady: the encoder.
    """
    request = parse_request(payload)
    router = request.method.run(request.params)
    started = time.perf_counter()
    # The view first: it says in which space the queries are to be, also while another one is put into service.
    view = current_view()
    queries = _encode(encoder_of(view.pool.space), request.queries, router)
    encoded = time.perf_counter()
    selection = view.select(user.pk, request.filters)
    found = [_kept(router, *view.search(query, request.k, selection)) for query in queries]
    reason = "below_threshold" if selection.count else "no_experts"
    results = [_result(router, view, match, reason) for match in found]
    if request.explain:
        _explain(view, queries, found, results)
    searched = time.perf_counter()
    SEARCH_SECONDS.observe(searched - encoded)
    return {
        "router": request.method.name,
        "space": view.pool.space,
        "index_version": view.version,
        "took_ms": {
            "encode": round((encoded - started) * 1000, 3),
            "search": round((searched - encoded) * 1000, 3),
        },
        "results": results,
    }


def _encode(encoder: Encoder, queries: list[list[str]], router: Router) -> list[Rows]:
    """One unit vector (dim,) per query."""
    rows = encoder.encode([text for texts in queries for text in texts])
    ends = np.cumsum([len(texts) for texts in queries])
    return [router.query(part) for part in np.split(rows, ends[:-1])]


def _kept(router: Router, rows: NDArray[np.int64], scores: NDArray[np.float64]) -> Found:
    kept = router.keep(scores)
    return rows[kept], scores[kept]


def _result(router: Router, view: View, found: Found, reason: str) -> dict[str, Any]:
    rows, scores = found
    if not len(rows):
        return {"abstained": True, "reason": reason, "matches": []}
    weights = router.weigh(scores).astype(np.float64)
    weights /= weights.sum()
    matches = [
        {
            "adapter": row["name"],
            "revision": row["commit"],
            "base_model": row["base_name"],
            "score": score,
            "weight": weight,
        }
        for row, score, weight in zip(view.pool.rows[rows], scores.tolist(), weights.tolist(), strict=True)
    ]
    return {"abstained": False, "reason": None, "matches": matches}


def _explain(view: View, queries: list[Rows], found: list[Found], results: list[dict[str, Any]]) -> None:
    revisions = [view.pool.rows["revision"][rows].tolist() for rows, _ in found]
    asked = [(number, revision, queries[number]) for number, wanted in enumerate(revisions) for revision in wanted]
    evidence = find_evidence(view.pool.space, asked)
    facts = describe(revision for wanted in revisions for revision in wanted)
    for number, (wanted, result) in enumerate(zip(revisions, results, strict=True)):
        for revision, match in zip(wanted, result["matches"], strict=True):
            match.update(facts.get(revision, {}), evidence={"samples": evidence.get((number, revision), [])})
