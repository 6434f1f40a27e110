"""The queries of a request as unit rows in the space of a view."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.routers import TextSet
from registry.errors import Invalid, InvalidVectors
from registry.models import Adapter
from registry.queries import Caller, find_adapter
from retrieval.evidence import sample_texts
from retrieval.models import Prototype, Space
from retrieval.prototypes import rows_of
from retrieval.request import RetrieveRequest
from retrieval.search import View
from retrieval.spaces import encoder_of

TOLD_SAMPLES = 32


@dataclass(frozen=True)
class Queries:
    """Attributes: sets: one per result. without: an adapter that is no answer, because it is the question."""

    sets: list[TextSet]
    without: int | None = None


def read_queries(user: Caller, request: RetrieveRequest, view: View) -> Queries:
    """Raises: NotReady: the encoder. Invalid, InvalidVectors, NotFound: what was sent."""
    if request.form in ("vector", "vectors"):
        return Queries(_vectors(request, view))
    if request.form == "adapter":
        return _adapter(user, request.queries[0][0], view)
    rows = encoder_of(view.pool.space).encode([text for texts in request.queries for text in texts])
    ends = np.cumsum([len(texts) for texts in request.queries])
    parts = np.split(rows, ends[:-1])
    return Queries([TextSet(part, tuple(texts)) for part, texts in zip(parts, request.queries, strict=True)])


def read_texts(user: Caller, request: RetrieveRequest) -> tuple[list[list[str]], int | None]:
    """The texts of each query, and an adapter that is no answer. Raises: Invalid, NotFound.

    An adapter is told by some of its samples, evenly spread.
    """
    if request.form != "adapter":
        return request.queries, None
    adapter = find_adapter(user, request.queries[0][0])
    [texts] = sample_texts([adapter.head_id])
    if not texts:
        raise _unlike(adapter)
    chosen = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), TOLD_SAMPLES)).round().astype(int))
    return [[texts[place] for place in chosen]], adapter.pk


def _unlike(adapter: Adapter) -> Invalid:
    message = f"{adapter.full_name} has no samples that it could be compared by."
    return Invalid(message, detail={"adapter": message})


def _vectors(request: RetrieveRequest, view: View) -> list[TextSet]:
    if request.space != view.pool.space:
        known = Space.objects.filter(pk=request.space.replace("\0", "")).exists()
        what = f"The space {request.space[:120]!r} does not answer queries" if known else "There is no such space"
        message = f"{what}; vectors have to be of {view.pool.space}."
        raise Invalid(message, detail={"space": message})
    dim = Space.objects.values_list("dim", flat=True).filter(pk=request.space).first()
    many = request.form == "vectors"
    places = [f"vectors[{number}]" if many else "vector" for number in range(len(request.queries))]
    rows = [_unit(vector, dim, place) for [vector], place in zip(request.queries, places, strict=True)]
    return [TextSet(row[None]) for row in rows]


def _unit(vector: list[float], dim: int | None, where: str) -> NDArray[np.float32]:
    """The vector with length 1. Raises: InvalidVectors: it has another dimension, no length, or is not finite."""
    if dim is not None and len(vector) != dim:
        raise _refused(where, f"has {len(vector)} numbers; its space has {dim} dimensions")
    try:
        wide = np.array(vector, dtype=np.float64)
    except OverflowError:
        raise _refused(where, "holds a number that is too large") from None
    if not np.isfinite(wide).all():
        raise _refused(where, "holds a number that is not finite")
    # The largest first: squares of large or small numbers must not leave the range.
    largest = np.abs(wide).max()
    if not largest:
        raise _refused(where, "is zero, which has no direction")
    wide /= largest
    unit: NDArray[Any] = wide / np.linalg.norm(wide)
    return unit.astype(np.float32)


def _refused(where: str, problem: str) -> InvalidVectors:
    return InvalidVectors(f"{where} {problem}.", detail={where: f"{where} {problem}."})


def _adapter(user: Caller, name: str, view: View) -> Queries:
    adapter = find_adapter(user, name)
    samples = Prototype.objects.filter(kind="samples", space_id=view.pool.space, revision_id=adapter.head_id).first()
    if samples is None:
        raise _unlike(adapter)
    [texts] = sample_texts([samples.revision_id])
    return Queries([TextSet(rows_of(samples), texts)], without=adapter.pk)
