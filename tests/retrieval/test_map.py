"""The map of the experts: what is drawn, for whom, and that it stays where it was."""

import numpy as np
import pytest
from django.contrib.auth.models import AnonymousUser

from retrieval import map as maps
from retrieval.live import current_view
from retrieval.map import is_worth_drawing, map_of_experts, plane_of
from retrieval.plane import UNIT, Plane, fit
from tests.retrieval.rows import add_centroid, make_expert, make_user, publish, unit_rows


def test_the_plane_keeps_the_two_main_directions():
    points = np.random.default_rng(0).normal(size=(50, 2)) * [5, 2]
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0][:2]
    flat = fit((points @ turned).astype(np.float32)).place(points @ turned) * UNIT
    centred = points - points.mean(0)
    assert np.allclose(np.linalg.norm(flat, axis=1), np.linalg.norm(centred, axis=1), atol=1e-3)
    assert np.allclose(np.abs(np.corrcoef(flat.T)[0, 1]), 0, atol=1e-4)


def test_a_plane_is_turned_and_mirrored_but_not_tilted():
    rows = unit_rows(40, 0, dim=8)
    plane = fit(rows)
    mirrored = Plane(plane.mean, plane.axes[:, ::-1] * [1, -1])
    assert mirrored.version != plane.version
    assert np.allclose(plane.turned_to(mirrored).axes, mirrored.axes)
    other = plane.turned_to(fit(unit_rows(40, 1, dim=8)))
    assert np.allclose(other.axes @ other.axes.T, plane.axes @ plane.axes.T)


def fill(count, start=0, owner="ada", **columns):
    for number, vector in enumerate(unit_rows(count, start + 1), start):
        add_centroid(make_expert(f"{owner}/e{number:02}", **columns), vector)


@pytest.mark.django_db
def test_new_and_hidden_experts_move_nobody(monkeypatch):
    monkeypatch.setattr(maps, "FIRST_FIT", 4)
    fill(9)
    before = map_of_experts(AnonymousUser())
    fill(5, 9)
    fill(30, 0, "bo", visibility="private")
    after = map_of_experts(AnonymousUser())
    assert after["version"] == before["version"]
    assert after["count"] == 14
    assert [after["x"][:9], after["y"][:9]] == [before["x"], before["y"]]
    own = map_of_experts(make_user("bo"))
    assert own["version"] == before["version"]
    assert own["count"] == 44


@pytest.mark.django_db
def test_a_plane_that_is_fitted_anew_is_turned_to_the_last(monkeypatch):
    monkeypatch.setattr(maps, "FIRST_FIT", 4)
    fill(7)
    last = plane_of(current_view())
    fill(1, 7)
    plane = plane_of(current_view())
    assert plane.version != last.version
    # Nothing is left to turn or mirror.
    assert np.allclose(plane.turned_to(last).axes, plane.axes)


@pytest.mark.django_db
def test_the_map_says_what_it_is_coloured_by(client):
    shared = {"base_model": "acme/base"}
    make_expert("ada/one", ["What is one?"], tags=["rare", "maths"], **shared)
    make_expert("ada/two", ["What is two?"], tags=["maths"], **shared)
    assert map_of_experts(AnonymousUser())["count"] == 0
    assert not is_worth_drawing(AnonymousUser())
    assert b'id="map"' not in client.get("/").content
    make_expert("bo/three", ["Count to three."])
    hidden = make_expert("bo/hidden", ["Hide."], visibility="private")
    answer = client.get("/api/v1/map/")
    found = answer.json()
    assert found["names"] == ["ada/one", "ada/two", "bo/three"]
    assert (found["total"], found["count"]) == (3, 3)
    assert [found["base_models"], found["base_model"]] == [["acme/base"], [0, 0, -1]]
    assert [found["tags"], found["tag"]] == [["maths"], [0, 0, -1]]
    assert b'id="map"' in client.get("/").content
    again = client.get("/api/v1/map/", headers={"If-None-Match": answer["ETag"], "Accept-Encoding": "gzip"})
    assert again.status_code == 304
    publish(hidden, visibility="public")
    assert "bo/hidden" in client.get("/api/v1/map/").json()["names"]


@pytest.mark.django_db
def test_a_query_has_its_place_on_the_map(client):
    texts = {"one": "What is one?", "two": "What is two?", "three": "Count to three."}
    for name, text in texts.items():
        make_expert(f"ada/{name}", [text])
    drawn = client.get("/api/v1/map/").json()
    request = {"text": texts["three"], "router": "lora_retriever", "explain": True}
    found = client.post("/api/v1/retrieve/", request, content_type="application/json").json()
    place = found["results"][0]["evidence"]["map"]
    at = drawn["names"].index("ada/three")
    assert place["version"] == drawn["version"]
    assert abs(place["x"] - drawn["x"][at]) <= 1
    assert abs(place["y"] - drawn["y"][at]) <= 1
