"""What every engine's index does. Who imports these tests has a fixture `build`: (ids, vectors) -> the index."""

import numpy as np
import pytest

from tests.retrieval.rows import unit_rows

DIM = 8
IDS = np.arange(60) * 3 + 5


@pytest.fixture(scope="module")
def vectors():
    rows = unit_rows(len(IDS), seed=0, dim=DIM)
    rows[7] = rows[8]
    return rows


@pytest.fixture(scope="module")
def index(build, vectors):
    return build(IDS, vectors)


def nearest(vectors, query, positions, count):
    scores = vectors[positions] @ query
    return np.sort(scores)[::-1][:count]


def test_it_knows_what_it_holds(index, vectors):
    assert (len(index), index.dim) == (len(IDS), DIM)
    assert index.ids.tolist() == IDS.tolist()
    assert index.positions_of(np.array([5, 6, 8, 999, 0])).tolist() == [0, -1, 1, -1, -1]
    np.testing.assert_array_equal(index.vectors(np.array([59, 0, 3, 3])), vectors[[59, 0, 3, 3]])
    assert index.vectors(np.array([], dtype=np.int64)).shape == (0, DIM)


@pytest.mark.parametrize("selected", [range(60), range(0, 60, 2), [4, 59], [7], []], ids=len)
@pytest.mark.parametrize("count", [1, 10, 100])
def test_the_best_of_the_selected_come_best_first(index, vectors, selected, count):
    positions = np.array(selected, dtype=np.int64)
    for query in unit_rows(3, seed=1, dim=DIM):
        scores, found = index.search(query, count, index.select(positions))
        assert set(found.tolist()) <= set(positions.tolist())
        assert len(set(found.tolist())) == len(found)
        np.testing.assert_allclose(scores, nearest(vectors, query, positions, count), atol=1e-5)
        np.testing.assert_allclose(scores, vectors[found] @ query, atol=1e-5)


def test_equal_vectors_are_both_found(index, vectors):
    found = index.search(vectors[7], 2, index.select(np.arange(60)))[1]
    assert sorted(found.tolist()) == [7, 8]


def test_no_number_is_made_up_for_a_query_that_is_none(index):
    scores, found = index.search(np.full(DIM, np.nan, dtype=np.float32), 3, index.select(np.arange(60)))
    assert len(scores) == len(found)
    assert set(found.tolist()) <= set(range(60))
