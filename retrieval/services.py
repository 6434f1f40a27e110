"""Which experts fit a query."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.routers import Chooser, TextSet
from registry.errors import Invalid
from registry.queries import Caller
from retrieval.compositions import containing, holding
from retrieval.description_search import search_descriptions, shown_descriptions
from retrieval.descriptions import KIND as DESCRIPTION
from retrieval.descriptions import description_view
from retrieval.encoders import Rows
from retrieval.evidence import describe, find_evidence
from retrieval.feedback import SPARE, Feedback, show_texts
from retrieval.hybrid_search import NotFitted, embed, search_hybrid, served_space
from retrieval.live import current_view, index_status
from retrieval.map import plane_of
from retrieval.metrics import SEARCH_SECONDS
from retrieval.outcome_search import search_outcomes
from retrieval.plane import Plane
from retrieval.queries import read_queries, read_texts
from retrieval.request import PLAIN_ROUTER, RetrieveRequest, parse_request
from retrieval.sample_search import search_samples
from retrieval.search import Selection, View
from retrieval.spaces import encoder_of

__all__ = ["index_status", "retrieve"]

Found = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class Ranking:
    """What a router found for the queries of a request.

    Attributes:
        space: whose vectors were compared. router: with what it learned from the space.
        vectors: per query, those (m, dim) of the encoder's space that its nearest samples are to be near to.
        selection: the experts that could have been found. found: per query, the matches.
        evidence: per query what decided, where the router tells: of the result, and of each match.
        encoded: when the queries were embedded.
        lacks: what to report first, where the router learns from outcomes and there are too few.
        prompts: per query, what to ask a language model, where the router says so.
    """

    space: str
    router: Chooser
    vectors: list[Rows]
    selection: Selection
    found: list[Found]
    evidence: list[tuple[dict[str, Any], list[dict[str, Any]]]]
    encoded: float
    lacks: str = ""
    prompts: Sequence[str] = ()


def retrieve(user: Caller, payload: Any) -> dict[str, Any]:
    """The experts that fit each query of a request, as the JSON of `POST /retrieve/`.

    What the caller may not see has no influence on any part of the answer but `index_version` and `took_ms`.

    Raises: Invalid, InvalidVectors, NotFound, UnknownRouter, InvalidParams: the request. NotReady: the encoder, or the
        space of the router.
    """
    try:
        return _answer(user, parse_request(payload))
    except NotFitted:
        # The answer names the router: who has named one, or its parameters, wants no other.
        if payload.get("router") or payload.get("params"):
            raise
    return _answer(user, parse_request(payload | {"router": PLAIN_ROUTER}))


def _answer(user: Caller, request: RetrieveRequest) -> dict[str, Any]:
    router = request.method.run(request.params)
    _check_reads(request, router)
    started = time.perf_counter()
    # The view first: it says in which space the queries are to be, also while another one is put into service.
    samples_view = view = current_view()
    kind = _kind(request, router)
    if kind == DESCRIPTION:
        view = description_view(view.pool.space)
    ranking = _ranked(user, request, view, kind, router)
    if request.outcomes:
        ranking = _by_feedback(user, request, view, ranking)
    answered = [_result(view, ranking, found) for found in ranking.found]
    for result, prompt in zip(answered, ranking.prompts, strict=False):
        if prompt:
            result["prompt"] = prompt
    if kind_of_gates := request.method.traits.get("composition"):
        for result in answered:
            names = [match["adapter"] for match in result["matches"]]
            result["compositions"] = holding(user, kind_of_gates, names) if names else []
    if request.explain:
        _explain(user, view, plane_of(samples_view), ranking, answered)
    searched = time.perf_counter()
    SEARCH_SECONDS.observe(searched - ranking.encoded)
    return {
        "router": request.method.name,
        "space": ranking.space,
        "index_version": view.version,
        "took_ms": {
            "encode": round((ranking.encoded - started) * 1000, 3),
            "search": round((searched - ranking.encoded) * 1000, 3),
        },
        "results": answered,
    }


def _ranked(user: Caller, request: RetrieveRequest, view: View, kind: str, router: Any) -> Ranking:
    if kind == "hybrid":
        return _by_likelihood(user, request, view)
    if kind == DESCRIPTION:
        return _by_descriptions(user, request, view, router)
    if kind == "outcomes":
        return _by_outcomes(user, request, view, router)
    return _by_nearness(user, request, view, kind, router)


def _wanted(request: RetrieveRequest) -> int:
    """How many the router is to find: some more where outcomes may bring one of them forward."""
    return 4 * request.k + SPARE if request.outcomes else request.k


def _by_nearness(user: Caller, request: RetrieveRequest, view: View, kind: str, router: Any) -> Ranking:
    """By vectors of the encoder's space: one per expert, or all its samples."""
    queries = read_queries(user, request, view)
    encoded = time.perf_counter()
    selection = view.select(user.pk, request.filters, queries.without)
    vectors, found = _search(view, kind, router, queries.sets, _wanted(request), selection)
    return Ranking(
        space=view.pool.space,
        router=router,
        vectors=vectors,
        selection=selection,
        found=[_kept(router, *match) for match in found],
        evidence=[({}, [])] * len(found),
        encoded=encoded,
    )


