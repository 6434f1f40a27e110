"""Weight searches over REST: ask, evaluate, tell, and merge with what was found."""

import pytest

from registry.errors import Conflict
from registry.models import Search
from registry.searches import tell
from tests.api.conftest import run_jobs, stored

OPTIMUM = (1.0, -0.25)


@pytest.fixture
def two(ada, adapter_files):
    for seed, name in enumerate(("a", "b")):
        ada.ready(f"ada/{name}", adapter_files(seed=seed, rank=2), license="mit")


def begin(who, **options):
    return who.post("/searches/", {"inputs": [{"adapter": "ada/a"}, {"adapter": "ada/b"}]} | options)


def loss_of(weights):
    return sum((weight - best) ** 2 for weight, best in zip(weights, OPTIMUM, strict=True))


def test_a_search_is_told_to_its_end_and_merged(two, ada):
    answer = begin(ada, budget=25, seed=3)
    assert answer.status_code == 201, answer.content
    search = answer.json()
    path = f"/searches/{search['id']}/"
    assert answer["Location"] == "/api/v1" + path
    assert search["ask"] == {"number": 0, "weights": [0.5, 0.5]}
    assert (search["best"], search["merge"]) == (None, None)
    while search["ask"]:
        told = ada.post(path + "tell/", {"ask": search["ask"]["number"], "loss": loss_of(search["ask"]["weights"])})
        assert told.status_code == 200, told.content
        search = ada.get(path).json()
        assert search == told.json()
    assert search["status"] == "finished"
    assert len(search["losses"]) == 25
    assert (
        search["best"]["loss"] == min(search["losses"]) == loss_of(search["best"]["weights"]) < search["losses"][0] / 2
    )
    merge = ada.post("/merges/", search["merge"]).json()["merge"]
    assert [item["weight"] for item in merge["inputs"]] == search["best"]["weights"]
    run_jobs()
    assert ada.get(f"/merges/{merge['id']}/").json()["status"] == "succeeded"


def test_only_the_loss_that_is_asked_for_is_taken_and_once(two, ada):
    search = begin(ada, budget=2).json()
    path = f"/searches/{search['id']}/tell/"
    for ask in (1, 7):
        answer = ada.post(path, {"ask": ask, "loss": 1.0})
        assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (409, "conflict", {"ask": 0})
    first = ada.post(path, {"ask": 0, "loss": 1.0}).json()
    assert ada.post(path, {"ask": 0, "loss": 1.0}).json() == first, "the same again, after a lost answer"
    assert ada.post(path, {"ask": 0, "loss": 2.0}).status_code == 409
    # Another client tells between our read and our write.
    ours = Search.objects.get()
    ada.post(path, {"ask": 1, "loss": 0.5})
    with pytest.raises(Conflict):
        tell(ours, {"ask": 1, "loss": 9.0})
    assert ada.get(f"/searches/{search['id']}/").json()["losses"] == [1.0, 0.5]
    over = ada.post(path, {"ask": 2, "loss": 1.0})
    assert (over.status_code, "budget" in over.json()["message"]) == (409, True)


@pytest.mark.parametrize(
    "body",
    [{}, [], {"ask": 0}, {"ask": 0, "loss": None}, {"ask": 0, "loss": "1"}, {"ask": True, "loss": 1},
     {"ask": -1, "loss": 1}, {"ask": 0, "loss": 1e400}, {"ask": 0, "loss": 1, "more": 1}],
)  # fmt: skip
def test_what_is_no_loss_is_refused(two, ada, body):
    search = begin(ada).json()
    answer = ada.client.post(
        f"/api/v1/searches/{search['id']}/tell/", data=str(body).replace("'", '"').replace("None", "null")
        .replace("True", "true").replace("inf", "Infinity"), content_type="application/json",
    )  # fmt: skip
    assert answer.status_code == 400, answer.content
    assert Search.objects.get().told == 0


@pytest.mark.parametrize(
    ("options", "status"),
    [({"strategy": "magic"}, 400), ({"budget": 0}, 400), ({"budget": 1.5}, 400), ({"bound": 11}, 400),
     ({"seed": -1}, 400), ({"zeal": 1}, 400), ({"inputs": []}, 400), ({"inputs": [{"adapter": "ada/none"}]}, 404),
     ({"inputs": [{"adapter": "ada/a"}, {"adapter": "ada/a"}]}, 422)],
)  # fmt: skip
def test_a_search_that_cannot_be_is_refused_and_leaves_nothing(two, ada, options, status):
    before = stored()
    assert begin(ada, **options).status_code == status
    assert stored() == before


def test_a_search_is_its_owners_own(two, ada, bob, anyone):
    search = begin(ada).json()
    path = f"/searches/{search['id']}/"
    for other in (bob, anyone):
        assert other.get(path).status_code in (401, 404)
        assert other.post(path + "tell/", {"ask": 0, "loss": 1}).status_code in (401, 404)
    assert begin(anyone).status_code == 401
    assert begin(bob).status_code == 201, "what is public is everybody's to search"
