"""Why an expert was found: its own samples that are nearest to the query."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.models import Revision
from registry.samples import read_samples
from retrieval.models import Prototype
from retrieval.prototypes import rows_of
from retrieval.search import exact_scores

SHOWN = 3
CHUNK = 16

Evidence = dict[tuple[int, int], list[dict[str, Any]]]


def find_evidence(space: str, found: Iterable[tuple[int, int, NDArray[Any]]]) -> Evidence:
    """The nearest samples of matches: `[{input, score}]`, without `input` where the owner hides sample texts.

    Args:
        space: of the vectors.
        found: (number of the query, revision id, query vector (dim,)) of every match.
    Returns: (number of the query, revision id) → the nearest samples, best first.
    """
    asked: dict[int, list[tuple[int, NDArray[Any]]]] = {}
    for number, revision_id, query in found:
        asked.setdefault(revision_id, []).append((number, query))
    evidence: Evidence = {}
    revisions = list(asked)
    for start in range(0, len(revisions), CHUNK):
        # In chunks: the samples of one expert can be more than a megabyte.
        part = revisions[start : start + CHUNK]
        rows = Prototype.objects.filter(kind="samples", space_id=space, revision_id__in=part)
        for prototype in rows.select_related("revision__adapter"):
            texts = _shown_texts(prototype.revision)
            for number, query in asked[prototype.revision_id]:
                evidence[number, prototype.revision_id] = _nearest(query, rows_of(prototype), texts)
    return evidence


def _shown_texts(revision: Revision) -> tuple[str, ...] | None:
    return _texts(revision.pk) if revision.adapter.samples_public else None


@lru_cache(maxsize=64)
def _texts(revision_id: int) -> tuple[str, ...]:
    """Sample inputs of a revision; its files never change."""
    return tuple(sample["input"] for sample in read_samples(Revision.objects.get(pk=revision_id)))


def _nearest(query: NDArray[Any], rows: NDArray[Any], texts: tuple[str, ...] | None) -> list[dict[str, Any]]:
    scores = exact_scores(query, rows)
    best = np.argsort(-scores, kind="stable")[:SHOWN]
    if texts is None:
        return [{"score": float(scores[place])} for place in best]
    return [{"input": texts[place], "score": float(scores[place])} for place in best]
