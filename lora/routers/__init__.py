"""Routers: the rules that turn a query into matches, one file per router. numpy only.

A router is a class, registered with the traits `prototype` (the kind whose vectors it searches), `accepts`
(the forms of a query it understands) and `k` (its default number of matches). It is made from its params:

- `query(embeddings)` turns the unit rows of one query, (m, dim), into one unit vector (dim,);
- `keep(scores)` says which of the found experts are matches at all, (k,) bool;
- `weigh(scores)` turns the scores of the kept ones into weights, (k,), >= 0, with sum 1.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import Catalogue
from lora.errors import UnknownRouter

Floats = NDArray[np.float32]


class Router(Protocol):
    """What every registered class offers."""

    def query(self, embeddings: Floats) -> Floats:
        """Return the unit vector (dim,) to search with."""

    def keep(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which experts are matches, given their scores (k,)."""

    def weigh(self, scores: Floats) -> Floats:
        """Return the weights (k,) of the matches; they sum to 1."""


ROUTERS = Catalogue("router", __name__, unknown=UnknownRouter)
