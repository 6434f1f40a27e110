"""How alike two documents are by their words."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

WORD = re.compile(r"\w+")

# Function words: with two documents, the idf alone would let them decide.
STOP_WORDS = frozenset(
    """a about above after again against all also am an and any are as at be because been before being below between
    both but by can could did do does doing down during each else few for from further had has have having he her here
    hers herself him himself his how i if in into is it its itself just may me might more most must my myself no nor
    not now of off on once only or other our ours ourselves out over own same shall she should so some such than that
    the their theirs them themselves then there these they this those through to too under until up upon us very was
    we were what when where which while who whom whose why will with within without would you your yours yourself
    yourselves""".split()
)


def document_similarity(one: str, other: str) -> float:
    """Return the cosine of the tf-idf vectors of two documents, 0..1; the idf is that of these two.

    tf = count of a lower-case word that is no stop word, idf = ln(3 / (1 + df)) + 1.
    """
    counts, others = _counts(one), _counts(other)
    # of two documents a word is in one, or in both, where idf is 1
    rare = math.log(3 / 2) + 1
    shared = counts.keys() & others.keys()
    lengths = [
        math.sqrt(sum((n if word in shared else n * rare) ** 2 for word, n in found.items()))
        for found in (counts, others)
    ]
    # Sorted, so that the sum does not depend on the order of a set.
    product = sum(sorted(counts[word] * others[word] for word in shared))
    return product / (lengths[0] * lengths[1]) if product else 0.0


@lru_cache(maxsize=256)
def _counts(document: str) -> Counter[str]:
    return Counter(word for word in WORD.findall(document.lower()) if word not in STOP_WORDS)
