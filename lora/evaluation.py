"""How often a router finds a query's own expert: ranks, accuracies, and intervals over tasks. Pure numpy.

A router sees one text at a time, as a request for that text alone would show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import Method
from lora.hybrid.evaluation import FittedPool
from lora.prototypes.centroid import centroid
from lora.routers import ROUTERS, TextSet

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DEPTHS = (1, 3, 8)
DRAWS = 2000
HYBRID = "hybrid"
DESCRIPTION = "description"
DECIMALS = 6  # at which scores are compared and tied, as everywhere


@dataclass(frozen=True)
class Pool:
    """Experts, in order of their names, which is how ties are broken.

    Attributes:
        categories: of each, "" where it has none.
        embeddings: the unit rows of each expert's samples, (m_i, dim) float32. texts: the samples themselves.
        described: the unit rows of what is said about each expert, (n, dim); None where that is not known of all.
    """

    names: tuple[str, ...]
    categories: tuple[str, ...]
    embeddings: tuple[Floats, ...]
    texts: tuple[tuple[str, ...], ...]
    described: Floats | None = None

    def __post_init__(self) -> None:
        if list(self.names) != sorted(set(self.names)):
            raise ValueError("The names of a pool must be sorted, and each there once.")

    @cached_property
    def centroids(self) -> Floats:
        """One unit vector each, (n, dim)."""
        return np.stack([centroid(rows) for rows in self.embeddings])

    @cached_property
    def samples(self) -> Floats:
        """The samples of all experts, one after the other, (total, dim)."""
        return np.concatenate(self.embeddings)

    @cached_property
    def starts(self) -> Ints:
        """Where each expert's samples begin in `samples`, (n,)."""
        return np.cumsum([0, *map(len, self.embeddings[:-1])], dtype=np.int64)


@dataclass(frozen=True)
class Asked:
    """Queries.

    Attributes:
        own: the place of each query's own expert in the pool, (q,).
        embeddings: unit rows, (q, dim). texts: the queries themselves.
    """

    own: Ints
    embeddings: Floats
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What a router says of every query and expert.

    Attributes:
        scores: (q, n), rounded. kept: which experts are matches at all, (q, n).
    """

    scores: Doubles
    kept: Bools

    def without(self, own: Ints) -> Found:
        """Return the same with every query's own expert out of the pool."""
        kept = self.kept.copy()
        kept[np.arange(len(own)), own] = False
        return Found(self.scores, kept)

    @cached_property
    def order(self) -> Ints:
        """The experts of each query, best first, ties by name, those that are no matches last, (q, n)."""
        return np.argsort(-np.where(self.kept, self.scores, -np.inf), axis=1, kind="stable")

    def ranks(self, own: Ints) -> Doubles:
        """Return how many experts stand before each query's own one, (q,): infinite where that is no match."""
        rows = np.arange(len(own))
        scores = np.where(self.kept, self.scores, -np.inf)
        mine = scores[rows, own][:, None]
        before = np.arange(scores.shape[1]) < own[:, None]
        ahead = ((scores > mine) | ((scores == mine) & before)).sum(axis=1)
        return np.where(self.kept[rows, own], ahead, np.inf).astype(np.float64)

    def first_alike(self, own: Ints, groups: Ints) -> Doubles:
        """Return the place of the first match of the own expert's group, (q,): infinite where there is none."""
        rows = np.arange(len(own))[:, None]
        alike = (groups[self.order] == groups[own][:, None]) & self.kept[rows, self.order]
        return np.where(alike.any(axis=1), alike.argmax(axis=1), np.inf)


def text_routers(*, described: bool = False) -> list[str]:
    """Return the names of the routers that answer one text, and that can be scored here.

    Args:
        described: whether something is said about every expert.
    """
    methods = [ROUTERS.get(name) for name in ROUTERS.names()]
    known = {*_SCORERS, HYBRID} - (set() if described else {DESCRIPTION})
    return [m.name for m in methods if m.traits["prototype"] in known and "text" in m.traits["accepts"]]


def route(method: Method, params: Mapping[str, Any], pool: Pool, asked: Asked) -> Found:
    """Return what a router says, text by text.

    Raises: InvalidParams. KeyError: the router searches what a pool of texts does not have.
    """
    router = method.run(ROUTERS.parse(method.name, params))
    score = _SCORERS[method.traits["prototype"]]
    queries = [TextSet(row[None], (text,)) for row, text in zip(asked.embeddings, asked.texts, strict=True)]
    # What is not even shortlisted has no score.
    scores: Doubles = np.round(np.array([score(router, pool, query) for query in queries]), DECIMALS)
    return Found(scores, np.stack([router.keep(row) for row in scores]) & np.isfinite(scores))


