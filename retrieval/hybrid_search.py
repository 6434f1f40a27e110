"""The experts under which texts are most likely, in the hybrid space that answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lora.hybrid.abstention import DEPTH, Judgement
from lora.hybrid.default import load_default
from lora.hybrid.shortlist import Head, length, products
from lora.hybrid.space import HybridSpace, Query, encoded
from lora.hybrid.wrappers import spans
from registry.errors import NotReady
from retrieval.encoders import Encoder
from retrieval.hybrid import KIND, load_space, request_fit, served_version
from retrieval.models import Prototype
from retrieval.pool import Pool
from retrieval.prototypes import rows_of
from retrieval.sample_rows import Block, sample_rows
from retrieval.search import DECIMALS
from retrieval.spaces import encoder_of, served_space_id

Rows = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# So many more than were asked for are compared once more, in double precision.
SPARE = 32

# Experts with their vectors, places of some of them, and what rows of the pool these are.
Part = tuple[Block, Ints, Ints]


@dataclass(frozen=True)
class Likely:
    """What was found for a query.

    Attributes:
        rows: of the pool, best first, ties by name; scores: their log densities.
        probabilities: of each among all experts that were compared in full.
        margin: how far the best score is above the next; None where there is only one.
        judgement: whether the text's expert may be there at all; threshold: how familiar a text has to be.
    """

    rows: Ints
    scores: Floats
    probabilities: Floats
    margin: float | None
    judgement: Judgement
    threshold: float

    def decided(self) -> dict[str, Any]:
        """What the answer was decided by, as JSON."""
        judgement = {name: round(value, DECIMALS) for name, value in vars(self.judgement).items()}
        return {"margin": self.margin, **judgement, "threshold": round(self.threshold, DECIMALS)}

    def shares(self, mask: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """What more is known of each match that a mask leaves, as JSON."""
        return [{"probability": share} for share in np.round(self.probabilities[mask], DECIMALS).tolist()]


@dataclass(frozen=True)
class HybridQuery:
    """One result's texts in the space, and the vector (m, dim) of each as a whole."""

    parts: list[Query]
    wholes: Rows


class NotFitted(NotReady):
    """There are experts, and no version of the hybrid space in which all of them have a row."""


def served_space(base: str) -> tuple[str, HybridSpace]:
    """The version that answers over an encoder's space: its id, and what was fitted.

    Raises: NotFitted: there is none yet; then it is being fitted.
    """
    version = served_version(base)
    if version is not None:
        return version.space_id, load_space(version)
    default = load_default(base)
    if default is not None and not Prototype.objects.filter(space=base).exists():
        return default.space_id(base), default
    request_fit(base)
    raise NotFitted(
        "The hybrid space is being fitted for the first time, which takes a minute or two. Ask again then, or ask "
        "another router.",
        retry_after_s=30,
    )


def embed(space: HybridSpace, encoder: Encoder, queries: Sequence[Sequence[str]]) -> list[HybridQuery]:
    """The queries in the space."""
    parts = [[spans(text) for text in texts] for texts in queries]
    cut = [text for texts in parts for text in texts]
    embeddings, middle = encoder.encode_both([span for text in cut for span in text])
    starts = np.cumsum([0, *map(len, cut)])[:-1]
    rows = np.split(encoded(embeddings, middle), starts[1:])
    asked = iter([space.query(own, text) for own, text in zip(rows, cut, strict=True)])
    # The first span of a text is the whole.
    wholes = iter(embeddings[starts])
    return [HybridQuery([next(asked) for _ in texts], np.stack([next(wholes) for _ in texts])) for texts in parts]


def search_hybrid(
    pool: Pool, space_id: str, space: HybridSpace, queries: Sequence[HybridQuery], k: int, mask: NDArray[np.bool_]
) -> list[Likely]:
    """The k likeliest experts of each query among the pool's rows that a mask (n,) leaves."""
    held = sample_rows(pool, "hybrid", space_id)
    parts = [part for part in held.selected(mask) if len(part[1])]
    return [_likely(pool, space, parts, query, k) for query in queries]


