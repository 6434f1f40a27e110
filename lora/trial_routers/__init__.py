"""Routers that try: the base model with experts on top is run on the query, and they are ranked by what it says.

Each is a class, registered with the traits `prototype` (by whose vectors the experts to run are found, where there are
more than can be run), `accepts`, `k` and `when`, as text routers are, and

- `only`: the values of parameters with which the router is one of these, where text routers have its name, too; or {}.

It is made from its params; `rank` runs the experts, and `keep` and `weigh` say which of the ranked are matches and with
what weights. torch is loaded where they run, and not before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora.catalogue import Catalogue
from lora.errors import UnknownRouter
from lora.examples import Example
from lora.runtime.probe import Probe

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

# Experts that one query runs at most: their factors are in memory together.
MOST_TRIED = 32


@dataclass(frozen=True)
class Tried:
    """What came of running n experts on a query.

    Attributes:
        scores: (n,), higher is better.
        weights: (n,), of the sum Σ wᵢ·ΔWᵢ that was found, of any sign, 0 of an expert that is not in it; or None.
        loss: {before, after, tried} of a search: of the base alone, with what was found, and how many weights were
            tried; or None.
        evidence: of each expert, as JSON; empty where nobody asked for it.
        warnings: code → message, of what speaks against the scores.
    """

    scores: Doubles
    weights: tuple[float, ...] | None = None
    loss: Mapping[str, float | int] | None = None
    evidence: Sequence[Mapping[str, float]] = ()
    warnings: Mapping[str, str] = field(default_factory=dict)


class TrialRouter(ABC):
    """What every registered class offers."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @property
    def most(self) -> int:
        """How many experts are run, at most `MOST_TRIED`."""
        return MOST_TRIED

    @abstractmethod
    def rank(self, probe: Probe, examples: Sequence[Example], *, explain: bool) -> Tried:
        """Run the experts of a probe, whose weights are 0, on the query.

        Args:
            examples: of one task, all with outputs where the router needs labels.
        """

    @abstractmethod
    def keep(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which experts are matches, given their scores (k,)."""

    @abstractmethod
    def weigh(self, scores: NDArray[np.floating]) -> Floats:
        """Return the weights (k,) of the matches; they sum to 1."""


TRIAL_ROUTERS = Catalogue("router", __name__, unknown=UnknownRouter)


def trial_entries() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return each of these, by a name of its own, as (router, params): `what_the_weight:prior` beside `lorahub`."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in TRIAL_ROUTERS.names():
        only = TRIAL_ROUTERS.get(name).traits["only"]
        found |= {f"{name}:{value}": (name, {key: value}) for key, values in only.items() for value in values}
        found |= {} if only else {name: (name, {})}
    return found


def is_tried(name: Any, params: Any) -> bool:
    """Return whether a request that names a router with these parameters is for one of these."""
    if name not in TRIAL_ROUTERS.names():
        return False
    only = TRIAL_ROUTERS.get(name).traits["only"]
    return not only or (isinstance(params, Mapping) and all(params.get(key) in own for key, own in only.items()))
