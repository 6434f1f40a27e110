"""Outcomes in `/retrieve/`: rankings that they shift, routers that live on them, and who knows of what."""

import pytest
from django.contrib.auth.models import AnonymousUser

from lora.routers import ROUTERS
from registry.errors import Invalid
from registry.models import RevisionFile
from registry.storage import put_bytes
from retrieval import outcome_table
from retrieval.models import ProbeVector
from retrieval.outcomes import delete_outcome, report
from retrieval.services import retrieve
from tests.retrieval.rows import add_revision, make_expert, make_user, publish

pytestmark = pytest.mark.django_db

NOBODY = AnonymousUser()
QUERY = "Name the capital of Peru."
TASKS = {
    "ada/capitals": ["Name the capital of France.", "What is the capital of Japan?"],
    "bo/cities": ["Name a big city in France.", "What is the largest city of Japan?"],
    "cy/sums": ["What is 12 + 30?", "Add 4 and 5."],
}
FROM_OUTCOMES = [name for name in ROUTERS.names() if ROUTERS.get(name).traits["prototype"] == "outcomes"]
OTHERS = ["lora_retriever", "adapter_soup", "airoboros", "retrieval_of_experts", "what_the_weight", "molora"]


@pytest.fixture
def experts():
    return {name: make_expert(name, texts) for name, texts in TASKS.items()}


def say(user, adapter, text=QUERY, score=0.0, **fields):
    return report(make_user(user), {"adapter": adapter, "text": text, "score": score} | fields)[0][0]


def ask(user=NOBODY, **fields):
    [result] = retrieve(user, {"router": "lora_retriever", "text": QUERY, "k": 3} | fields)["results"]
    return result


def names(result):
    return [match["adapter"] for match in result["matches"]]


@pytest.mark.parametrize("router", OTHERS)
def test_what_does_badly_falls_behind_if_one_asks_for_it(experts, router):
    before = ask(router=router)
    assert names(before)[0] == "ada/capitals"
    for user in ("u1", "u2", "u3", "u4"):
        say(user, "ada/capitals", score=0)
        say(user, "bo/cities", score=1)
    assert ask(router=router) == before
    after = ask(router=router, outcomes=True, explain=True)
    assert names(after)[0] == "bo/cities"
    assert sum(match["weight"] for match in after["matches"]) == pytest.approx(1)
    scores = {match["adapter"]: match["score"] for match in before["matches"]}
    for match in after["matches"]:
        told = match["evidence"]["outcomes"]
        assert match["score"] == pytest.approx(
            scores.get(match["adapter"], match["score"] - told["shift"]) + told["shift"]
        )


def test_an_explanation_names_the_outcomes_and_shows_one_s_own_texts_only(experts):
    mine = say("ada", "bo/cities", "Name the capital of Peru!", score=1)
    other = say("bo", "bo/cities", score=0.5)
    told = {match["adapter"]: match["evidence"]["outcomes"] for match in ask(outcomes=True, explain=True)["matches"]}
    near = told["bo/cities"]
    assert near["count"] == 2
    assert near["unmeasured"] < near["expected"] < 1
    assert near["shift"] > 0 == told["cy/sums"]["shift"]
    assert [item["id"] for item in near["nearest"]] == [str(other.pk), str(mine.pk)]
    assert near["nearest"][0] == {"id": str(other.pk), "score": 0.5, "cosine": 1.0, "weight": 1.0}
    assert told["cy/sums"]["count"] == 0
    [result] = retrieve(
        make_user("ada"), {"text": QUERY, "outcomes": True, "explain": True, "router": "lora_retriever"}
    )["results"]
    [near] = [m["evidence"]["outcomes"]["nearest"] for m in result["matches"] if m["adapter"] == "bo/cities"]
    assert [item.get("text") for item in near] == [None, "Name the capital of Peru!"]


def test_outcomes_elsewhere_change_nothing(experts):
    say("ada", "ada/capitals", "Write a poem about the sea.", score=0)
    assert ask(outcomes=True) == ask()


def test_nothing_is_read_of_outcomes_unless_asked(experts, django_assert_num_queries, monkeypatch):
    ask()
    monkeypatch.setattr(outcome_table, "current_table", None)
    with django_assert_num_queries(1):
        ask()


def test_new_changed_and_deleted_outcomes_count_at_once(experts, django_assert_num_queries):
    plain = ask()
    row = say("ada", "ada/capitals", score=0)
    down = ask(outcomes=True)["matches"][0]["score"]
    assert down < plain["matches"][0]["score"]
    with django_assert_num_queries(2):
        ask(outcomes=True)
    say("ada", "ada/capitals", score=1)
    assert ask(outcomes=True)["matches"][0]["score"] > plain["matches"][0]["score"]
    say("bo", "ada/capitals", score=1)
    delete_outcome(make_user("ada"), row.pk)
    say("bo", "ada/capitals", score=0)
    assert ask(outcomes=True)["matches"][0]["score"] == down