def _by_descriptions(user: Caller, request: RetrieveRequest, view: View, router: Any) -> Ranking:
    """By vectors of what is said about experts, with or without a language model that reads it."""
    queries = read_queries(user, request, view)
    encoded = time.perf_counter()
    selection = view.select(user.pk, request.filters)
    described = search_descriptions(view, router, request, queries.sets, _wanted(request), selection)
    return Ranking(
        space=view.pool.space,
        router=router,
        vectors=[query.rows for query in queries.sets],
        selection=selection,
        found=[(one.rows, one.scores) for one in described],
        evidence=[({}, shown_descriptions(view, one.rows) if request.explain else []) for one in described],
        encoded=encoded,
        prompts=[one.prompt for one in described],
    )


def _by_likelihood(user: Caller, request: RetrieveRequest, view: View) -> Ranking:
    """By rows of the hybrid space, with what decided."""
    texts, without = read_texts(user, request)
    space_id, space = served_space(view.pool.space)
    queries = embed(space, encoder_of(view.pool.space), texts)
    encoded = time.perf_counter()
    router = request.method.run(request.params, space.temperature)
    selection = view.select(user.pk, request.filters, without)
    likely = search_hybrid(view.pool, space_id, space, queries, _wanted(request), selection.mask)
    kept = [router.keep(found.scores) & router.answers(found.judgement, found.threshold) for found in likely]
    return Ranking(
        space=space_id,
        router=router,
        vectors=[query.wholes for query in queries],
        selection=selection,
        found=[(found.rows[mine], found.scores[mine]) for found, mine in zip(likely, kept, strict=True)],
        evidence=[(found.decided(), found.shares(mine)) for found, mine in zip(likely, kept, strict=True)],
        encoded=encoded,
    )


def _by_outcomes(user: Caller, request: RetrieveRequest, view: View, router: Any) -> Ranking:
    """By what experts scored on texts like the query."""
    queries = read_queries(user, request, view)
    encoded = time.perf_counter()
    selection = view.select(user.pk, request.filters)
    predicted = search_outcomes(view.pool, request, router, queries.sets, selection.mask)
    kept = [np.flatnonzero(router.keep(one.scores))[: request.k] for one in predicted]
    return Ranking(
        space=view.pool.space,
        router=router,
        vectors=[query.rows for query in queries.sets],
        selection=selection,
        found=[(one.rows[mine], one.scores[mine]) for one, mine in zip(predicted, kept, strict=True)],
        evidence=[
            ({}, [one.evidence[place] for place in mine.tolist()]) for one, mine in zip(predicted, kept, strict=True)
        ],
        encoded=encoded,
        lacks="" if any(len(one.rows) for one in predicted) else router.lacks,
    )