def beliefs(revisions: Sequence[int], queries: Sequence[Sequence[str]]) -> list[tuple[Floats, float]]:
    """What the samples of n experts say of queries, each of some texts.

    Returns: for each query the probability of every expert (n,), if the right one is among those with samples: 0 for
        the others; and that of the condition, 0 where none has samples.
    Raises: NotReady: the encoder, or NotFitted.
    """
    base = served_space_id()
    space_id, space = served_space(base)
    stored = Prototype.objects.filter(kind=KIND, space_id=space_id, revision_id__in=revisions)
    rows = {prototype.revision_id: rows_of(prototype)[0] for prototype in stored}
    places = [place for place, revision in enumerate(revisions) if revision in rows]
    if not places:
        return [(np.zeros(len(revisions)), 0.0)] * len(queries)
    near = np.stack([rows[revisions[place]] for place in places]).astype(np.float64)
    found = []
    for query in embed(space, encoder_of(base), queries):
        scores, judgement = _compared(space, query, near)
        shares = np.zeros(len(revisions))
        shares[places] = space.posterior(scores)
        found.append((shares, judgement.fits))
    return found


def _likely(pool: Pool, space: HybridSpace, parts: list[Part], query: HybridQuery, k: int) -> Likely:
    threshold = space.abstention.threshold
    if not parts:
        return Likely(np.empty(0, np.int64), np.empty(0), np.empty(0), None, Judgement(0.0, 0.0), threshold)
    lists = [_shortlist(space, part, query, k) for part in parts]
    listed = np.concatenate([rows for _, rows in lists])
    # In float64: equal experts have equal scores wherever they stand.
    near = np.concatenate([vectors for vectors, _ in lists]).astype(np.float64)
    scores, judgement = _compared(space, query, near)
    names = pool.rows["name"][listed]
    order = np.array(sorted(range(len(listed)), key=lambda place: (-scores[place], names[place])))
    margin = float(scores[order[0]] - scores[order[1]]) if len(order) > 1 else None
    order = order[:k]
    probabilities = space.posterior(scores)[order]
    return Likely(listed[order], scores[order], probabilities, margin, judgement, threshold)


def _compared(space: HybridSpace, query: HybridQuery, near: Floats) -> tuple[Floats, Judgement]:
    """Log densities of a query under n >= 1 experts with vectors (n, d + 1), and whether its own may be among them."""
    exact = [_scores(space, text, near) for text in query.parts]
    judged = [_judged(space, found, text, near) for found, text in zip(exact, query.parts, strict=True)]
    judgement = Judgement(*np.mean([(one.fits, one.familiar) for one in judged], axis=0).tolist())
    return np.round(np.mean(exact, axis=0), DECIMALS), judgement


def _judged(space: HybridSpace, scores: Floats, text: Query, near: Floats) -> Judgement:
    best = np.argsort(-scores, kind="stable")[:DEPTH]
    return space.judge(scores[best], text, near[best[0]])


def _scores(space: HybridSpace, text: Query, near: Floats) -> Floats:
    """Scores of the experts whose vectors (n, d + 1) are given."""
    # Span by span: products of a few rows at once are slower.
    return space.combine(text, np.stack([near @ row for row in text.rows]))


def _shortlist(space: HybridSpace, part: Part, query: HybridQuery, k: int) -> tuple[Rows, Ints]:
    """The vectors, and the rows of the pool, of the experts of a block that may be among the k likeliest."""
    block, places, rows = part
    count = max(length(len(places)), 4 * k)
    if len(places) > count:
        # By whole texts: their cuts count once few experts are left.
        wholes = np.stack([text.rows[0] for text in query.parts])
        best = _best(_head(block).products(wholes)[:, places].mean(axis=0), count)
        places, rows = places[best], rows[best]
    found = [space.combine(text, products(block.rows, places, text.rows).astype(np.float64)) for text in query.parts]
    best = _best(np.mean(found, axis=0), k + SPARE)
    return block.rows[places[best]], rows[best]


def _best(scores: Floats, count: int) -> Ints:
    """Where the highest scores are, in the order of places."""
    return np.sort(np.argpartition(-scores, count)[:count]) if len(scores) > count else np.arange(len(scores))


_heads: WeakKeyDictionary[Block, Head] = WeakKeyDictionary()


def _head(block: Block) -> Head:
    """What short lists of a block are made by; computed once in a process."""
    head = _heads.get(block)
    if head is None:
        head = _heads[block] = Head.of(block.rows)
    return head
