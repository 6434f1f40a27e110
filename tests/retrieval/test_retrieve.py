"""`retrieve`: answers, filters, abstention, evidence; and every field that is refused."""

import pytest
from django.contrib.auth.models import AnonymousUser

from lora.errors import InvalidParams, UnknownRouter
from registry.errors import Invalid
from registry.models import BaseModel
from retrieval.request import MAX_CHARS
from retrieval.services import retrieve
from tests.retrieval.rows import add_revision, make_expert, make_user, publish

pytestmark = pytest.mark.django_db

CAPITALS = ["Name the capital of France.", "What is the capital of Japan?"]
SUMS = ["What is 12 + 30?", "Add 4 and 5."]
VERBS = ["Conjugate 'to go' in the past tense.", "Past tense of 'eat'?"]
NOBODY = AnonymousUser()
# What is nobody's task: all experts that may answer do.
ANYTHING = {"text": "anything", "params": {"abstain": False}}


@pytest.fixture
def experts():
    return {
        "capitals": make_expert("ada/capitals", CAPITALS, license="mit", tags=["qa", "geo"], base_model="org/base"),
        "sums": make_expert("bo/sums", SUMS, license="apache-2.0", tags=["math"], base_model="org/other"),
        "verbs": make_expert("ada/verbs", VERBS, tags=["qa"], base_model="org/base"),
    }


def names(answer: dict) -> list[str]:
    [result] = answer["results"]
    return [match["adapter"] for match in result["matches"]]


def test_the_nearest_expert_comes_first(experts):
    answer = retrieve(NOBODY, {"router": "lora_retriever", "text": "Name the capital of Peru."})
    [result] = answer["results"]
    first = result["matches"][0]
    assert answer["router"] == "lora_retriever"
    assert answer["space"].startswith("all-MiniLM-L6-v2@")
    assert answer["took_ms"].keys() == {"encode", "search"}
    assert first["adapter"] == "ada/capitals"
    assert first["revision"] == experts["capitals"].head.commit
    assert first["base_model"] == "org/base"
    assert "evidence" not in first
    assert sum(match["weight"] for match in result["matches"]) == pytest.approx(1)
    scores = [match["score"] for match in result["matches"]]
    assert scores == sorted(scores, reverse=True)
    assert (result["abstained"], result["reason"]) == (False, None)


def test_texts_have_one_result_each_and_examples_one_together(experts):
    answer = retrieve(NOBODY, {"texts": ["What is 3 + 4?", "Capital of Chile?"], "k": 1})
    assert [result["matches"][0]["adapter"] for result in answer["results"]] == ["bo/sums", "ada/capitals"]
    examples = [{"input": "Capital of Chile?", "output": "Santiago"}, {"input": "Capital of Mali?"}]
    assert names(retrieve(NOBODY, {"examples": examples, "k": 1})) == ["ada/capitals"]


def test_a_score_does_not_depend_on_the_other_texts_of_a_request(experts):
    texts = ["What is 3 + 4?", "Capital of Chile? " * 40, "x", "Past tense of 'run'?"]
    together = retrieve(NOBODY, {"router": "lora_retriever", "texts": texts})["results"]
    for text, result in zip(texts, together, strict=True):
        [alone] = retrieve(NOBODY, {"router": "lora_retriever", "text": text})["results"]
        for one, other in zip(alone["matches"], result["matches"], strict=True):
            assert one["adapter"] == other["adapter"]
            assert one["score"] == pytest.approx(other["score"], abs=1.1e-6)


def test_adapter_soup_mixes_in_equal_parts(experts):
    answer = retrieve(NOBODY, {"router": "adapter_soup", "examples": [{"input": text} for text in SUMS], "k": 2})
    [result] = answer["results"]
    assert result["matches"][0]["adapter"] == "bo/sums"
    assert result["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert {match["weight"] for match in result["matches"]} == {1 / len(result["matches"])}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"tag": ["qa"]}, {"ada/capitals", "ada/verbs"}),
        ({"tag": ["geo", "math"]}, {"ada/capitals", "bo/sums"}),
        ({"tag": ["qa"], "license": ["mit"]}, {"ada/capitals"}),
        ({"owner": ["bo"]}, {"bo/sums"}),
        ({"base_model": ["org/base"]}, {"ada/capitals", "ada/verbs"}),
        ({"tag": ["nobody-has-this"]}, set()),
        ({"tag": ["\ud800", "\0"]}, set()),
    ],
)
def test_filters_or_within_and_across(experts, filters, expected):
    assert set(names(retrieve(NOBODY, ANYTHING | {"k": 100, "filters": filters}))) == expected


