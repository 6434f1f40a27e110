"""Search for weights by asking for losses: generators that yield weights and are sent the loss of each.

Everything follows from the seed and the losses told so far, so that a search is resumed by telling them again
(`Search`): its whole state is a list of numbers. Random numbers come from Philox's raw bits, the only ones that numpy
promises never to change.

`evolution` is a (1+1) evolution strategy with the smoothed success rule: Igel, Suttorp, Hansen, "A computational
efficient covariance matrix update and a (1+1)-CMA for evolution strategies", GECCO 2006, section 2, without the
covariance, which a few dozen losses do not teach.
`swarm` is Model Swarms, arXiv:2410.11163, section 3, with the weights of the inputs in the place of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lora.errors import LoraError

Vector: TypeAlias = NDArray[np.float64]
Strategy: TypeAlias = Generator[Vector, float, None]

# The success rule of the (1+1) strategy, as its paper sets it for one parent and one child.
TARGET_SUCCESS = 2 / 11
SUCCESS_RATE = 1 / 12
# Model Swarms: the most that each of its pulls counts; it draws their shares anew for every step.
INERTIA, OWN_BEST, BEST, WORST = 0.5, 1.0, 1.0, 0.5
WORST_SHORTER = 0.95  # by which the step shrinks from round to round


@dataclass(frozen=True)
class Space:
    """Where weights are looked for.

    Attributes:
        start: (n,), where the search begins.
        low, high: bounds of every weight; `start` is cut to them.
        seed: decides every random number.
    """

    start: tuple[float, ...]
    low: float = -1.5
    high: float = 1.5
    seed: int = 0

    @property
    def n(self) -> int:
        """How many weights there are."""
        return len(self.start)

    def cut(self, weights: Vector) -> Vector:
        """Return weights within the bounds."""
        return np.clip(weights, self.low, self.high)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        weights: with the lowest loss, (n,).
        loss: theirs; math.inf where no loss was a finite number.
        losses: of every weights asked for, in order.
    """

    weights: tuple[float, ...]
    loss: float
    losses: tuple[float, ...]


def evolution(space: Space) -> Strategy:
    """Try a random step from the best weights so far; longer steps after successes, shorter ones after failures."""
    best, step, success = space.cut(np.array(space.start)), (space.high - space.low) / 10, TARGET_SUCCESS
    best_loss = yield best
    damping = 1 + space.n / 2
    tries = 0
    while True:
        tries += 1
        child = space.cut(best + step * _normal(space.seed, tries, space.n))
        loss = yield child
        succeeded = loss <= best_loss
        if succeeded:
            best, best_loss = child, loss
        success += SUCCESS_RATE * (succeeded - success)
        step *= math.exp((success - TARGET_SUCCESS) / (1 - TARGET_SUCCESS) / damping)


def swarm(space: Space) -> Strategy:
    """Let particles fly: each is drawn to its own best place and to the best of all, and away from the worst.

    They begin at the start, at the base alone, and at every input alone.
    """
    places = _nest(space)
    velocities = [np.zeros(space.n) for _ in places]
    own, own_loss = [place.copy() for place in places], [math.inf] * len(places)
    worst, worst_loss, length, turn = places[0], -math.inf, 1.0, 0
    while True:
        for index, place in enumerate(places):
            loss = yield place
            if loss < own_loss[index]:
                own[index], own_loss[index] = place.copy(), loss
            if worst_loss < loss < math.inf:
                worst, worst_loss = place.copy(), loss
        best = own[int(np.argmin(own_loss))]
        for index, place in enumerate(places):
            turn += 1
            share = _uniform(space.seed, turn, 4)
            pulls = (velocities[index], own[index] - place, best - place, place - worst)
            scaled = [
                most * s * pull for most, s, pull in zip((INERTIA, OWN_BEST, BEST, WORST), share, pulls, strict=True)
            ]
            velocities[index] = sum(scaled[1:], scaled[0])
            places[index] = space.cut(place + length * velocities[index])
        length *= WORST_SHORTER


STRATEGIES: dict[str, Callable[[Space], Strategy]] = {"evolution": evolution, "swarm": swarm}


def _nest(space: Space) -> list[Vector]:
    return [space.cut(place) for place in (np.array(space.start), np.zeros(space.n), *np.eye(space.n))]


class Search:
    """A search that stands still until it is told a loss.

    Args:
        losses: those told before it stood still the last time, in order.
    """

    def __init__(self, strategy: str, space: Space, losses: Sequence[float] = ()) -> None:
        self._space = space
        self._strategy = STRATEGIES[strategy](space)
        self._asked = next(self._strategy)
        self._best = self._asked
        self._losses: list[float] = []
        for loss in losses:
            self.tell(loss)

    @property
    def ask(self) -> tuple[float, ...]:
        """The weights whose loss is wanted next."""
        return tuple(map(float, self._asked))

    @property
    def found(self) -> Found:
        """The best so far; its weights are the first ones while no loss is known."""
        return Found(tuple(map(float, self._best)), min(self._losses, default=math.inf), tuple(self._losses))

    def tell(self, loss: float) -> None:
        """Take the loss of `ask`, and ask for the next one. A loss that is not finite counts as the worst."""
        loss = loss if math.isfinite(loss) else math.inf
        if loss < min(self._losses, default=math.inf):
            self._best = self._asked
        self._losses.append(loss)
        self._asked = self._strategy.send(loss)


def minimise(
    strategy: str,
    space: Space,
    loss: Callable[[tuple[float, ...]], float],
    budget: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Found:
    """Return the best of `budget` weights.

    Raises: LoraError: not one loss was a finite number.
    """
    search = Search(strategy, space)
    for done in range(budget):
        search.tell(loss(search.ask))
        progress((done + 1) / budget)
    if search.found.loss == math.inf:
        raise LoraError("No weights that were tried gave a finite loss: the examples or the adapters are broken.")
    return search.found


def _uniform(seed: int, turn: int, count: int) -> Vector:
    """Return numbers, uniform in (0, 1), that depend on their place in the search alone; (count,)."""
    key = np.array([seed, turn], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(count)
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _normal(seed: int, turn: int, count: int) -> Vector:
    """Return standard normal numbers in the same way (Box-Muller); (count,)."""
    u = _uniform(seed, turn, 2 * count)
    normal: Vector = np.sqrt(-2 * np.log(u[:count])) * np.cos(2 * np.pi * u[count:])
    return normal
