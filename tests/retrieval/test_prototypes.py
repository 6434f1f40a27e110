"""Prototype rows: written once, exactly one of rows and file, the centroid of all samples."""

import numpy as np
import pytest
from django.db import IntegrityError, transaction
from safetensors.numpy import load

from registry.errors import NotFound
from registry.models import Blob
from registry.storage import put_bytes, read_blob
from retrieval.encoders import current_encoder
from retrieval.hybrid import served_version
from retrieval.models import Prototype
from retrieval.prototypes import as_safetensors, find_prototype, rows_of, store_modules, store_text
from retrieval.similar import arrow_similarity
from tests.retrieval.rows import make_expert, text_space

pytestmark = pytest.mark.django_db

SUMS = ["What is 12 + 30?", "Add 4 and 5.", "Add 4 and 5."]


def test_text_rows_are_every_sample_and_their_normalised_mean():
    revision = make_expert("ada/sums", SUMS).head
    samples, centroid = (rows_of(find_prototype(revision, kind)) for kind in ("samples", "centroid"))
    np.testing.assert_allclose(samples, current_encoder().encode(SUMS), atol=1e-6)
    mean = samples.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(centroid, [mean / np.linalg.norm(mean)], atol=1e-6)
    spaces = dict(revision.prototypes.values_list("kind", "space_id"))
    encoder = current_encoder().space_id
    text_kinds = dict.fromkeys(("samples", "centroid", "middle"), encoder)
    assert spaces == text_kinds | {"hybrid": served_version(encoder).space_id}
    middle = rows_of(find_prototype(revision, "middle"))
    np.testing.assert_allclose(middle, current_encoder().encode_both(SUMS)[1], atol=1e-6)


def test_a_second_run_of_the_job_changes_nothing():
    revision = make_expert("ada/sums", SUMS).head
    store_modules(revision, "arrow", {"layer": np.ones(4)})
    before = list(revision.prototypes.values_list("pk", "vectors", "blob"))
    store_text(revision, ["something else"])
    store_modules(revision, "arrow", {"layer": np.zeros(4)})
    assert list(revision.prototypes.values_list("pk", "vectors", "blob")) == before
    # A run that died between the two rows is completed.
    revision.prototypes.filter(kind="samples").delete()
    store_text(revision, SUMS)
    assert rows_of(find_prototype(revision, "samples")).shape == (3, 384)
    assert [row.kind for row in revision.prototypes.all()] == ["arrow", "centroid", "hybrid", "middle", "samples"]


def test_module_vectors_are_one_file():
    revision = make_expert("ada/weights").head
    vectors = {"b.k": np.arange(6.0).reshape(2, 3), "a.q": np.arange(4.0)}
    store_modules(revision, "arrow", vectors)
    row = find_prototype(revision, "arrow")
    assert (row.count, row.dim, row.space) == (2, 4, None)
    found = load(as_safetensors(row))
    assert found.keys() == vectors.keys()
    assert found["b.k"].tolist() == vectors["b.k"].tolist()
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    assert read_blob(row.blob) == as_safetensors(row)


def test_an_adapter_without_such_modules_has_no_row():
    revision = make_expert("ada/conv").head
    store_modules(revision, "arrow", {})
    with pytest.raises(NotFound):
        find_prototype(revision, "arrow")


@pytest.mark.parametrize(
    "columns",
    [
        {"vectors": b"1234", "blob": "blob", "space": "space"},
        {"space": "space"},
        {"vectors": b"1234"},
        {"blob": "blob", "space": "space"},
        {"vectors": b"1234", "space": "space", "count": 0},
    ],
)
def test_the_database_refuses_a_row_that_is_not_one_thing(columns):
    places = {"blob": put_bytes(b"x"), "space": text_space()}
    values = {key: places.get(value, value) for key, value in columns.items()}
    with pytest.raises(IntegrityError), transaction.atomic():
        Prototype.objects.create(**{"count": 1, "dim": 1, "kind": "k", "revision": make_expert("ada/x").head} | values)
    assert Blob.objects.count() == 1


@pytest.mark.parametrize("place", ["blob", "space"])
def test_the_database_keeps_a_kind_once(place):
    revision = make_expert("ada/x").head
    values = {"blob": put_bytes(b"x")} if place == "blob" else {"space": text_space(), "vectors": b"1234"}
    Prototype.objects.create(revision=revision, kind="k", count=1, dim=1, **values)
    with pytest.raises(IntegrityError), transaction.atomic():
        Prototype.objects.create(revision=revision, kind="k", count=1, dim=1, **values)


def test_arrow_similarity_is_blind_to_signs_and_lengths_and_takes_shared_modules():
    one = {"a": np.array([3.0, 4.0]), "b": np.array([1.0, 0.0]), "c": np.array([1.0])}
    other = {"a": np.array([-0.3, -0.4]), "b": np.array([0.0, 5.0]), "d": np.array([1.0])}
    assert arrow_similarity(one, other) == 0.5
    assert arrow_similarity(one, {"d": np.array([1.0])}) is None
    assert arrow_similarity(one, {"c": np.array([0.0])}) is None
    assert arrow_similarity(one, {"a": np.array([1.0, 0.0, 0.0])}) is None
