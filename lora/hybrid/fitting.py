"""Fitting a version of the hybrid space: from background texts, which are always there, and the pool's own samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lora.hybrid.calibration import Corpus, Rows, calibrate
from lora.hybrid.features import Described, Inverse
from lora.hybrid.held_out import class_means
from lora.hybrid.space import HybridSpace, Surface, channels, joint
from lora.hybrid.whitening import Whitening
from lora.hybrid.wrappers import nuisance, part, unwrap
from lora.prototypes.samples import check_rows

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

SHRINKAGE = 0.8
RANK = 256
# The background counts as this many samples of the pool.
BACKGROUND_SAMPLES = 500
# Part of the background's covariance that comes from its texts in wrappers.
NUISANCE_PART = 0.4
# More samples of one expert do not count, so that none of them bends the space.
SAMPLES_PER_EXPERT = 20
MAX_EXPERTS = 500


@dataclass(frozen=True)
class Labelled:
    """Texts of experts, unwrapped.

    Attributes:
        texts: n of them; embeddings: (n, dim), their unit rows.
        experts: (n,) number of each text's expert, any integers.
    """

    texts: Sequence[str]
    embeddings: Singles
    experts: Ints

    @classmethod
    def empty(cls, dim: int) -> Labelled:
        return cls([], np.empty((0, dim), np.float32), np.empty(0, np.int64))

    def capped(self) -> Labelled:
        """Return the first SAMPLES_PER_EXPERT texts of at most MAX_EXPERTS experts, spread over all of them."""
        names = np.unique(self.experts)
        if len(names) > MAX_EXPERTS:
            names = names[np.linspace(0, len(names) - 1, MAX_EXPERTS).round().astype(np.int64)]
        order = np.argsort(self.experts, kind="stable")
        ordered = self.experts[order]
        place = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        kept = np.sort(order[(place < SAMPLES_PER_EXPERT) & np.isin(ordered, names)])
        return Labelled([self.texts[i] for i in kept], self.embeddings[kept], self.experts[kept])


def in_wrappers(texts: Sequence[str]) -> list[str]:
    """Return the background texts in nuisance wrappers, one each."""
    return [unwrap(nuisance(text, number)) for number, text in enumerate(texts)]


def in_parts(texts: Sequence[str]) -> list[str]:
    """Return a part of each background text."""
    return [part(text, number) for number, text in enumerate(texts)]


@dataclass(frozen=True)
class Background:
    """The texts that ship, encoded.

    Attributes:
        tasks: texts of at least two tasks with at least two texts each.
        wrapped, parts: (n, dim), unit rows of `in_wrappers` and of `in_parts` of those.
        far: texts that few experts are for, by kind; at least one.
    """

    tasks: Labelled
    wrapped: Singles
    parts: Singles
    far: Labelled

    @classmethod
    def encoded(
        cls, tasks: Sequence[Sequence[str]], far: Sequence[Sequence[str]], encode: Callable[[list[str]], Singles]
    ) -> Background:
        """Encode the texts, unwrapped, of each task and of each far kind."""
        known, strange = _labelled(tasks, encode), _labelled(far, encode)
        return cls(known, encode(in_wrappers(known.texts)), encode(in_parts(known.texts)), strange)


def _labelled(groups: Sequence[Sequence[str]], encode: Callable[[list[str]], Singles]) -> Labelled:
    texts = [text for group in groups for text in group]
    return Labelled(texts, encode(texts), np.repeat(np.arange(len(groups)), [len(group) for group in groups]))


def fit(background: Background, pool: Labelled | None = None) -> HybridSpace:
    """Return a version of the space.

    Args:
        pool: samples of the experts that are there; those beyond the caps are left out.
    Raises: LoraError: rows that are no unit vectors.
    """
    tasks = background.tasks
    own = (pool or Labelled.empty(tasks.embeddings.shape[1])).capped()
    check_rows(tasks.embeddings)
    texts = [*tasks.texts, *own.texts]
    surface = _surface(texts)
    described, novelty = surface.described(texts, 1)
    raw = joint(np.vstack([tasks.embeddings, own.embeddings]), described).astype(np.float64)
    centre = raw.mean(axis=0).astype(np.float32)

    def rows(embeddings: Singles, texts: Sequence[str], seen: int) -> Rows:
        found, novelty = surface.described(texts, seen)
        return Rows(joint(embeddings, found).astype(np.float64) - centre, novelty)

    first = tasks.experts.max(initial=-1) + 1 - own.experts.min(initial=0)
    _, labels = np.unique(np.concatenate([tasks.experts, first + own.experts]), return_inverse=True)
    corpus = Corpus(
        texts=texts,
        labels=labels,
        clean=Rows(raw - centre, novelty),
        wrapped=rows(background.wrapped, in_wrappers(tasks.texts), 1),
        parts=rows(background.parts, in_parts(tasks.texts), 1),
        far=rows(background.far.embeddings, background.far.texts, 0),
        kinds=np.unique(background.far.experts, return_inverse=True)[1],
        channels=channels(tasks.embeddings.shape[1]),
    )
    residuals = _residuals(corpus)
    temperature, abstention = calibrate(corpus, _halves(corpus, residuals))
    whitening = Whitening.fit(residuals, SHRINKAGE, RANK)
    return HybridSpace(surface, centre, whitening, temperature, abstention, len(texts))


def _residuals(corpus: Corpus) -> Floats:
    """Return rows whose squares add up to W: the background's, the same texts' in wrappers, the pool's."""
    count, x = len(corpus.wrapped.x), corpus.clean.x
    known = _background_residuals(x[:count], corpus.wrapped.x, corpus.labels[:count])
    both = np.vstack([known, _pool_residuals(x[count:], corpus.labels[count:])])
    scaled: Floats = both / np.sqrt(BACKGROUND_SAMPLES + len(x) - count)
    return scaled