def route_hybrid(router: Any, fitted: FittedPool, texts: Sequence[str]) -> Found:
    """Return what a router of the hybrid space says, text by text."""
    densities, judged = fitted.scores(texts)
    scores: Doubles = np.round(densities, DECIMALS)
    threshold = fitted.space.abstention.threshold
    answered = np.array([router.answers(judgement, threshold) for judgement in judged])
    return Found(scores, np.stack([router.keep(row) for row in scores]) & answered[:, None])


def _by_centroids(router: Any, pool: Pool, query: TextSet) -> Doubles:
    return _cosines(router, pool.centroids, query)


def _by_descriptions(router: Any, pool: Pool, query: TextSet) -> Doubles:
    if pool.described is None:
        raise KeyError(DESCRIPTION)
    return _cosines(router, pool.described, query)


def _cosines(router: Any, rows: Floats, query: TextSet) -> Doubles:
    scores: Doubles = rows.astype(np.float64) @ router.query(query.rows).astype(np.float64)
    return scores


def _by_samples(router: Any, pool: Pool, query: TextSet) -> Doubles:
    scores: Doubles = router.score(query.rows @ pool.samples.T, pool.starts)
    if not router.shortlist:
        return scores
    best = np.argsort(-scores, kind="stable")[: router.shortlist]
    last = np.full(len(scores), -np.inf)
    last[best] = router.rescore(query, [TextSet(pool.embeddings[i], pool.texts[i]) for i in best])
    return last


_SCORERS = {"centroid": _by_centroids, "samples": _by_samples, DESCRIPTION: _by_descriptions}


@dataclass(frozen=True)
class Interval:
    """A mean over queries, with what 95 % of draws of as many tasks, with replacement, give."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return `{value, low, high}`, rounded."""
        return {name: round(number, DECIMALS) for name, number in vars(self).items()}


def interval(values: Doubles | Bools, tasks: Ints, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Return the mean of values (q,) and its bootstrap interval over tasks (q,), which are numbers from 0 on.

    Tasks, not queries, are drawn: queries of one task stand or fall together.
    """
    return ratio(values.astype(np.float64), np.ones(len(values)), tasks, seed, draws)


def ratio(values: Doubles, of: Doubles, tasks: Ints, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Return Σ values / Σ of, both (q,), and its bootstrap interval over tasks as of `interval`; 0 where Σ of is 0."""
    n = int(tasks.max()) + 1
    sums, totals = (np.bincount(tasks, weights=part, minlength=n) for part in (values, of))
    present = np.unique(tasks)
    # numpy guarantees a generator's raw bits only; what the remainder prefers is 1 in 2⁶⁴ / n.
    raw = np.random.Philox(seed).random_raw(draws * len(present)).reshape(draws, len(present))
    drawn = present[(raw % np.uint64(len(present))).astype(np.int64)]
    parts = totals[drawn].sum(axis=1)
    means = sums[drawn].sum(axis=1) / np.where(parts > 0, parts, 1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(sums.sum() / (totals.sum() or 1)), float(low), float(high))


def accuracy(ranks: Doubles, tasks: Ints) -> dict[str, Any]:
    """Return `{queries, mrr, top: {depth: interval}}` of ranks (q,) that count from 0."""
    return {
        "queries": len(ranks),
        "mrr": interval(1 / (1 + ranks), tasks).to_json(),
        "top": {str(depth): interval(ranks < depth, tasks).to_json() for depth in DEPTHS},
    }


def by_task(ranks: Doubles, own: Ints, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return `{task, queries, top: {depth: rate}}` of every task that is asked for, in order of the names."""
    rows = []
    for place in np.unique(own).tolist():
        mine = ranks[own == place]
        top = {str(depth): round(float((mine < depth).mean()), DECIMALS) for depth in DEPTHS}
        rows.append({"task": names[place], "queries": len(mine), "top": top})
    return rows


def by_category(found: Found, pool: Pool, own: Ints) -> dict[str, Any] | None:
    """Return the accuracies of finding another expert of the same category, with the own one out of the pool.

    Asked are the queries whose category has another expert. None: there are no such queries.
    """
    names = sorted(set(pool.categories))
    groups = np.array([names.index(category) for category in pool.categories], dtype=np.int64)
    sizes = np.bincount(groups, minlength=len(names))
    if "" in names:
        sizes[names.index("")] = 0
    chosen = np.flatnonzero(sizes[groups[own]] > 1)
    if not len(chosen):
        return None
    part = Found(found.scores[chosen], found.kept[chosen]).without(own[chosen])
    return accuracy(part.first_alike(own[chosen], groups), own[chosen])
