"""The best experts by routers over samples: a short list by float32, then exactly by all samples of those on it."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.routers import SampleRouter, TextSet
from retrieval.evidence import sample_texts
from retrieval.models import Prototype
from retrieval.pool import Pool
from retrieval.sample_rows import SampleRows, runs, sample_rows
from retrieval.search import DECIMALS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Sample vectors that are compared at once: what a core's cache and a few megabytes hold.
CHUNK_ROWS = 8192
# Off by at most: float32 sums of products of unit vectors.
TOLERANCE = 2.5e-5
# Experts on a short list, beyond four for every one that is wanted.
SPARE = 64
# Experts with more samples than are held, read at once: up to 1.5 MB each.
SQL_CHUNK = 16
# How exactly scores are compared; they are told with DECIMALS.
TIED_DECIMALS = 9


def search_samples(
    pool: Pool, router: SampleRouter, queries: Sequence[TextSet], k: int, mask: NDArray[np.bool_]
) -> list[tuple[Ints, Floats]]:
    """The k best experts of each query by all their samples: (rows of the pool, scores), best first, ties by name.

    Exact among experts of which all samples are held; where some have more, they are shortlisted by those that are.

    Args:
        queries: unit rows (m, dim) of each, with the texts where the router reads them.
        mask: (n,), which rows of the pool count; what others have changes nothing.
    """
    held = sample_rows(pool)
    rows, compared = _compared(held, router, np.concatenate([query.rows for query in queries]), mask)
    if not len(rows):
        return [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
    ends = np.cumsum([len(query.rows) for query in queries])[:-1]
    found = []
    for query, part in zip(queries, np.split(compared, ends), strict=True):
        wanted = max(k, router.shortlist)
        listed = rows[_shortlist(router, part, 4 * wanted + SPARE)]
        found.append(_best(held, router, query, listed, k))
    return found


def _compared(
    held: SampleRows, router: SampleRouter, queries: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[Ints, NDArray[np.float32]]:
    """Rows of the pool that have samples, and what each text says of them, (m, experts)."""
    found: list[Ints] = []
    compared: list[NDArray[np.float32]] = []
    for block, places, rows in held.selected(mask):
        for part in _chunks(block.starts[places + 1] - block.starts[places]):
            firsts = block.starts[places[part]]
            lengths = block.starts[places[part] + 1] - firsts
            start, end = firsts[0], firsts[-1] + lengths[-1]
            # Where no expert between is left out, nothing is copied.
            together = end - start == lengths.sum()
            vectors = block.rows[start:end] if together else block.rows[runs(firsts, lengths)]
            starts = np.cumsum(lengths) - lengths
            compared.append(router.compare(queries @ vectors.T, starts).astype(np.float32))
            found.append(rows[part])
    if not found:
        return np.empty(0, np.int64), np.empty((len(queries), 0), np.float32)
    return np.concatenate(found), np.concatenate(compared, axis=1)


def _chunks(lengths: Ints) -> Iterator[slice]:
    """Cut experts with so many vectors each into parts of about CHUNK_ROWS vectors."""
    numbers = (np.cumsum(lengths) - lengths) // CHUNK_ROWS
    edges = np.flatnonzero(np.diff(numbers, prepend=-1))
    for start, end in itertools.pairwise([*edges, len(lengths)]):
        yield slice(int(start), int(end))


def _shortlist(router: SampleRouter, compared: NDArray[np.float32], count: int) -> Ints:
    """Places of the best by the vectors held, of those equal to the last one, and of all that may be a text's best."""
    scores = router.decide(compared.astype(np.float64))
    if len(scores) <= count:
        return np.arange(len(scores))
    last = np.partition(scores, -count)[-count]
    rivals = (compared >= compared.max(axis=1, keepdims=True) - TOLERANCE).any(axis=0)
    return np.flatnonzero((scores >= last - TOLERANCE) | rivals)


def _best(held: SampleRows, router: SampleRouter, query: TextSet, rows: Ints, k: int) -> tuple[Ints, Floats]:
    scores = _exact(held, router, query.rows, rows)
    names = held.pool.rows["name"]
    best = _ordered(scores, names[rows])
    if router.shortlist:
        rows = rows[best[: router.shortlist]]
        experts = _text_sets(held, rows, with_texts=router.reads_texts)
        scores = np.round(router.rescore(query, experts), TIED_DECIMALS)
        # Equal scores: the nearer one first, which is the order of the short list.
        best = np.argsort(-scores, kind="stable")
    best = best[:k]
    return rows[best], np.round(scores[best], DECIMALS)


def _ordered(scores: Floats, names: NDArray[Any]) -> Ints:
    return np.array(sorted(range(len(scores)), key=lambda place: (-scores[place], names[place])), dtype=np.int64)


def _exact(held: SampleRows, router: SampleRouter, queries: NDArray[np.float32], rows: Ints) -> Floats:
    """Scores by all samples. Similarities are rounded, so that they do not depend on what else is compared."""
    wide = queries.astype(np.float64)
    compared = np.empty((len(queries), len(rows)))
    for place, samples in enumerate(_all_samples(held, rows)):
        similarities = np.round(wide @ samples.astype(np.float64).T, DECIMALS)
        compared[:, place] = router.compare(similarities, np.zeros(1, dtype=np.int64))[:, 0]
    return np.round(router.decide(np.round(compared, TIED_DECIMALS)), TIED_DECIMALS)


def _all_samples(held: SampleRows, rows: Ints) -> Iterator[NDArray[np.float32]]:
    """All sample vectors of each row of the pool; where an expert was deleted meanwhile, those that are held."""
    revisions = held.pool.rows["revision"][rows]
    known: dict[int, NDArray[np.float32]] = {}
    partial: set[int] = set()
    for block in held.blocks:
        places = block.places_of(revisions)
        for place in places[places >= 0].tolist():
            start, end = block.starts[place], block.starts[place + 1]
            known[int(block.revisions[place])] = block.rows[start:end]
            if end - start < block.counts[place]:
                partial.add(int(block.revisions[place]))
    for start in range(0, len(revisions), SQL_CHUNK):
        part = revisions[start : start + SQL_CHUNK].tolist()
        read = _read(partial.intersection(part), held.pool.space)
        yield from (read.get(revision, known[revision]) for revision in part)


def _read(revisions: Iterable[int], space: str) -> dict[int, NDArray[np.float32]]:
    found = Prototype.objects.filter(kind="samples", space_id=space, revision_id__in=list(revisions)).order_by()
    columns = found.values_list("revision_id", "count", "dim", "vectors")
    return {pk: np.frombuffer(data, dtype="<f4").reshape(count, dim) for pk, count, dim, data in columns}


def _text_sets(held: SampleRows, rows: Ints, *, with_texts: bool) -> list[TextSet]:
    texts = sample_texts(held.pool.rows["revision"][rows].tolist()) if with_texts else [()] * len(rows)
    return [TextSet(*both) for both in zip(_all_samples(held, rows), texts, strict=True)]
