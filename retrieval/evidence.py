"""Why an expert was found: its own samples that are nearest to the query."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.examples import instruction_of
from registry.models import Blob, Revision, RevisionFile
from registry.samples import PATH, parse_samples
from registry.storage import read_blob
from retrieval.models import Prototype
from retrieval.prototypes import rows_of
from retrieval.search import DECIMALS, SQL_CHUNK

SHOWN = 3
CHUNK = 16

Evidence = dict[tuple[int, int], list[dict[str, Any]]]


def find_evidence(space: str, found: Iterable[tuple[int, int, NDArray[Any]]]) -> Evidence:
    """The samples of matches that are nearest to any vector of the query: `[{input, score}]`, without `input` where the
    owner hides sample texts.

    Args:
        space: of the vectors.
        found: (number of the query, revision id, its vectors (m, dim)) of every match.
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
        rows = rows.select_related("revision__adapter").defer("revision__modules")
        for prototype in rows.prefetch_related("revision__files"):
            texts = _shown_texts(prototype.revision)
            for number, query in asked[prototype.revision_id]:
                evidence[number, prototype.revision_id] = _nearest(query, rows_of(prototype), texts)
    return evidence


def describe(revisions: Iterable[int]) -> dict[int, dict[str, Any]]:
    """What one decides by at a glance: revision id → `{license, rank, instruction}`; None where it is not known.

    The instruction is the line with which all samples begin, which is not told where the owner hides their texts.
    """
    ids = sorted(set(revisions))
    facts = {}
    for start in range(0, len(ids), SQL_CHUNK):
        part = ids[start : start + SQL_CHUNK]
        shown = RevisionFile.objects.filter(revision_id__in=part, path=PATH, revision__adapter__samples_public=True)
        samples = dict(shown.values_list("revision_id", "blob_id"))
        rows = Revision.objects.filter(pk__in=part).order_by()
        for pk, licence, rank in rows.values_list("pk", "adapter__license", "summary__rank"):
            line = _instruction(samples[pk]) if pk in samples else None
            facts[pk] = {"license": licence or None, "rank": rank, "instruction": line}
    return facts


def sample_texts(revisions: list[int]) -> list[tuple[str, ...]]:
    """The sample inputs of revisions, in their order, for scores; whether they may be shown is not asked."""
    files = RevisionFile.objects.filter(revision_id__in=revisions, path=PATH)
    blobs = dict(files.values_list("revision_id", "blob_id"))
    return [_texts(blobs[revision]) if revision in blobs else () for revision in revisions]


def _shown_texts(revision: Revision) -> tuple[str, ...] | None:
    file = revision.file(PATH)
    return _texts(file.blob_id) if file and revision.adapter.samples_public else None


@lru_cache(maxsize=128)
def _texts(sha256: str) -> tuple[str, ...]:
    """Sample inputs in a stored file, whose digest is its name."""
    return tuple(sample["input"] for sample in parse_samples(read_blob(Blob(sha256=sha256))))


@lru_cache(maxsize=4096)
def _instruction(sha256: str) -> str | None:
    return instruction_of(_texts(sha256))


def _nearest(queries: NDArray[Any], rows: NDArray[Any], texts: tuple[str, ...] | None) -> list[dict[str, Any]]:
    products = queries.astype(np.float64) @ rows.astype(np.float64).T
    scores = np.round(products, DECIMALS).max(axis=0)
    best = np.argsort(-scores, kind="stable")[:SHOWN]
    if texts is None:
        return [{"score": float(scores[place])} for place in best]
    return [{"input": texts[place], "score": float(scores[place])} for place in best]