def test_a_private_expert_s_outcomes_move_nobody_else(experts):
    publish(experts["bo/cities"], visibility="private")
    for text in (QUERY, "Capital of Chile?"):
        say("bo", "bo/cities", text, score=1)
    assert ask(outcomes=True) == ask()
    for router in FROM_OUTCOMES:
        assert ask(router=router)["reason"] == "no_outcomes"
    assert names(ask(make_user("bo"), router="benchmark_knn")) == ["bo/cities"]
    publish(experts["bo/cities"], visibility="public")
    assert names(ask(router="benchmark_knn")) == ["bo/cities"]
    publish(experts["bo/cities"], yanked_at="2026-01-01T00:00Z")
    assert ask(router="benchmark_knn")["reason"] == "no_outcomes"


def test_outcomes_of_other_weights_do_not_count(experts):
    adapter = experts["ada/capitals"]

    def revise(weights):
        revision = add_revision(adapter, TASKS["ada/capitals"])
        RevisionFile.objects.create(revision=revision, path="adapter_model.safetensors", blob=put_bytes(weights))
        publish(adapter, revision)

    revise(b"old")
    say("bo", "ada/capitals", score=1)
    revise(b"old")
    assert names(ask(router="benchmark_knn")) == ["ada/capitals"], "other samples, the same weights"
    revise(b"new")
    assert ask(router="benchmark_knn")["reason"] == "no_outcomes"


@pytest.mark.parametrize("router", FROM_OUTCOMES)
def test_a_router_from_outcomes_answers_in_every_form(experts, router):
    fields = {"cost": 1} if router == "cost_aware" else {}
    for number, capital in enumerate(("Peru", "Chile", "Mali")):
        say("ada", "ada/capitals", f"Name the capital of {capital}.", score=0.9, **fields)
        say("ada", "bo/cities", f"Name the capital of {capital}.", score=0.1 * number, **fields)
        say("ada", "bo/cities", f"Name a city in {capital}.", score=1, **fields)
        say("ada", "ada/capitals", f"Name a city in {capital}.", score=0, **fields)
    near = {"neighbours": 3} if router in ("benchmark_knn", "cost_aware") else {}
    k = {"k": 2, "router": router, "params": near}
    result = ask(explain=True, **k)
    assert names(result)[0] == "ada/capitals"
    predicted = result["matches"][0]["evidence"]["predicted"]
    assert 0.5 < predicted["score"] <= 1
    assert (predicted["cost"], predicted["outcomes"]) == (1.0 if router == "cost_aware" else None, 6)
    assert names(ask(text=None, texts=["Name a city in Peru."], **k))[0] == "bo/cities"
    examples = [{"input": "Name the capital of Peru."}, {"input": "Name the capital of Ghana."}]
    assert names(ask(text=None, examples=examples, **k))[0] == "ada/capitals"
    assert ask(filters={"owner": ["cy"]}, **k)["reason"] == "no_outcomes"
    assert names(ask(filters={"owner": ["ada", "bo"]}, **k))[0] == "ada/capitals"
    assert ask(**k | {"params": {"min_score": 1}})["reason"] == "below_threshold"


def test_abstention_says_what_to_report(experts):
    for router in FROM_OUTCOMES:
        result = ask(router=router)
        assert (result["abstained"], result["reason"], result["matches"]) == (True, "no_outcomes", [])
        assert "POST /api/v1/outcomes/" in result["message"]
    assert ask(router="benchmark_knn", filters={"owner": ["nobody"]})["reason"] == "no_experts"
    say("ada", "ada/capitals", score=1)
    assert ask(router="cost_aware")["reason"] == ask(router="classifier")["reason"] == "no_outcomes"


def test_a_text_without_a_vector_counts_once_it_has_one(experts):
    row = say("ada", "ada/capitals", score=1)
    vector = ProbeVector.objects.get()
    ProbeVector.objects.filter(pk=vector.pk).delete()
    assert ask(router="benchmark_knn")["reason"] == "no_outcomes"
    vector.save()
    say("ada", "bo/cities", "Name a city.", score=1)
    assert names(ask(router="benchmark_knn", filters={"owner": ["ada"]})) == ["ada/capitals"]
    assert row.adapter.full_name == "ada/capitals"


@pytest.mark.parametrize(
    "fields", [{"outcomes": 1}, {"outcomes": "yes"}, {"router": "benchmark_knn", "outcomes": True}]
)
def test_what_is_no_switch_is_refused(experts, fields):
    with pytest.raises(Invalid) as refused:
        ask(**fields)
    assert refused.value.detail.keys() == {"outcomes"}
