"""Weight searches: they find what they look for, stay in bounds, and can be resumed from their losses alone."""

import math

import numpy as np
import pytest

from lora.errors import LoraError
from lora.search import STRATEGIES, Search, Space, minimise

SPACE = Space((0.5, 0.5, 0.5), seed=7)
ASKED_SECOND = (0.42625334446663, 0.41585871213874, 0.42959509218764)
OPTIMUM = np.array([0.9, -0.4, 0.2])


def bowl(weights):
    """Steeper in one direction than in the others, and turned."""
    turned = np.array([[1.0, 0.8, 0.0], [0.8, 1.2, 0.3], [0.0, 0.3, 0.7]])
    return float((np.array(weights) - OPTIMUM) @ turned @ (np.array(weights) - OPTIMUM))


@pytest.mark.parametrize(("strategy", "share"), [("evolution", 0.2), ("swarm", 0.6)])
def test_forty_trials_come_near_to_the_optimum(strategy, share):
    left = [minimise(strategy, Space(SPACE.start, seed=seed), bowl, 40).loss / bowl(SPACE.start) for seed in range(15)]
    assert np.median(left) < share
    assert max(left) <= 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_begins_at_its_start_and_keeps_to_its_bounds(strategy):
    space = Space((5.0, -5.0), low=-1, high=1, seed=1)
    asked = []
    minimise(strategy, space, lambda weights: asked.append(weights) or -sum(weights), 60)
    assert asked[0] == (1, -1)
    assert np.abs(asked).max() <= 1
    assert len(set(asked)) > 20


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_losses_told_so_far_are_its_whole_state(strategy):
    whole = Search(strategy, SPACE)
    for _ in range(30):
        whole.tell(bowl(whole.ask))
        resumed = Search(strategy, SPACE, whole.found.losses)
        assert (resumed.ask, resumed.found) == (whole.ask, whole.found)
    assert Search(strategy, Space(SPACE.start, seed=8), whole.found.losses).ask != whole.ask


def test_asks_are_the_same_for_ever():
    """A search that is stored today must ask the same after an upgrade."""
    search = Search("evolution", SPACE)
    search.tell(1.0)
    assert search.ask == pytest.approx(ASKED_SECOND, abs=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_losses_that_are_no_numbers_count_as_the_worst(strategy):
    def broken(weights):
        return bowl(weights) if weights[0] > 0.4 else math.nan

    assert math.isfinite(minimise(strategy, SPACE, broken, 30).loss)
    with pytest.raises(LoraError, match="finite loss"):
        minimise(strategy, SPACE, lambda weights: math.inf, 10)