def test_base_model_is_found_by_its_aliases(experts):
    BaseModel.objects.create(name="org/base", modules={}, aliases=["mirror/base"])
    found = names(retrieve(NOBODY, ANYTHING | {"base_model": "mirror/base"}))
    assert set(found) == {"ada/capitals", "ada/verbs"}
    both = ANYTHING | {"base_model": "org/base", "filters": {"base_model": ["org/other"]}}
    assert names(retrieve(NOBODY, both)) == []


def test_no_expert_and_no_expert_good_enough_abstain(experts):
    [empty] = retrieve(NOBODY, ANYTHING | {"base_model": "no/such"})["results"]
    assert empty == {"abstained": True, "reason": "no_experts", "matches": []}
    asked = {"router": "lora_retriever", "text": "Bake a cake.", "params": {"min_score": 0.95}}
    [far] = retrieve(NOBODY, asked)["results"]
    assert far == {"abstained": True, "reason": "below_threshold", "matches": []}


def test_without_samples_an_expert_is_never_found():
    make_expert("ada/silent")
    assert names(retrieve(NOBODY, ANYTHING)) == []


def test_changes_show_at_once(experts):
    ask = {"text": "Name the capital of Peru.", "k": 100}
    capitals = experts["capitals"]
    assert "ada/capitals" in names(retrieve(NOBODY, ask))
    publish(capitals, visibility="private")
    assert "ada/capitals" not in names(retrieve(NOBODY, ask))
    assert "ada/capitals" in names(retrieve(make_user("ada"), ask))
    assert "ada/capitals" not in names(retrieve(make_user("bo"), ask))
    publish(capitals, visibility="public", tags=["new"])
    assert names(retrieve(NOBODY, ask | {"filters": {"tag": ["new"]}})) == ["ada/capitals"]
    publish(capitals, add_revision(capitals, SUMS))
    [result] = retrieve(NOBODY, {"text": SUMS[0], "k": 100})["results"]
    scores = {match["adapter"]: match["score"] for match in result["matches"]}
    assert scores["ada/capitals"] == scores["bo/sums"]
    publish(capitals, yanked_at=capitals.created_at)
    assert "ada/capitals" not in names(retrieve(make_user("ada"), ask))


def test_equal_scores_go_by_name():
    for name in ("bo/b", "ada/z", "ada/a", "cy/c"):
        make_expert(name, SUMS)
    assert names(retrieve(NOBODY, {"text": "What is 1 + 1?", "k": 3})) == ["ada/a", "ada/z", "bo/b"]


def test_evidence_shows_the_nearest_samples(experts):
    many = make_expert("cy/many", [*CAPITALS, *SUMS, *VERBS])
    answer = retrieve(NOBODY, {"text": CAPITALS[0], "explain": True, "k": 100})
    [result] = answer["results"]
    evidence = {match["adapter"]: match["evidence"]["samples"] for match in result["matches"]}
    assert len(evidence["cy/many"]) == 3
    assert evidence["cy/many"][0] == {"input": CAPITALS[0], "score": 1.0}
    assert [sample["input"] for sample in evidence["ada/capitals"]] == CAPITALS
    many.samples_public = False
    publish(many)
    [hidden] = retrieve(NOBODY, {"text": CAPITALS[0], "explain": True, "k": 100})["results"]
    shown = {match["adapter"]: match["evidence"]["samples"] for match in hidden["matches"]}
    assert shown["cy/many"] == [{"score": sample["score"]} for sample in evidence["cy/many"]]


def test_the_line_with_which_samples_begin_is_told_where_they_are_shown():
    told = make_expert("ada/told", [f"Name the capital.\n{text}" for text in CAPITALS])
    make_expert("bo/plain", CAPITALS)
    make_expert("cy/none", [])
    ask = {"text": CAPITALS[0], "explain": True, "params": {"abstain": False}}

    def lines():
        [result] = retrieve(NOBODY, ask)["results"]
        return {match["adapter"]: match["instruction"] for match in result["matches"]}

    assert lines() == {"ada/told": "Name the capital.", "bo/plain": None}
    told.samples_public = False
    publish(told)
    assert lines() == {"ada/told": None, "bo/plain": None}


