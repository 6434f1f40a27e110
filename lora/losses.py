"""What a curve of losses says in two numbers."""

from collections.abc import Sequence

# Steps whose losses are averaged: single ones jump with their samples.
MEAN_OF = 10


def ends(losses: Sequence[float]) -> tuple[float, float]:
    """Return the means of the first and of the last `MEAN_OF` losses, of which there is at least one."""
    first, last = losses[:MEAN_OF], losses[-MEAN_OF:]
    return sum(first) / len(first), sum(last) / len(last)
