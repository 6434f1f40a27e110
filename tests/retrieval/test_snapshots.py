"""Snapshots: published whole, verified when read, passed over when damaged, swapped without a change of answers."""

import numpy as np
import pytest

from registry.models import Adapter
from retrieval import live, snapshots
from retrieval.index import VectorIndex
from retrieval.live import current_view
from retrieval.models import IndexSnapshot, Prototype
from tests.retrieval.rows import add_centroid, make_expert, publish, text_space, unit_rows

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _private_folder(settings, tmp_path, monkeypatch):
    settings.DATA_DIR = tmp_path
    monkeypatch.setattr(snapshots, "MIN_TAIL", 4)
    monkeypatch.setattr(live, "SNAPSHOT_POLL_S", 0)


def add_experts(first, count):
    for number, vector in enumerate(unit_rows(count, seed=first), first):
        add_centroid(make_expert(f"ada/e{number:02}"), vector)


def everything(query):
    view = current_view()
    rows, scores = view.search(query, 100, view.select(None))
    return list(zip(view.pool.rows["name"][rows], scores, strict=True))


def test_one_is_due_when_the_tail_outgrows_the_rest():
    add_experts(0, 4)
    assert not snapshots.is_due()
    assert snapshots.build_if_due() is None
    add_experts(4, 1)
    assert snapshots.is_due()
    snapshot = snapshots.build_if_due()
    assert (snapshot.count, snapshot.dim) == (5, 384)
    assert not snapshots.is_due()
    assert snapshots.build_if_due() is None
    assert [path.suffix for path in snapshots.folder().iterdir()] == [".faiss"]


def test_answers_are_the_same_with_it_after_it_and_without_it():
    [query] = unit_rows(1, seed=99)
    add_experts(0, 10)
    before = everything(query)
    snapshots.build_if_due()
    assert everything(query) == before
    view = current_view()
    assert view.tail_count == 0
    assert len(view.index) == 10
    add_experts(10, 3)
    assert current_view().tail_count == 3
    assert len(everything(query)) == 13
    after = everything(query)
    live.forget()
    assert everything(query) == after


def test_what_left_the_pool_is_not_found_in_it():
    [query] = unit_rows(1, seed=99)
    add_experts(0, 6)
    snapshots.build_if_due()
    gone = everything(query)[0][0]
    assert len(everything(query)) == 6
    adapter = current_adapter(gone)
    publish(adapter, yanked_at=adapter.created_at)
    assert gone not in [name for name, _ in everything(query)]


def current_adapter(name):
    return Adapter.objects.get(full_name=name)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "swap"])
def test_a_damaged_one_is_passed_over(damage, caplog):
    [query] = unit_rows(1, seed=99)
    add_experts(0, 6)
    expected = everything(query)
    path = snapshots.path_of(snapshots.build_if_due())
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-40])
    elif damage == "remove":
        path.unlink()
    else:
        VectorIndex.build([(np.arange(6), unit_rows(6, seed=50))]).write(path)
    live.forget()
    assert everything(query) == expected
    assert current_view().index is None
    assert "passed over" in caplog.text


def test_the_previous_one_serves_where_the_newest_is_damaged():
    add_experts(0, 6)
    snapshots.build_if_due()
    add_experts(6, 6)
    snapshots.path_of(snapshots.build_if_due()).write_bytes(b"")
    live.forget()
    view = current_view()
    assert (len(view.index), view.tail_count) == (6, 6)


def test_a_manifest_that_says_something_else_is_not_believed():
    add_experts(0, 6)
    snapshot = snapshots.build_if_due()
    IndexSnapshot.objects.filter(pk=snapshot.pk).update(count=7)
    live.forget()
    assert current_view().index is None


def test_two_newer_ones_replace_an_old_one():
    published = []
    for start in (0, 6, 12, 18):
        add_experts(start, 6)
        published.append(snapshots.build_if_due())
    kept = {snapshot.sha256 for snapshot in published[-2:]}
    assert {path.stem for path in snapshots.folder().iterdir()} == kept
    assert set(IndexSnapshot.objects.values_list("sha256", flat=True)) == kept


def test_status_tells_space_snapshot_and_tail():
    add_experts(0, 6)
    snapshot = snapshots.build_if_due()
    add_experts(6, 1)
    status = live.index_status()
    assert status["ok"]
    assert (status["snapshot"], status["experts"], status["tail"], status["lag"]) == (snapshot.pk, 7, 1, 0)


def test_a_large_pool_is_searched_through_a_graph_which_is_measured(monkeypatch):
    monkeypatch.setattr(snapshots, "GRAPH_FROM", 5)
    add_experts(0, 6)
    expected = everything(unit_rows(1, seed=99)[0])
    snapshot = snapshots.build_if_due()
    assert (snapshot.recall, snapshot.candidates) == (1.0, 64)
    assert current_view().index.candidates == 64
    assert everything(unit_rows(1, seed=99)[0]) == expected


def test_a_graph_that_finds_too_little_is_left_out(monkeypatch, caplog):
    monkeypatch.setattr(snapshots, "GRAPH_FROM", 5)
    monkeypatch.setattr(VectorIndex, "tune", lambda self, queries: 0.5)
    add_experts(0, 6)
    expected = everything(unit_rows(1, seed=99)[0])
    snapshot = snapshots.build_if_due()
    assert (snapshot.recall, snapshot.candidates, snapshot.count) == (0.5, None, 6)
    assert "searching all" in caplog.text
    assert current_view().index.candidates is None
    assert everything(unit_rows(1, seed=99)[0]) == expected


def test_a_graph_is_measured_by_samples_that_are_not_in_it(monkeypatch):
    asked = []
    monkeypatch.setattr(snapshots, "GRAPH_FROM", 4)
    monkeypatch.setattr(VectorIndex, "tune", lambda self, queries: asked.append(queries) or 1.0)
    add_experts(0, 5)
    rows = unit_rows(10, seed=7).reshape(5, 2, 384)
    for adapter, samples in zip(Adapter.objects.select_related("head"), rows, strict=True):
        columns = {"kind": "samples", "space": text_space(), "count": 2, "dim": 384}
        Prototype.objects.create(revision=adapter.head, vectors=samples.tobytes(), **columns)
    snapshots.build_if_due()
    [queries] = asked
    assert queries.tolist() == rows[:, 1].tolist()


def test_snapshots_of_an_older_format_go(tmp_path):
    add_experts(0, 6)
    old = IndexSnapshot.objects.create(
        space_id=current_view().pool.space, format=1, count=6, dim=384, sha256="0" * 64, change_seq=0
    )
    snapshots.folder().mkdir(exist_ok=True)
    snapshots.path_of(old).write_bytes(b"old")
    kept = snapshots.build_if_due()
    assert [path.stem for path in snapshots.folder().iterdir()] == [kept.sha256]
    assert list(IndexSnapshot.objects.all()) == [kept]