def _halves(corpus: Corpus, residuals: Floats) -> list[Whitening]:
    """Return what whitens the texts at even places, which has seen the others, and what whitens those."""
    half = np.arange(len(corpus.texts)) % 2
    of_residual = np.concatenate([half[: len(corpus.wrapped.x)], half])
    return [Whitening.fit(residuals[of_residual != fold] * np.sqrt(2), SHRINKAGE, RANK) for fold in (0, 1)]


def _surface(texts: Sequence[str]) -> Surface:
    # What ships and is in the pool, too, counts once.
    described = [Described.of(text) for text in dict.fromkeys(texts)]
    numbers = np.array([text.numbers for text in described])
    chars, edges = Inverse.fit(text.chars for text in described), Inverse.fit(text.edges for text in described)
    return Surface(chars, edges, numbers.mean(axis=0), numbers.std(axis=0) + 1e-6)


def _background_residuals(clean: Floats, bent: Floats, labels: Ints) -> Floats:
    """Return rows whose squares add up to BACKGROUND_SAMPLES times the background's covariance."""
    means, sizes = class_means(clean, labels)
    spread = (clean - means[labels]) * np.sqrt((1 - NUISANCE_PART) / max(len(clean) - len(sizes), 1))
    shift = (bent - means[labels]) * np.sqrt(NUISANCE_PART / len(bent))
    scaled: Floats = np.sqrt(BACKGROUND_SAMPLES) * np.vstack([spread, shift])
    return scaled


def _pool_residuals(rows: Floats, labels: Ints) -> Floats:
    """Return rows whose squares add up to Σ n_e W_e of the experts with two samples or more."""
    if not len(rows):
        return rows
    _, compact = np.unique(labels, return_inverse=True)
    means, sizes = class_means(rows, compact)
    scale = np.sqrt(sizes / np.maximum(sizes - 1, 1))
    scaled: Floats = (rows - means[compact]) * scale[compact, None]
    return scaled