def _by_feedback(user: Caller, request: RetrieveRequest, view: View, ranking: Ranking) -> Ranking:
    """The same once outcomes near the queries count."""
    feedback = Feedback(view, user.pk, ranking.selection.mask)
    found, evidence = [], []
    for query, (rows, scores), (decided, shares) in zip(ranking.vectors, ranking.found, ranking.evidence, strict=True):
        order, moved, told = feedback.rank(query, rows, scores, request.k)
        found.append((rows[order], moved))
        both = zip(order.tolist(), told, strict=True)
        evidence.append((decided, [(shares[place] if shares else {}) | one for place, one in both]))
    return replace(ranking, found=found, evidence=evidence)


def _kind(request: RetrieveRequest, router: Any) -> str:
    """The kind of prototype that is searched; params may decide."""
    return getattr(router, "prototype", request.method.traits["prototype"])


def _check_reads(request: RetrieveRequest, router: Any) -> None:
    if getattr(router, "reads_texts", False) and request.form in ("vector", "vectors"):
        message = f"{request.method.name} compares words with these params: send text instead of {request.form}."
        raise Invalid(message, detail={request.form: message})


def _search(
    view: View, kind: str, router: Any, queries: list[TextSet], k: int, selection: Selection
) -> tuple[list[Rows], list[Found]]:
    """The vectors (m, dim) that each query is compared by, and the k best for each."""
    if kind == "samples":
        vectors = [query.rows for query in queries]
        return vectors, search_samples(view.pool, router, queries, k, selection.mask)
    units = [router.query(query.rows) for query in queries]
    return [unit[None] for unit in units], [view.search(unit, k, selection) for unit in units]


def _kept(router: Chooser, rows: NDArray[np.int64], scores: NDArray[np.float64]) -> Found:
    kept = router.keep(scores)
    return rows[kept], scores[kept]


def _result(view: View, ranking: Ranking, found: Found) -> dict[str, Any]:
    rows, scores = found
    if not len(rows):
        return _abstained(ranking)
    weights = ranking.router.weigh(scores).astype(np.float64)
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


def _abstained(ranking: Ranking) -> dict[str, Any]:
    if ranking.lacks and ranking.selection.count:
        return {"abstained": True, "reason": "no_outcomes", "message": ranking.lacks, "matches": []}
    return {
        "abstained": True,
        "reason": "below_threshold" if ranking.selection.count else "no_experts",
        "matches": [],
    }


def _explain(user: Caller, view: View, plane: Plane | None, ranking: Ranking, results: list[dict[str, Any]]) -> None:
    revisions = [view.pool.rows["revision"][rows].tolist() for rows, _ in ranking.found]
    asked = [(number, pk, ranking.vectors[number]) for number, wanted in enumerate(revisions) for pk in wanted]
    nearest = find_evidence(view.pool.space, asked)
    facts = describe(revision for wanted in revisions for revision in wanted)
    composed = containing(user, [revision for wanted in revisions for revision in wanted])
    show_texts(user.pk, [one["outcomes"] for _, shares in ranking.evidence for one in shares if "outcomes" in one])
    for number, (wanted, result) in enumerate(zip(revisions, results, strict=True)):
        decided, shares = ranking.evidence[number]
        decided = decided | _place(plane, ranking.vectors[number])
        if decided:
            result["evidence"] = decided
        for place, (revision, match) in enumerate(zip(wanted, result["matches"], strict=True)):
            more = shares[place] if shares else {}
            match["compositions"] = composed.get(revision, [])
            match.update(facts.get(revision, {}), evidence={"samples": nearest.get((number, revision), []), **more})


def _place(plane: Plane | None, vectors: Rows) -> dict[str, Any]:
    """Where a query with vectors (m, dim) is on the map of experts, as JSON."""
    if plane is None or not len(vectors):
        return {}
    [[x, y]] = plane.place(vectors.mean(axis=0)[None]).tolist()
    return {"map": {"version": plane.version, "x": x, "y": y}}
