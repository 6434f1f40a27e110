"""Surface features: what a text looks like, beside what its embedding says it means.

Three channels: character n-grams, tokens at the edges (both tf-idf, hashed and projected with signs), and numbers of
the format. Hashes are arithmetic on code points, so that every process and platform finds the same features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.uint64]

CHARS = 2048
EDGES = 1024
NGRAMS = 5
# Hashed features are told apart by this many bits; two in a million share one.
BITS = np.uint64(20)
MAX_CHARS = 8192
EDGE_TOKENS = 6
LINE_START = 12
MAX_LINES = 64
SIGNS = "?.!,:;'\"()[]{}<>=+-*/_|#@$%&"
LAST = ".?!:"
FORMATS = 9 + len(SIGNS) + len(LAST) + 3

_PRIME = np.uint64(0x100000001B3)
# An edge token has three words at most.
_POWERS = np.concatenate([np.ones(1, np.uint64), np.cumprod(np.full(3 * MAX_CHARS + 8, _PRIME))])
_SIGN_POINTS = np.array([ord(sign) for sign in SIGNS])
_TOKEN = re.compile(r"\w+|[^\w\s]")


def clipped(text: str) -> str:
    """Return the text, or the beginning and the end of one that is longer than `MAX_CHARS`."""
    half = MAX_CHARS // 2
    return text if len(text) <= MAX_CHARS else text[:half] + text[-half:]


def codes(text: str) -> Ids:
    """Return the code points of a text, (len(text),); lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _mixed(hashes: Ids) -> Ids:
    """Return splitmix64's finaliser of each hash: every bit of the result depends on all bits."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def char_ids(text: str) -> list[Ids]:
    """Return the ids, < 2**BITS, of all character 1- to 5-grams of a text, case kept, by their length."""
    points = codes(text)
    found = []
    hashes = np.full(len(points), np.uint64(0x9E3779B97F4A7C15))
    for n in range(min(NGRAMS, len(points))):
        hashes = hashes[: len(points) - n] * _PRIME + points[n:]
        found.append(_mixed(hashes + np.uint64(n)) >> (np.uint64(64) - BITS))
    return found + [np.empty(0, np.uint64)] * (NGRAMS - len(found))


def edges(text: str) -> list[str]:
    """Return tagged tokens of the beginning and the end of a text, and the starts of its lines."""
    lowered = text.lower()
    tokens = _TOKEN.findall(lowered)
    first, last = tokens[:EDGE_TOKENS], tokens[-EDGE_TOKENS:][::-1]
    found = [f"<{place} {token}" for place, token in enumerate(first)]
    found += [f">{place} {token}" for place, token in enumerate(last)]
    for n in (2, 3):
        found += [f"<< {' '.join(first[:n])}", f">> {' '.join(last[:n])}"]
    lines = [line for line in lowered.splitlines() if line.strip()][:MAX_LINES]
    return found + [f"| {line[:LINE_START]}" for line in lines]


def edge_ids(text: str) -> Ids:
    """Return the ids, < 2**BITS, of the edge tokens of a text."""
    tokens = edges(text)
    points = codes("".join(tokens))
    lengths = np.array([len(token) for token in tokens])
    ends = np.cumsum(lengths)
    # Σ pointᵢ · primeⁿ⁻¹⁻ⁱ of every token: what hashing it point by point gives
    places = np.repeat(ends, lengths) - 1 - np.arange(len(points))
    hashes = np.add.reduceat(points * _POWERS[places], ends - lengths)
    return _mixed(hashes) >> (np.uint64(64) - BITS)


def format_numbers(text: str) -> Floats:
    """Return the FORMATS numbers of a text's format: sizes, shares, counts of signs, first and last character."""
    points = codes(text)
    size = max(len(points), 1)
    words = text.split()
    count = max(len(words), 1)
    kinds = [sum(map(test, text)) for test in (str.isdigit, str.isupper, str.isspace)]
    ascii_counts = np.bincount(points[points < 128].astype(np.int64), minlength=128)
    shares = [kind / size for kind in (*kinds, len(points) - int(ascii_counts.sum()))]
    stripped = text.strip()
    first, last = stripped[:1], stripped[-1:]
    return np.array(
        [
            *(math.log1p(number) for number in (len(points), len(words), text.count("\n") + 1)),
            *shares,
            size / count,
            len(set(words)) / count,
            *np.log1p(ascii_counts[_SIGN_POINTS]),
            *(float(last == sign) for sign in LAST),
            float(first.isupper()),
            float(first.isdigit()),
            float(first.islower()),
        ]
    )