@pytest.mark.parametrize("text", ["\0 nul \0", "\ud800 lone", "😀" * 300, "a" * MAX_CHARS, "\u202ertl <b>"])
def test_odd_texts_are_answered(experts, text):
    assert len(names(retrieve(NOBODY, {"text": text, "explain": True, "params": {"abstain": False}}))) == 3
    assert len(names(retrieve(NOBODY, {"router": "lora_retriever", "text": text, "explain": True}))) == 3


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ([], "request"),
        (None, "request"),
        ({}, "text"),
        ({"text": None}, "text"),
        ({"text": "a", "texts": ["b"]}, "texts"),
        ({"text": " \n\t"}, "text"),
        ({"text": "\0"}, "text"),
        ({"text": 5}, "text"),
        ({"text": "a" * (MAX_CHARS + 1)}, "text"),
        ({"texts": []}, "texts"),
        ({"texts": ["a"] * 257}, "texts"),
        ({"texts": ["a", ""]}, "texts[1]"),
        ({"texts": "a"}, "texts"),
        ({"examples": []}, "examples"),
        ({"examples": ["a"]}, "examples[0]"),
        ({"examples": [{"output": "a"}]}, "examples[0].input"),
        ({"examples": [{"input": "a", "output": 1}]}, "examples[0].output"),
        ({"examples": [{"input": "a", "more": 1}]}, "examples[0]"),
        ({"text": "a", "k": 0}, "k"),
        ({"text": "a", "k": -1}, "k"),
        ({"text": "a", "k": 101}, "k"),
        ({"text": "a", "k": 10**9}, "k"),
        ({"text": "a", "k": True}, "k"),
        ({"text": "a", "k": 3.0}, "k"),
        ({"text": "a", "k": "3"}, "k"),
        ({"text": "a", "router": 1}, "router"),
        ({"text": "a", "explain": "yes"}, "explain"),
        ({"text": "a", "base_model": ""}, "base_model"),
        ({"text": "a", "base_model": ["x"]}, "base_model"),
        ({"text": "a", "filters": []}, "filters"),
        ({"text": "a", "filters": {"state": ["ready"]}}, "filters"),
        ({"text": "a", "filters": {"tag": "qa"}}, "filters.tag"),
        ({"text": "a", "filters": {"tag": []}}, "filters.tag"),
        ({"text": "a", "filters": {"tag": [1]}}, "filters.tag"),
        ({"text": "a", "top_k": 3}, "top_k"),
        ({"vector": [0.1], "space": "x"}, "space"),
        ({"vector": [0.1], "space": "\0"}, "space"),
        ({"vectors": [[0.1]]}, "space"),
        ({"vector": [0.1], "space": 1}, "space"),
        ({"text": "a", "space": "x"}, "space"),
        ({"vector": 0.1, "space": "x"}, "vector"),
        ({"vector": [], "space": "x"}, "vector"),
        ({"vector": [True], "space": "x"}, "vector"),
        ({"vector": ["1"], "space": "x"}, "vector"),
        ({"vector": [0.1] * 8193, "space": "x"}, "vector"),
        ({"vectors": [], "space": "x"}, "vectors"),
        ({"vectors": [[0.1], None], "space": "x"}, "vectors[1]"),
        ({"adapter": "capitals"}, "adapter"),
        ({"adapter": ["ada/capitals"]}, "adapter"),
        ({"adapter": "ada/capitals", "router": "token_level"}, "adapter"),
        ({"examples": [{"input": "a"}], "router": "token_level"}, "examples"),
        ({"hidden_states": {}}, "hidden_states"),
        ({"text": "a", "\ud800": 1}, "?"),
    ],
)
def test_refusals_name_the_field(payload, field):
    with pytest.raises(Invalid) as refused:
        retrieve(NOBODY, payload)
    assert list(refused.value.detail) == [field]
    assert refused.value.message


def test_unknown_routers_and_parameters_list_the_known_ones():
    with pytest.raises(UnknownRouter) as refused:
        retrieve(NOBODY, {"text": "a", "router": "nope"})
    assert {"lora_retriever", "adapter_soup"} <= set(refused.value.known)
    for params in ({"temprature": 1}, {"temperature": 0}, {"temperature": float("nan")}, {"min_score": True}, [1]):
        with pytest.raises(InvalidParams):
            retrieve(NOBODY, {"text": "a", "params": params})
