"""Outcomes over REST: stored once, seen by who may see the expert, taken back with their texts."""

import json

import pytest

from retrieval.models import Outcome, OutcomeCounter, Probe, ProbeVector
from tests.api.conftest import stored
from tests.retrieval.rows import add_revision, make_expert, publish

TEXT = "Name the capital of Peru."


@pytest.fixture
def capitals(ada):
    return make_expert("ada/capitals", ["Name the capital of France."])


@pytest.fixture
def sums(bob):
    return make_expert("bob/sums", ["What is 12 + 30?"])


def say(who, adapter="ada/capitals", text=TEXT, score=1, **fields):
    return who.post("/outcomes/", {"adapter": adapter, "text": text, "score": score} | fields)


def test_an_outcome_is_stored_with_its_vector_and_answered_whole(ada, bob, capitals):
    answer = say(bob, score=0.5, cost=2)
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert body == body | {
        "adapter": "ada/capitals",
        "revision": capitals.head.commit,
        "text": TEXT,
        "score": 0.5,
        "cost": 2.0,
        "source": "reported",
        "own": True,
    }
    assert bob.get(f"/outcomes/{body['id']}/").json() == body
    assert len(bytes(ProbeVector.objects.get().vector)) == 4 * 384


def test_the_same_again_is_the_same_and_another_score_takes_its_place(ada, capitals):
    first = say(ada).json()
    again = say(ada)
    assert (again.status_code, again.json()) == (200, first)
    other = say(ada, score=0, cost=0.1)
    assert (other.status_code, other.json()["id"]) == (200, first["id"])
    assert ada.get("/outcomes/").json()["results"] == [other.json()]
    by_id = ada.post("/outcomes/", {"adapter": "ada/capitals", "probe": first["probe"], "score": 0.25})
    assert (by_id.status_code, by_id.json()["text"], Outcome.objects.get().score) == (200, TEXT, 0.25)


def test_a_batch_is_stored_in_its_order_or_not_at_all(ada, capitals, sums):
    items = [
        {"adapter": "ada/capitals", "text": TEXT, "score": 1},
        {"adapter": "bob/sums", "text": TEXT, "score": 0},
        {"adapter": "bob/sums", "text": "1 + 1?", "score": 1},
    ]
    before = stored()
    for wrong, field in (
        ({"adapter": "bob/sums", "text": TEXT, "score": 1}, "outcomes[3].text"),
        ({"adapter": "bob/sums", "text": "x", "score": 2}, "outcomes[3].score"),
    ):
        answer = ada.post("/outcomes/", {"outcomes": [*items, wrong]})
        assert (answer.status_code, list(answer.json()["detail"])) == (400, [field])
    assert ada.post("/outcomes/", {"outcomes": [*items, items[0] | {"adapter": "bob/none"}]}).status_code == 404
    rows = stored()
    rows["OutcomeCounter"] = before["OutcomeCounter"]
    assert rows == before
    answer = ada.post("/outcomes/", {"outcomes": items})
    assert answer.status_code == 201
    told = answer.json()["outcomes"]
    assert [(row["adapter"], row["text"], row["score"]) for row in told] == [tuple(item.values()) for item in items]
    assert told[0]["probe"] == told[1]["probe"] != told[2]["probe"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"score": None}, "score"),
        ({"score": True}, "score"),
        ({"score": "1"}, "score"),
        ({"score": 1.01}, "score"),
        ({"score": -0.1}, "score"),
        ({"cost": -1}, "cost"),
        ({"cost": "free"}, "cost"),
        ({"cost": 10**400}, "cost"),
        ({"text": None}, "text"),
        ({"text": " \n"}, "text"),
        ({"text": 7}, "text"),
        ({"text": "a\0b"}, "text"),
        ({"text": "a\ud800b"}, "text"),
        ({"text": "x" * 10_001}, "text"),
        ({"probe": "5f4c1c56-0000-4000-8000-000000000000"}, "text"),
        ({"text": None, "probe": "nope"}, "probe"),
        ({"text": None, "probe": 7}, "probe"),
        ({"adapter": None}, "adapter"),
        ({"adapter": "ada"}, "adapter"),
        ({"adapter": "a/\0"}, "adapter"),
        ({"revision": 5}, "revision"),
        ({"scores": 1}, "scores"),
        ({"x\ud800": 1}, "x?"),
    ],
)
def test_what_is_no_outcome_is_refused_by_name_and_leaves_nothing(ada, capitals, fields, field):
    before = stored()
    answer = say(ada, **fields)
    body = answer.json()
    assert (answer.status_code, body["code"], list(body["detail"])) == (400, "invalid", [field]), body
    assert stored() == before