@dataclass(frozen=True)
class Counts:
    """The features of one channel of one text: ids, < 2**BITS, ascending, and how often each occurs."""

    ids: Ids
    times: NDArray[np.int64]

    @classmethod
    def of(cls, ids: Ids) -> Counts:
        return cls(*np.unique(ids, return_counts=True))


@dataclass(frozen=True)
class Inverse:
    """Inverse document frequencies of one channel, frozen.

    Attributes:
        texts: how many texts were counted.
        ids: features that any of them has, ascending; frequencies: in how many.
    """

    texts: int
    ids: Ids
    frequencies: NDArray[np.int64]

    @classmethod
    def fit(cls, counted: Iterable[Counts]) -> Inverse:
        """Count the texts that have each feature."""
        parts = [counts.ids for counts in counted]
        ids, frequencies = np.unique(np.concatenate([np.empty(0, np.uint64), *parts]), return_counts=True)
        return cls(len(parts), ids, frequencies)

    def table(self) -> NDArray[np.float32]:
        """Return log((1 + n) / (1 + df)) + 1 of every id, (2**BITS,)."""
        dense = np.zeros(1 << int(BITS), np.float32)
        dense[self.ids] = self.frequencies
        return np.log((1 + self.texts) / (1 + dense)) + np.float32(1)

    def unseen(self, idf: NDArray[np.float32], seen: int) -> float:
        """Return the share of the sum of idf (n,) that is of features that `seen` texts have at most; 1 if n is 0."""
        limit = math.log((1 + self.texts) / (1 + seen)) + 1 - 1e-3
        return float(idf[idf > limit].sum() / idf.sum()) if len(idf) else 1.0

    def rarity(self, idf: NDArray[np.float32], seen: int) -> float:
        """Return the mean idf in [0, 1] of features that `seen` other texts have less; 1 if there are none."""
        if not len(idf):
            return 1.0
        texts = (1 + self.texts) * np.exp(1 - idf)
        return 1 - float(np.log(np.maximum(texts - seen, 1)).mean()) / math.log(1 + self.texts)


def project(counts: Counts, idf: NDArray[np.float32], width: int) -> Floats:
    """Return the tf-idf vector of a text at length 1, then summed with signs into `width` buckets, (width,).

    Args:
        width: a power of two.
    """
    values = (1 + np.log(counts.times)) * idf[counts.ids]
    length = float(np.linalg.norm(values))
    places = _mixed(counts.ids + np.uint64(1))
    signs = 1.0 - 2.0 * (places >> np.uint64(63)).astype(np.float64)
    summed = np.bincount((places & np.uint64(width - 1)).astype(np.int64), signs * values, minlength=width)
    projected: Floats = summed / (length or 1.0)
    return projected


@dataclass(frozen=True)
class Described:
    """The features of a text: counts of characters and of edges, the numbers (FORMATS,), and character n-grams."""

    chars: Counts
    edges: Counts
    numbers: Floats
    grams: list[Ids]

    @classmethod
    def of(cls, text: str) -> Described:
        cut = clipped(text)
        grams = char_ids(cut)
        return cls(Counts.of(np.concatenate(grams)), Counts.of(edge_ids(cut)), format_numbers(cut), grams)
