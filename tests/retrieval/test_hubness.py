"""Hubs: what is near to everything is told from what is near to its own."""

import numpy as np
import pytest

from registry.models import Adapter
from retrieval import hubness
from retrieval.hubness import occurrence, sample_warnings
from retrieval.models import ServedSpace
from tests.retrieval.rows import add_centroid, make_expert, text_space, unit_rows

EXPERTS = 20


def normalised(vector):
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def test_the_mean_of_everything_occurs_everywhere_and_an_expert_where_it_belongs():
    experts = np.eye(EXPERTS, dtype=np.float32)
    queries = np.repeat(experts, 3, axis=0)
    assert occurrence(normalised(experts.mean(axis=0)), experts, queries) == 1
    others = experts[1:]
    assert occurrence(experts[0], others, queries) == pytest.approx(1 / EXPERTS)


@pytest.fixture
def pool(monkeypatch):
    """Experts, and background texts near to each of them."""
    vectors = unit_rows(EXPERTS, seed=0)
    near = np.stack([normalised(row) for row in vectors + 0.5 * unit_rows(EXPERTS, seed=1)])
    monkeypatch.setattr(hubness, "MIN_POOL", 10)
    monkeypatch.setattr(hubness, "_background", lambda encoder: near)
    monkeypatch.setattr(hubness, "heads", lambda: hubness.Revision.objects.filter(head_of__isnull=False))
    ServedSpace.objects.create(pk=1, space=text_space())
    for number, vector in enumerate(vectors):
        add_centroid(make_expert(f"ada/e{number:02}"), vector)
    return vectors


def warned(name, vector):
    add_centroid(make_expert(name), vector)
    return sample_warnings(Adapter.objects.get(full_name=name).head)


@pytest.mark.django_db
def test_an_expert_that_is_near_to_everything_is_told(pool):
    [warning] = warned("mal/hub", normalised(pool.mean(axis=0)))
    assert warning["code"] == "hub"
    assert "20 experts for 100%" in warning["message"]
    assert warned("bo/honest", unit_rows(1, seed=5)[0]) == []


@pytest.mark.django_db
def test_what_others_hide_is_not_told_by_it(pool):
    Adapter.objects.update(visibility="private")
    assert warned("mal/hub", normalised(pool.mean(axis=0))) == []


@pytest.mark.django_db
def test_an_expert_without_samples_is_no_hub():
    assert sample_warnings(make_expert("ada/plain").head) == []


@pytest.mark.django_db
def test_what_stands_where_another_contributors_expert_stands_is_told(pool):
    """However it came there; with samples copied in another order, say."""
    [warning] = warned("mal/copy", normalised(pool[3] + 0.001 * pool[4]))
    assert warning["code"] == "samples_copied"
    assert "ada/e03" in warning["message"]
    assert warned("ada/second", pool[3]) == []
    assert warned("bo/alike", normalised(pool[3] + 0.1 * pool[4])) == []
    Adapter.objects.update(visibility="private")
    assert warned("eve/copy", pool[3]) == []
