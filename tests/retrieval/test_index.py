"""FAISS's index: exact, and through a graph, from memory and from a file."""

from pathlib import Path

import numpy as np
import pytest

from retrieval import index as index_module
from retrieval.index import VectorIndex
from tests.retrieval.index_contract import *  # noqa: F403 (the tests of every engine)
from tests.retrieval.rows import unit_rows


@pytest.fixture(autouse=True)
def _graphs_pay(monkeypatch):
    """Also those of a few vectors."""
    monkeypatch.setattr(index_module, "VISITED", 0)


@pytest.fixture(scope="module", params=["flat", "graph", "flat file", "graph file"])
def build(request, tmp_path_factory):
    def make(ids, vectors):
        parts = [(ids[:20], vectors[:20]), (ids[20:], vectors[20:])]
        made = VectorIndex.build(parts, graph="graph" in request.param)
        if "file" not in request.param:
            return made
        path: Path = tmp_path_factory.mktemp("index") / "it.faiss"
        made.write(path)
        return VectorIndex.read(path, made.candidates)

    return make


@pytest.mark.parametrize("ids", [[1, 1, 2], [2, 1, 3], [1, 2]])
def test_ids_are_one_ascending_per_vector(ids):
    with pytest.raises(ValueError, match="ascending"):
        VectorIndex.build([(np.array(ids), unit_rows(3, seed=0))])


def test_a_file_is_not_copied_into_memory(tmp_path):
    path = tmp_path / "it.faiss"
    VectorIndex.build([(np.arange(500), unit_rows(500, seed=0))], graph=True).write(path)
    index = VectorIndex.read(path)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert len(index.search(unit_rows(1, seed=1)[0], 3, index.select(np.arange(500)))[1]) == 3


def test_a_graph_looks_at_as_many_as_it_takes(monkeypatch):
    rows, queries = unit_rows(2000, seed=0, dim=32), unit_rows(50, seed=1, dim=32)
    index = VectorIndex.build([(np.arange(2000), rows)], graph=True)
    monkeypatch.setattr(index_module, "SEARCH_CANDIDATES", (10, 400, 4000))
    recall = index.tune(queries)
    assert recall >= 0.99
    assert index.candidates == 400
    everything, exact = index.select(np.arange(2000)), rows @ queries.T
    best = [set(np.argsort(-scores)[:10].tolist()) for scores in exact.T]
    found = [set(index.search(query, 10, everything)[1].tolist()) for query in queries]
    assert recall == pytest.approx(np.mean([len(mine & own) / 10 for mine, own in zip(found, best, strict=True)]))


@pytest.mark.parametrize(("share", "by_graph"), [(0.005, False), (0.06, True), (0.5, True)])
def test_what_few_may_see_is_compared_one_by_one(share, by_graph, monkeypatch):
    rows, queries = unit_rows(2000, seed=0, dim=32), unit_rows(20, seed=1, dim=32)
    index = VectorIndex.build([(np.arange(2000), rows)], graph=True)
    index.candidates = 256
    asked = []
    search = index_module._found
    monkeypatch.setattr(index_module, "_found", lambda *given: asked.append(given[0]) or search(*given))
    mine = np.flatnonzero(np.random.default_rng(0).random(2000) < share)
    selected = index.select(mine)
    hits = []
    for query in queries:
        best = mine[np.argsort(-(rows[mine] @ query))[:5]]
        hits.append(np.isin(best, index.search(query, 5, selected)[1]).mean())
    assert {one is index._graph for one in asked} == {by_graph}
    assert np.mean(hits) >= (0.98 if by_graph else 1)


def test_a_graph_that_visits_more_than_there_is_to_compare_is_not_asked(monkeypatch):
    monkeypatch.setattr(index_module, "VISITED", 25)
    index = VectorIndex.build([(np.arange(2000), unit_rows(2000, seed=0, dim=32))], graph=True)
    assert index._pays(index.select(np.arange(2000)), index.candidates)
    assert not index._pays(index.select(np.arange(1000)), 2 * index.candidates)
