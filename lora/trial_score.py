"""What a trial measures of the base, of a candidate or of a merge, and which of them is the better."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

Kind = Literal["base", "base_few_shot", "adapter", "merge"]


@dataclass(frozen=True)
class Score:
    """What was measured of the base, of a candidate or of a merge; None where it was not.

    Attributes:
        candidate: the position of an adapter's.
        losses: of each example that it was run on, −log p per token of the answer.
        exact_match: the share of the examples that greedy decoding answers exactly; None until it has seen all.
        weights: of a merge, by position of the candidate.
        answered: whether it answered each example exactly, in the examples' order; () where that is not known of all.
        instruction: the line that the examples were put below; None where they were run as they were given.
    """

    kind: Kind
    candidate: int | None = None
    losses: tuple[float, ...] = ()
    exact_match: float | None = None
    weights: dict[int, float] = field(default_factory=dict)
    answered: tuple[bool, ...] = ()
    instruction: str | None = None

    @property
    def examples(self) -> int:
        """How many examples it was run on."""
        return len(self.losses)

    @property
    def loss(self) -> float | None:
        """The mean of `losses`."""
        return fmean(self.losses) if self._is_measured else None

    @property
    def probability(self) -> float | None:
        """The mean over the examples of the geometric mean of the probabilities of the answer's tokens, in [0, 1].

        One line that goes wrong costs it at most its share, where it can outweigh all the others in the loss.
        """
        return fmean(math.exp(-loss) for loss in self.losses) if self._is_measured else None

    @property
    def _is_measured(self) -> bool:
        return bool(self.losses) and all(map(math.isfinite, self.losses))

    @property
    def key(self) -> tuple[bool, float, int, float]:
        """Sorts the best first: by exact answers, which are what is wanted, and where these tie by probability.

        Who was given up before the last example stands behind who was not, and the sooner the farther.
        """
        unlikely = math.inf if self.probability is None else -self.probability
        return (self.exact_match is None, -(self.exact_match or 0.0), -self.examples, unlikely)
