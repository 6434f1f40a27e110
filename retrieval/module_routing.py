"""Which experts of a base model fit what its modules read: selection, vectors, and the answer's JSON."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import zip_longest
from typing import Any

import numpy as np
from django.db.models import Exists, OuterRef, QuerySet
from numpy.typing import NDArray
from safetensors.numpy import load

from lora.float_arrays import float_arrays
from lora.header import read_header
from lora.layout import layer_of
from lora.module_routers import Baselines, Expert, ModuleRouter, Ranking, States, Vectors
from lora.routers import Chooser
from registry.changes import current_seq
from registry.errors import Invalid
from registry.gates import GATES
from registry.models import Adapter, AdapterTag, Blob, Revision, RevisionFile
from registry.queries import Caller, visible_adapters
from registry.storage import read_blob
from retrieval.evidence import describe
from retrieval.models import Prototype
from retrieval.module_request import ModuleRequest
from retrieval.prototypes import spectral_vectors
from retrieval.search import DECIMALS

# Of experts that one request compares: their vectors are in memory together.
MAX_EXPERTS = 1000
LAYER_DECIMALS = 4
COLUMNS = {"license": "license__in", "owner": "namespace__name__in", "base_model": "base_model__in"}


@dataclass(frozen=True)
class Candidate:
    """An expert that a request may find: its name, and its head with what is compared."""

    adapter: str
    revision: int
    commit: str
    base_model: str
    vectors: Vectors


def candidates(user: Caller, request: ModuleRequest) -> list[Candidate]:
    """The experts of the base model that the caller may see, by name. Raises: Invalid: too many for one request."""
    kind = request.method.traits["prototype"]
    chosen = visible_experts(user, request).filter(_has(kind)).order_by("full_name")
    columns = ("full_name", "head_id", "head__commit", "base_model")
    rows = list(chosen.values_list(*columns)[: MAX_EXPERTS + 1])
    if len(rows) > MAX_EXPERTS:
        message = f"More than {MAX_EXPERTS} experts of this base model are in question. Narrow them down by filters."
        raise Invalid(message, detail={"filters": message})
    vectors = READ[kind]([head for _, head, _, _ in rows])
    return [Candidate(name, head, commit, base, vectors[head]) for name, head, commit, base in rows if head in vectors]


def visible_experts(user: Caller, request: ModuleRequest) -> QuerySet[Adapter]:
    """Those of the base model that the caller may see and that pass the filters."""
    found = visible_adapters(user).filter(base_model__in=request.bases, head__norm__gt=0)
    for key, values in request.filters:
        if key == "tag":
            found = found.filter(pk__in=AdapterTag.objects.filter(name__in=values).values("adapter"))
        else:
            found = found.filter(**{COLUMNS[key]: values})
    return found


def _has(kind: str) -> Exists:
    if kind == "phatgoose":
        sent = RevisionFile.objects.filter(revision=OuterRef("head"), path=GATES)
        return Exists(sent) | Exists(Prototype.objects.filter(revision=OuterRef("head"), kind=kind))
    # Whatever has Arrow vectors has linear modules, and so all that follows from the weights.
    stored = "arrow" if kind == "spectral" else kind
    return Exists(Prototype.objects.filter(revision=OuterRef("head"), kind=stored))


def read_arrow(heads: list[int]) -> dict[int, Vectors]:
    """The Arrow vectors of revisions that have some."""
    return _read_stored("arrow", heads)


def _read_stored(kind: str, heads: list[int]) -> dict[int, Vectors]:
    rows = Prototype.objects.filter(kind=kind, revision_id__in=heads)
    return {revision: _tensors(sha256) for revision, sha256 in rows.values_list("revision_id", "blob_id")}


@lru_cache(maxsize=256)
def _tensors(sha256: str) -> Vectors:
    """A stored file of vectors, whose digest is its name."""
    return load(read_blob(Blob(sha256=sha256)))


def _read_spectral(heads: list[int]) -> dict[int, Vectors]:
    rows = Revision.objects.filter(pk__in=heads).select_related("adapter").prefetch_related("files__blob")
    return {revision.pk: spectral_vectors(revision) for revision in rows}


def _read_gates(heads: list[int]) -> dict[int, Vectors]:
    """Those that a worker has trained, and before them those of a contributor."""
    rows = RevisionFile.objects.filter(revision_id__in=heads, path=GATES)
    sent = {revision: _gates(sha256) for revision, sha256 in rows.values_list("revision_id", "blob_id")}
    return _read_stored("phatgoose", heads) | sent


@lru_cache(maxsize=256)
def _gates(sha256: str) -> Vectors:
    data = read_blob(Blob(sha256=sha256))
    header = read_header(io.BytesIO(data), len(data), GATES)
    return float_arrays(header, data[header.data_offset :])


READ = {
    "arrow": read_arrow,
    "spectral": _read_spectral,
    "phatgoose": _read_gates,
    "activations": partial(_read_stored, "activations"),
    "dam": partial(_read_stored, "dam"),
    "fisher": partial(_read_stored, "fisher"),
}


def answer(
    request: ModuleRequest,
    found: list[Candidate],
    baselines: Mapping[int, Baselines],
    queries: list[States],
    took_ms: dict[str, float],
    shifts: Sequence[NDArray[np.float64]] = (),
) -> dict[str, Any]:
    """The JSON of `POST /retrieve/`: one result per query.

    Args:
        shifts: for each query, what the samples of the experts add to their scores (n,), where they count.
    """
    router: ModuleRouter = request.method.run(request.params)
    experts = [Expert(one.vectors, baselines.get(one.revision)) for one in found]
    facts = describe(one.revision for one in found) if request.explain else {}
    rankings = [router.rank(states, experts) for states in queries]
    told = zip_longest(rankings, shifts)
    results = [_result(request, router, found, ranking, shift, facts) for ranking, shift in told]
    return {
        "router": request.method.name,
        "space": f"hidden states of {request.base_model}",
        "index_version": str(current_seq()),
        "took_ms": took_ms,
        "results": results,
    }


def _result(
    request: ModuleRequest,
    router: ModuleRouter,
    found: list[Candidate],
    ranking: Ranking,
    shift: NDArray[np.float64] | None,
    facts: dict[int, dict[str, Any]],
) -> dict[str, Any]:
    scores = np.round(ranking.scores if shift is None else ranking.scores + shift, DECIMALS)
    best, weights = matched(router, scores, [one.adapter for one in found], request.k)
    if not best:
        return {"abstained": True, "reason": "below_threshold" if found else "no_experts", "matches": []}
    layers, means = layer_means(ranking.paths, ranking.parts) if request.explain else ([], np.empty((0, len(found))))
    matches = []
    for place, weight in zip(best, weights, strict=True):
        expert = found[place]
        match = {"adapter": expert.adapter, "revision": expert.commit, "base_model": expert.base_model}
        match |= {"score": float(scores[place]), "weight": weight}
        if request.explain:
            evidence: dict[str, Any] = {"samples": [], "layers": _layers(layers, means[:, place])}
            if shift is not None:
                evidence["samples_shift"] = round(float(shift[place]), DECIMALS)
            match |= facts.get(expert.revision, {}) | {"evidence": evidence}
        matches.append(match)
    told = {"evidence": {"picks": _picks(layers, means, found)}} if request.explain else {}
    return {"abstained": False, "reason": None, "matches": matches} | told


def matched(
    router: Chooser, scores: NDArray[np.floating], names: Sequence[str], k: int
) -> tuple[list[int], list[float]]:
    """The places of the up to k experts that are matches, best first and ties by name, and their weights."""
    best = sorted(range(len(names)), key=lambda place: (-scores[place], names[place]))[:k]
    best = [place for place in best if router.keep(scores[place : place + 1])[0]]
    weights = router.weigh(scores[best]).astype(np.float64)
    return best, (weights / weights.sum()).tolist() if best else []


def layer_means(paths: Sequence[str], parts: NDArray[np.floating]) -> tuple[list[int], NDArray[np.float64]]:
    """The layers, ascending, and what the modules of each say of n experts in the mean, (layers, n).

    Args:
        paths: of m modules; a layer is the first number in one. Modules of none do not count.
        parts: (m, n), nan where an expert has nothing; the mean of nothing is nan, too.
    """
    found = [layer_of(path) for path in paths]
    numbers = np.array([-1 if layer is None else layer for layer in found], dtype=np.int64)
    layers = np.unique(numbers[numbers >= 0])
    known = ~np.isnan(parts)
    members = (numbers == layers[:, None]).astype(np.float64)
    sums, counts = members @ np.where(known, parts, 0), members @ known
    return layers.tolist(), np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _layers(layers: list[int], scores: NDArray[np.float64]) -> list[dict[str, Any]]:
    """What each layer says of one expert, where it says anything."""
    told = zip(layers, scores.tolist(), strict=True)
    return [{"layer": layer, "score": round(score, LAYER_DECIMALS)} for layer, score in told if not np.isnan(score)]


def _picks(layers: list[int], means: NDArray[np.float64], found: list[Candidate]) -> list[dict[str, Any]]:
    """The expert of all in question that each layer would take."""
    scores = np.where(np.isnan(means), -np.inf, means)
    best = scores.argmax(axis=1)
    return [
        {"layer": layer, "adapter": found[place].adapter, "score": round(float(means[row, place]), LAYER_DECIMALS)}
        for row, (layer, place) in enumerate(zip(layers, best.tolist(), strict=True))
        if np.isfinite(scores[row, place])
    ]
