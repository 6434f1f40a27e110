"""Adapters that are like a given one."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from registry.errors import Invalid, NotReady
from registry.models import Adapter
from registry.queries import Caller, visible_adapters
from registry.storage import read_blob
from retrieval.live import current_view
from retrieval.models import Prototype
from retrieval.search import DECIMALS, exact_scores
from retrieval.sketches import by_delta, by_sketch, sketch_cosines

# Comparing Arrow vectors reads a file per adapter, a megabyte or so each.
MAX_COMPARED = 50

Vectors = dict[str, NDArray[np.float32]]


def similar(user: Caller, adapter: Adapter, by: str, k: int) -> list[dict[str, Any]]:
    """The k adapters most like one, of those that the caller may see: `[{adapter, score}]`, best first.

    Args:
        by: one of WAYS. `samples`: cosine of the centroids. Of the same base model, `prototype`: mean |cos| of the
            Arrow vectors of shared modules, among the MAX_COMPARED whose sketches are most alike or opposed, `delta`:
            cosine of the whole ΔW, among those whose sketches are most alike, and `delta_sketch`: cosine of the
            sketches, among all. Without samples, vectors or a sketch, nothing is alike.
    Raises: Invalid: `by` is none of these.
    """
    if by not in WAYS:
        message = f"by must be one of {', '.join(WAYS)}."
        raise Invalid(message, detail={"by": message})
    return WAYS[by](user, adapter, k)


def _by_samples(user: Caller, adapter: Adapter, k: int) -> list[dict[str, Any]]:
    view = current_view()
    own = np.flatnonzero(view.pool.rows["adapter"] == adapter.pk)
    if not len(own):
        return []
    rows, scores = view.search(view.vector(int(own[0])), k + 1, view.select(user.pk))
    names = view.pool.rows["name"][rows]
    found = [
        {"adapter": name, "score": score}
        for name, score in zip(names, scores.tolist(), strict=True)
        if name != adapter.full_name
    ]
    return found[:k]


def sample_similarities(adapter_ids: list[int]) -> dict[tuple[int, int], float]:
    """Cosine of the centroids of each ordered pair of adapters that have samples. Empty where the encoder is away."""
    try:
        view = current_view()
    except NotReady:
        return {}
    rows = np.flatnonzero(np.isin(view.pool.rows["adapter"], adapter_ids))
    ids = view.pool.rows["adapter"][rows].tolist()
    vectors = view.vectors(rows) if ids else np.empty((0, 1))
    scores = [exact_scores(vector, vectors).tolist() for vector in vectors]
    return {(one, other): scores[i][j] for i, one in enumerate(ids) for j, other in enumerate(ids) if i != j}


def _by_prototype(user: Caller, adapter: Adapter, k: int) -> list[dict[str, Any]]:
    arrows = Prototype.objects.filter(kind="arrow").select_related("blob")
    own = arrows.filter(revision_id=adapter.head_id).first()
    if own is None:
        return []
    vectors = load(read_blob(own.blob))
    compared = _compared(user, adapter)
    found = []
    for prototype in arrows.filter(revision__in=compared):
        score = arrow_similarity(vectors, load(read_blob(prototype.blob)))
        if score is not None:
            found.append({"adapter": compared[prototype.revision_id], "score": score})
    return sorted(found, key=lambda match: (-match["score"], match["adapter"]))[:k]


def _compared(user: Caller, adapter: Adapter) -> dict[int, str]:
    """By head, the names of the adapters whose Arrow vectors are read: as the sketches say, and then the newest."""
    others = visible_adapters(user).filter(base_model=adapter.base_model, head__isnull=False).exclude(pk=adapter.pk)
    cosines = sorted(sketch_cosines(user, adapter), key=lambda found: -abs(found[1]))
    heads = [head for head, _ in cosines[:MAX_COMPARED]]
    newest = others.exclude(head__in=heads).order_by("-pk").values_list("head_id", flat=True)
    heads += newest[: MAX_COMPARED - len(heads)]
    return dict(others.filter(head__in=heads).values_list("head_id", "full_name"))


def arrow_similarity(one: Vectors, other: Vectors) -> float | None:
    """Mean |cos| over the modules that both adapt, or None where there is none. Blind to signs and lengths."""
    cosines = []
    for path in one.keys() & other.keys():
        a, b = one[path].astype(np.float64), other[path].astype(np.float64)
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        if a.shape == b.shape and lengths > 0:
            cosines.append(abs(float(a @ b)) / lengths)
    # Sorted, so that the sum does not depend on the order of a set.
    return round(float(np.mean(sorted(cosines))), DECIMALS) if cosines else None


WAYS = {"samples": _by_samples, "prototype": _by_prototype, "delta": by_delta, "delta_sketch": by_sketch}
