"""The map on the first page."""

import numpy as np
import pytest
from django.contrib.auth.models import AnonymousUser

from retrieval.map import map_of_experts, plane
from tests.retrieval.rows import make_expert


def test_the_plane_keeps_the_two_main_directions():
    points = np.random.default_rng(0).normal(size=(50, 2)) * [5, 2]
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0][:2]
    flat = plane((points @ turned).astype(np.float32))
    centred = points - points.mean(0)
    assert np.allclose(np.linalg.norm(flat, axis=1), np.linalg.norm(centred, axis=1), atol=1e-5)
    assert np.allclose(np.abs(np.corrcoef(flat.T)[0, 1]), 0, atol=1e-6)


@pytest.mark.django_db
def test_the_map_holds_what_the_caller_may_see(client):
    for name in ("ada/one", "ada/two"):
        make_expert(name, [f"What is {name}?"])
    assert map_of_experts(AnonymousUser()) is None
    make_expert("ada/three", ["Count to three."])
    [group] = map_of_experts(AnonymousUser())["groups"]
    assert sorted(name for _, _, name in group["points"]) == ["ada/one", "ada/three", "ada/two"]
    assert b"map-data" in client.get("/").content
