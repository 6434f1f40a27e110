"""Calibration of a hybrid space by texts that neither their expert's mean nor the whitening has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.hybrid.abstention import Abstention, Examples
from lora.hybrid.held_out import HeldOut, Means
from lora.hybrid.whitening import Whitening

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# As many texts of each half tell enough.
ASKED = 2000


@dataclass(frozen=True)
class Rows:
    """Features x - centre of texts, (n, d), and how new they are, (n, m)."""

    x: Floats
    novelty: Floats

    def taken(self, places: Ints) -> Rows:
        return Rows(self.x[places], self.novelty[places])


@dataclass(frozen=True)
class Corpus:
    """What a space is calibrated with.

    Attributes:
        texts: of the background, then of the pool; labels: (n,) their experts 0..K-1; clean: their rows.
        wrapped, parts: rows of the background texts in wrappers, and of parts of them.
        far: rows of far texts; kinds: (f,) theirs, 0..F-1.
        channels: (c + 1,) where channels begin and end.
    """

    texts: Sequence[str]
    labels: Ints
    clean: Rows
    wrapped: Rows
    parts: Rows
    far: Rows
    kinds: Ints
    channels: Ints

    def asked(self) -> tuple[Ints, Bools]:
        """Return the texts whose experts calibrate, and which of these have one expert alone and others of its own.

        Who else has a sample's very text would recognise it: tasks of the background that the pool has, too, are left
        out, and texts that several experts have are not asked.
        """
        count = len(self.parts.x)
        own = set(self.texts[count:])
        shared = [text in own for text in self.texts[:count]]
        known = np.unique(self.labels[:count][shared])
        if len(np.unique(self.labels)) - len(known) < 2:
            known = known[:0]
        asked = np.flatnonzero(~np.isin(self.labels, known))
        times = Counter(self.texts[row] for row in asked.tolist())
        alone = np.array([times[self.texts[row]] == 1 for row in asked.tolist()])
        siblings = np.bincount(self.labels)[self.labels[asked]] > 1
        return asked, siblings & (alone | ~alone.any())


def calibrate(corpus: Corpus, whitenings: Sequence[Whitening]) -> tuple[float, Abstention]:
    """Return the temperature and the model of abstention.

    Args:
        whitenings: two; the texts at even places of the corpus are whitened by the first, which saw the others.
    """
    asked, able = corpus.asked()
    rng = np.random.default_rng(0)
    halves = [_Half(corpus, whitening, asked, able & (asked % 2 == fold)) for fold, whitening in enumerate(whitenings)]
    clean = [half.clean() for half in halves]
    scores, own = np.vstack([found.densities() for found in clean]), np.concatenate([found.own for found in clean])
    examples = [_examples(half, found, rng) for half, found in zip(halves, clean, strict=True)]
    together = Examples(*(np.vstack(parts) for parts in zip(*examples, strict=True)))
    return calibrated_temperature(scores, own), Abstention.fit(together)


class _Half:
    """The texts that one whitening has not seen, against the means of all."""

    def __init__(self, corpus: Corpus, whitening: Whitening, asked: Ints, mine: Bools) -> None:
        self.corpus = corpus
        self._whitening = whitening
        _, self._labels = np.unique(corpus.labels[asked], return_inverse=True)
        self._z = whitening.place(corpus.clean.x[asked])
        self._means = Means.of(self._z, self._labels, corpus.channels)
        places = np.flatnonzero(mine)
        self._mine = places[np.linspace(0, len(places) - 1, min(ASKED, len(places))).round().astype(np.int64)]
        self._rows = asked[self._mine]

    def clean(self) -> HeldOut:
        novelty = self.corpus.clean.novelty[self._rows]
        return self._means.against(self._z[self._mine], novelty, self._labels[self._mine])

    def changed(self, rows: Rows) -> HeldOut:
        """Texts of the background as `rows` have them; their experts' means have them as they are."""
        here = self._rows < len(rows.x)
        mine, taken = self._mine[here], rows.taken(self._rows[here])
        return self._means.against(self._whitening.place(taken.x), taken.novelty, self._labels[mine], self._z[mine])

    def far(self) -> tuple[HeldOut, HeldOut]:
        """Far texts against nobody but the experts, and with an expert for their kind."""
        corpus = self.corpus
        z = self._whitening.place(corpus.far.x)
        kinds = Means.of(z, corpus.kinds, corpus.channels)
        able = np.flatnonzero(kinds.sizes[corpus.kinds] > 1)
        own = corpus.kinds[able] + len(self._means.means)
        alone = self._means.against(z, corpus.far.novelty)
        return alone, self._means.and_more(kinds).against(z[able], corpus.far.novelty[able], own)

    def experts(self) -> int:
        return len(self._means.means)


def _examples(half: _Half, clean: HeldOut, rng: np.random.Generator) -> tuple[Floats, ...]:
    """Return the parts of `Examples` that one half gives."""
    corpus = half.corpus
    present, absent = clean.evidence(rng)
    bent_present, bent_absent = half.changed(corpus.wrapped).evidence(rng)
    parts_present, parts_absent = half.changed(corpus.parts).evidence(rng)
    far, known = half.far()
    kept = np.arange(known.inner.shape[2]) < half.experts()
    kept = np.tile(kept, (len(known.own), 1))
    kept[np.arange(len(kept)), known.own] = True
    return (
        np.vstack([present, bent_present]),
        np.vstack([absent, bent_absent]),
        parts_present,
        parts_absent,
        known.nearness(kept).evidence(),
        far.evidence(rng)[1],
    )


def calibrated_temperature(scores: Floats, own: Ints) -> float:
    """Return the T > 0 at which softmax(score / T) gives the own experts the highest likelihood.

    Args:
        scores: (n, K), of n texts for K experts, where the own expert has not seen the text.
        own: (n,) the column of each text's expert.
    """
    margins = scores - scores[np.arange(len(own)), own][:, None]

    def loss(log_t: float) -> float:
        # 500: a probability of e^-500 is wrong enough, and its exponent does not overflow
        return float(np.log(np.exp(np.minimum(margins / np.exp(log_t), 500)).sum(axis=1)).mean())

    grid = np.linspace(np.log(0.1), np.log(1000), 60)
    return float(np.exp(grid[int(np.argmin([loss(log_t) for log_t in grid]))]))
