"""Outcomes: what experts scored on the same texts."""

from __future__ import annotations

import numpy as np

from lora.outcomes import Doubles, Floats, Ints, Outcomes
from lora.prototypes import PROTOTYPES


@PROTOTYPES.register(
    "outcomes",
    title="Outcomes",
    summary="Scores on known texts, as callers report them and trials measure them.",
    source="Shnitzer et al. 2023, arXiv:2309.15789; RouterBench, arXiv:2403.12031",
    needs=("outcomes",),
    space="text",
)
def score_table(outcomes: Outcomes, most: int) -> tuple[Floats, Doubles, Ints]:
    """Return the texts that tell experts apart: their unit rows (p, dim), the mean scores (p, n), nan where an expert
    was not measured, and the n experts. Without such texts p is 0.

    Args:
        most: cells of the table; of more, the last texts are taken.
    """
    cells = outcomes.cells
    low, high = np.full(len(outcomes.probes), np.inf), np.full(len(outcomes.probes), -np.inf)
    np.minimum.at(low, cells.probe, cells.score)
    np.maximum.at(high, cells.probe, cells.score)
    told = low < high
    several = max(1, len(np.unique(cells.expert[told[cells.probe]])))
    texts = np.flatnonzero(told)[-max(1, most // several) :]
    chosen = np.isin(cells.probe, texts)
    experts, columns = np.unique(cells.expert[chosen], return_inverse=True)
    table = np.full((len(texts), len(experts)), np.nan)
    table[np.searchsorted(texts, cells.probe[chosen]), columns] = cells.score[chosen]
    return outcomes.probes[texts], table, experts
