"""The index in Milvus: the contract of every index, and a site that answers the same; on Milvus Lite, same calls."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from django.contrib.auth.models import AnonymousUser

from config import backing
from registry.errors import NotReady
from retrieval import live, milvus, snapshots
from retrieval.live import current_view
from retrieval.models import IndexSnapshot
from tests.journeys.server import free_port, wait_for
from tests.retrieval.index_contract import *  # noqa: F403 (the tests of every engine)
from tests.retrieval.rows import add_centroid, make_expert, publish, unit_rows


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A private Milvus Lite."""
    port, folder = free_port(), tmp_path_factory.mktemp("milvus")
    command = [
        str(Path(sys.executable).with_name("milvus-lite")),
        "server",
        "--data-dir",
        str(folder),
        "--port",
        str(port),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: server.poll() is not None or answers(port), 120, "Milvus Lite to answer")
        assert server.poll() is None, (folder / "log").read_text()
        yield backing.vector_engine({"VECTOR_ENGINE_URL": f"milvus://127.0.0.1:{port}"})
    finally:
        for client in milvus._clients.values():
            client.close()
        milvus._clients.clear()
        server.terminate()
        server.wait(30)


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(autouse=True)
def _engine(settings, address, tmp_path, monkeypatch):
    settings.VECTOR_ENGINE = address
    settings.DATA_DIR = tmp_path
    monkeypatch.setattr(snapshots, "MIN_TAIL", 4)
    monkeypatch.setattr(live, "SNAPSHOT_POLL_S", 0)


@pytest.fixture(scope="module")
def build(address, request):
    from django.conf import settings

    def make(ids, vectors):
        before, settings.VECTOR_ENGINE = settings.VECTOR_ENGINE, address
        # One that is not wanted is removed, one that lacks is added.
        held = {int(pk): vector for pk, vector in zip(ids, vectors, strict=True)}
        milvus.fill("contract", np.array([1, *ids[:9]]), vectors.shape[1], lambda some: vectors[: len(some)])
        client = milvus._clients[address["uri"]]
        client.upsert(milvus.collection_of("contract"), [{"id": pk, "vector": held[pk]} for pk in ids[:9].tolist()])
        milvus.fill("contract", ids, vectors.shape[1], lambda some: np.stack([held[pk] for pk in some.tolist()]))
        index = milvus.load("contract", vectors.shape[1])
        settings.VECTOR_ENGINE = before
        return index

    return make


def add_experts(first, count):
    return [
        add_centroid(make_expert(f"ada/e{number:02}", tags=["odd"] if number % 2 else []), vector)
        for number, vector in enumerate(unit_rows(count, seed=first), first)
    ]


def everything(filters=()):
    view = current_view()
    rows, scores = view.search(unit_rows(1, seed=99)[0], 100, view.select(AnonymousUser().pk, filters))
    return list(zip(view.pool.rows["name"][rows], scores, strict=True))


@pytest.mark.django_db
def test_a_site_answers_the_same_from_it():
    odd = (("tag", ("odd",)),)
    add_experts(0, 8)
    expected = everything(), everything(odd)
    snapshot = snapshots.build_if_due()
    assert (snapshot.engine, snapshot.count, snapshot.dim) == ("milvus", 8, 384)
    assert (everything(), everything(odd)) == expected
    assert current_view().tail_count == 0
    add_experts(8, 2)
    assert current_view().tail_count == 2
    assert len(everything()) == 10
    gone = everything()[0][0]
    adapter = current_view().pool.rows["adapter"][current_view().pool.rows["name"] == gone][0]
    expert = type(snapshot.space)._meta.apps.get_model("registry", "Adapter").objects.get(pk=adapter)
    publish(expert, yanked_at=expert.created_at)
    assert gone not in dict(everything())
    milvus.drop(snapshot.space_id)


@pytest.mark.django_db
def test_a_collection_that_lost_vectors_is_passed_over(caplog):
    add_experts(0, 6)
    expected = everything()
    snapshot = snapshots.build_if_due()
    milvus.drop(snapshot.space_id)
    live.forget()
    assert everything() == expected
    assert current_view().index is None
    assert "passed over" in caplog.text


@pytest.mark.django_db
def test_readiness_tells_of_a_milvus_that_went_away(settings):
    add_experts(0, 6)
    snapshot = snapshots.build_if_due()
    assert live.index_status()["snapshot"] == snapshot.pk
    settings.VECTOR_ENGINE = {"uri": "http://127.0.0.1:9"}
    with pytest.raises(NotReady, match="vector engine"):
        live.index_status()
    with pytest.raises(NotReady, match="vector engine"):
        everything()


@pytest.mark.django_db
def test_snapshots_of_the_other_engine_are_not_its_own(settings):
    add_experts(0, 6)
    settings.VECTOR_ENGINE = None
    snapshots.build_if_due()
    assert snapshots.newest_id(current_view().pool.space)
    settings.VECTOR_ENGINE = {"uri": "http://127.0.0.1:9"}
    assert snapshots.newest_id(current_view().pool.space) is None
    assert [snapshot.engine for snapshot in IndexSnapshot.objects.all()] == ["faiss"]


def test_a_milvus_that_is_away_is_told(settings, caplog):
    settings.VECTOR_ENGINE = {"uri": "http://127.0.0.1:9"}
    with pytest.raises(NotReady, match="vector engine"):
        milvus.load("contract", 8)
    assert "does not answer" in caplog.text
