"""Asking by vectors of one's own, and by an adapter."""

import json
from unittest.mock import ANY

import numpy as np
import pytest
from django.contrib.auth.models import AnonymousUser
from django.test import Client

from lora.routers import ROUTERS
from registry.errors import Invalid, InvalidVectors, NotFound
from retrieval.encoders import current_encoder
from retrieval.models import Space
from retrieval.services import retrieve
from tests.retrieval.rows import DIM, make_expert, make_user, text_space

pytestmark = pytest.mark.django_db

NOBODY = AnonymousUser()
CAPITALS = ["Name the capital of France.", "What is the capital of Japan?"]
MORE_CAPITALS = ["Capital of Peru?", "Name the capital of Mali."]
SUMS = ["What is 12 + 30?", "Add 4 and 5."]


@pytest.fixture
def space():
    make_expert("ada/capitals", CAPITALS)
    make_expert("bo/sums", SUMS)
    return current_encoder().space_id


@pytest.mark.parametrize(
    "router", [name for name in ROUTERS.names() if "vector" in ROUTERS.get(name).traits["accepts"]]
)
def test_a_vector_of_the_space_is_a_query_whatever_its_length(space, router):
    text = "Name the capital of Peru."
    [by_text] = retrieve(NOBODY, {"text": text, "router": router, "k": 2})["results"]
    [row] = current_encoder().encode([text])
    for factor in (1.0, 1e-30, 1e30):
        vector = (row.astype(float) * factor).tolist()
        answer = retrieve(NOBODY, {"vector": vector, "space": space, "router": router, "k": 2, "explain": True})
        assert (answer["router"], answer["space"]) == (router, space)
        [by_vector] = answer["results"]
        assert [match["adapter"] for match in by_vector["matches"]] == [
            match["adapter"] for match in by_text["matches"]
        ]
        for one, other in zip(by_vector["matches"], by_text["matches"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_vectors_have_one_result_each(space):
    vectors = current_encoder().encode(["Capital of Chile?", "3 + 4 = ?"]).tolist()
    answer = retrieve(NOBODY, {"vectors": vectors, "space": space, "k": 1})
    assert [result["matches"][0]["adapter"] for result in answer["results"]] == ["ada/capitals", "bo/sums"]


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        ([0.1] * (DIM - 1), "384"),
        ([0.1] * (DIM + 1), "384"),
        ([0.0] * DIM, "zero"),
        ([float("inf"), *[0.1] * (DIM - 1)], "finite"),
        ([float("nan"), *[0.1] * (DIM - 1)], "finite"),
        ([10**400, *[0.1] * (DIM - 1)], "too large"),
    ],
)
def test_vectors_that_are_none_of_the_space_are_invalid(space, vector, says):
    with pytest.raises(InvalidVectors, match=says) as refused:
        retrieve(NOBODY, {"vector": vector, "space": space})
    assert refused.value.detail.keys() == {"vector"}
    with pytest.raises(InvalidVectors, match=says) as refused:
        retrieve(NOBODY, {"vectors": [[0.1] * DIM, vector], "space": space})
    assert refused.value.detail.keys() == {"vectors[1]"}


def test_the_answer_has_the_code_of_the_contract(space):
    def ask(body):
        answer = Client().post("/api/v1/retrieve/", json.dumps(body), content_type="application/json")
        return answer.status_code, answer.json()["code"]

    assert ask({"vector": [0.1], "space": space}) == (422, "invalid_vectors")
    assert ask({"vector": [0.1] * DIM, "space": "no@such"}) == (400, "invalid")
    assert ask({"adapter": "ada/none"}) == (404, "not_found")


def test_other_spaces_are_refused_and_the_right_one_is_named(space):
    columns = {"encoder": "other", "revision": "0" * 64, "pooling": "mean", "dim": DIM, "max_tokens": 256}
    Space.objects.create(pk="other@0", **columns)
    for other, says in (("other@0", "does not answer"), ("no@such", "no such space")):
        with pytest.raises(Invalid, match=says) as refused:
            retrieve(NOBODY, {"vector": [0.1] * DIM, "space": other})
        assert space in refused.value.detail["space"]
    assert text_space().pk == space


def test_words_cannot_be_compared_with_vectors(space):
    asked = {"router": "what_the_weight", "params": {"score": "tf_idf"}, "vector": [0.1] * DIM, "space": space}
    with pytest.raises(Invalid, match="send text"):
        retrieve(NOBODY, asked)


# The hybrid router has a space and tests of its own.
IN_THE_ENCODERS_SPACE = [
    name
    for name in ROUTERS.names()
    if "adapter" in ROUTERS.get(name).traits["accepts"] and ROUTERS.get(name).traits["prototype"] != "hybrid"
]


@pytest.mark.parametrize("router", IN_THE_ENCODERS_SPACE)
def test_what_is_like_an_adapter_is_not_the_adapter_itself(space, router):
    make_expert("cy/capitals", MORE_CAPITALS)
    [result] = retrieve(NOBODY, {"adapter": "ada/capitals", "router": router, "k": 5, "explain": True})["results"]
    assert [match["adapter"] for match in result["matches"]][:1] == ["cy/capitals"]
    assert "ada/capitals" not in [match["adapter"] for match in result["matches"]]
    assert np.isclose(sum(match["weight"] for match in result["matches"]), 1)


def test_an_adapter_can_be_compared_by_its_words(space):
    make_expert("cy/capitals", MORE_CAPITALS)
    asked = {"adapter": "ada/capitals", "router": "what_the_weight", "params": {"score": "tf_idf"}, "k": 1}
    [result] = retrieve(NOBODY, asked)["results"]
    assert result["matches"][0] == {
        "adapter": "cy/capitals",
        "score": ANY,
        "weight": 1.0,
        "revision": ANY,
        "base_model": "",
    }


def test_adapters_that_are_hidden_or_without_samples_are_no_question(space):
    make_expert("bo/secret", CAPITALS, visibility="private")
    make_expert("bo/silent")
    with pytest.raises(NotFound):
        retrieve(NOBODY, {"adapter": "bo/secret"})
    assert retrieve(make_user("bo"), {"adapter": "bo/secret"})["results"][0]["matches"]
    with pytest.raises(Invalid, match="no samples"):
        retrieve(NOBODY, {"adapter": "bo/silent"})


def test_alone_an_adapter_is_like_nothing():
    make_expert("ada/capitals", CAPITALS)
    for router in ("lora_retriever", "retrieval_of_experts"):
        [result] = retrieve(NOBODY, {"adapter": "ada/capitals", "router": router})["results"]
        assert result == {"abstained": True, "reason": "no_experts", "matches": []}