@pytest.mark.parametrize("body", [[], "x", {"outcomes": []}, {"outcomes": [5]}, {"outcomes": [{}] * 257}, {}])
def test_what_is_no_batch_is_refused(ada, capitals, body):
    assert ada.post("/outcomes/", body).status_code == 400
    raw = json.dumps({"adapter": "ada/capitals", "text": "x", "score": 1}).replace("1}", "NaN}")
    assert ada.client.post("/api/v1/outcomes/", raw, content_type="application/json").status_code == 400


def test_only_who_has_an_account_reports_and_only_of_what_it_sees(ada, bob, anyone, capitals, sums):
    assert say(anyone).status_code == 401
    publish(capitals, visibility="private")
    hidden = say(bob)
    assert (hidden.status_code, hidden.json()["code"]) == (404, "not_found")
    assert say(ada).status_code == 201
    assert say(ada, revision="0" * 40).status_code == 404
    before = Outcome.objects.get()
    for other in (bob, anyone):
        assert other.get("/outcomes/").json()["count"] == 0
        assert other.get(f"/outcomes/{before.pk}/").status_code == 404
        assert other.delete(f"/outcomes/{before.pk}/").status_code in (401, 404)
    stolen = bob.post("/outcomes/", {"adapter": "bob/sums", "probe": str(before.probe_id), "score": 1})
    assert (stolen.status_code, Outcome.objects.count()) == (404, 1), "the text of another is not to be had"


def test_others_see_the_score_and_not_the_text(ada, bob, anyone, capitals):
    row = say(bob, cost=3).json()
    for other in (ada, anyone):
        assert other.get(f"/outcomes/{row['id']}/").json() == row | {"text": None, "own": False}
    assert say(ada).json()["probe"] != row["probe"]


def test_lists_are_filtered_and_paged(ada, bob, anyone, capitals, sums):
    ada.post("/outcomes/", {"outcomes": [{"adapter": "bob/sums", "text": f"{n} + 1?", "score": 1} for n in range(3)]})
    mine = say(bob, "bob/sums").json()

    def count(who=bob, **query):
        return who.get("/outcomes/", **query).json()["count"]

    assert [count(), count(own="true"), count(own="false"), count(adapter="bob/sums")] == [4, 1, 3, 4]
    assert [count(adapter="a\0"), count(source="trial"), count(probe=mine["probe"]), count(anyone, own="true")] == [
        0, 0, 1, 0,
    ]  # fmt: skip
    page = bob.get("/outcomes/", page_size=2).json()
    assert (len(page["results"]), page["results"][0]["id"]) == (2, mine["id"])
    for query in ({"own": "yes"}, {"source": "x"}, {"probe": "x"}):
        assert bob.get("/outcomes/", **query).status_code == 400


def test_who_has_reported_takes_it_back_with_its_text(ada, bob, anyone, capitals, sums):
    row = say(bob).json()
    say(bob, "bob/sums")
    refused = ada.delete(f"/outcomes/{row['id']}/")
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    assert anyone.delete(f"/outcomes/{row['id']}/").status_code == 401
    assert bob.delete(f"/outcomes/{row['id']}/").status_code == 204
    assert bob.delete(f"/outcomes/{row['id']}/").status_code == 404
    assert Probe.objects.count() == 1
    [other] = bob.get("/outcomes/").json()["results"]
    assert bob.delete(f"/outcomes/{other['id']}/").status_code == 204
    assert (Probe.objects.count(), ProbeVector.objects.count()) == (0, 0)


def test_outcomes_of_what_was_yanked_are_gone(ada, bob, capitals):
    row = say(bob).json()
    assert ada.delete("/adapters/ada/capitals/").status_code == 204
    for who in (ada, bob):
        assert who.get("/outcomes/").json()["count"] == 0
        assert say(who).status_code == 404
    assert bob.delete(f"/outcomes/{row['id']}/").status_code == 204, "one's own text is erased all the same"


def test_an_outcome_names_the_revision_that_answered(ada, capitals):
    old = capitals.head.commit
    publish(capitals, add_revision(capitals, ["Capital of Mali?"]))
    assert say(ada).json()["revision"] == capitals.head.commit != old
    assert say(ada, revision=old).json()["revision"] == old


def test_one_caller_has_a_bounded_number(ada, capitals, monkeypatch):
    monkeypatch.setattr("retrieval.outcomes.MAX_OWN", 2)
    say(ada)
    say(ada, text="Capital of Chile?")
    answer = say(ada, text="Capital of Mali?")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert say(ada, score=0).status_code == 200
    assert Probe.objects.count() == 2


def test_positions_follow_the_commits(ada, capitals):
    for number in range(3):
        say(ada, text=f"Capital number {number}?")
    positions = list(Outcome.objects.order_by("created_at").values_list("position", flat=True))
    assert positions == sorted(set(positions))
    assert OutcomeCounter.objects.get().rewritten == 0
    say(ada, text="Capital number 0?", score=0)
    assert OutcomeCounter.objects.get().rewritten == 1
