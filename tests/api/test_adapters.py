"""Adapters over the API: lists, edits, yanks, revisions, and who sees what."""

import pytest

from registry.base_models import register_base_model
from tests.api.conftest import Api, run_jobs
from tests.lora.factories import MODULES

pytestmark = pytest.mark.django_db


@pytest.fixture
def three(ada, bob, adapter_files):
    ada.ready("ada/sql", adapter_files(seed=1), tags=["code", "sql"], license="mit", description="Writes SQL")
    ada.ready("ada/secret", adapter_files(seed=2), visibility="private", tags=["code"])
    bob.ready("bob/json", adapter_files(seed=3), tags=["code"], license="apache-2.0")


def names(answer):
    return [item["name"] for item in answer.json()["results"]]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["ada/sql", "bob/json"]),
        ({"tag": "sql"}, ["ada/sql"]),
        ({"tag": "sq"}, []),
        ({"license": "apache-2.0"}, ["bob/json"]),
        ({"owner": "bob"}, ["bob/json"]),
        ({"search": "writes"}, ["ada/sql"]),
        ({"search": "100%_"}, []),
        ({"base_model": "acme/tiny-base", "ordering": "-name"}, ["bob/json", "ada/sql"]),
        ({"state": "ready"}, ["ada/sql", "bob/json"]),
        ({"state": "rejected"}, []),
        ({"page_size": 1, "page": 2}, ["bob/json"]),
    ],
)
def test_lists_are_filtered_and_ordered(three, anyone, query, found):
    assert names(anyone.get("/adapters/", **query)) == found


def test_lists_say_how_many_there_are_and_refuse_nonsense(three, anyone):
    assert anyone.get("/adapters/", page_size=1).json()["count"] == 2
    assert anyone.get("/adapters/", page_size=10**9).status_code == 200
    assert anyone.get("/adapters/", ordering="password").status_code == 400
    assert anyone.get("/adapters/", state="secret").status_code == 400
    assert anyone.get("/adapters/", page=0).status_code == 404


def test_only_the_owner_sees_what_is_private(three, ada, bob, anyone):
    assert ada.get("/adapters/ada/secret/").status_code == 200
    assert {bob.get("/adapters/ada/secret/").status_code, anyone.get("/adapters/ada/secret/").status_code} == {404}
    assert names(ada.get("/adapters/")) == ["ada/secret", "ada/sql", "bob/json"]


def test_the_owner_edits_and_nobody_else(three, ada, bob, anyone):
    changed = ada.patch("/adapters/ada/sql/", {"description": "Better", "tags": ["db"], "visibility": "private"})
    assert changed.status_code == 200
    assert changed.json() | {"description": "Better", "tags": ["db"], "visibility": "private"} == changed.json()
    assert anyone.get("/adapters/ada/sql/").status_code == 404
    assert bob.patch("/adapters/ada/sql/", {"description": "x"}).status_code == 404
    assert ada.patch("/adapters/bob/json/", {"description": "x"}).status_code == 403
    assert anyone.patch("/adapters/bob/json/", {"description": "x"}).status_code == 401
    for body in (
        {"name": "x"},
        {"tags": "x"},
        {"tags": [1]},
        {"visibility": "odd"},
        {"description": None},
        [],
        {"samples_public": "no"},
    ):
        assert ada.patch("/adapters/ada/sql/", body).status_code == 400, body


def test_a_yanked_name_is_not_used_again(three, ada, anyone, adapter_files):
    assert ada.delete("/adapters/ada/sql/").status_code == 204
    assert anyone.get("/adapters/ada/sql/").status_code == 404
    assert ada.get("/adapters/ada/sql/").json()["state"] == "yanked"
    answer = ada.upload("ada/sql", adapter_files(seed=9))
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_name_that_differs_in_case_is_409_with_its_location(three, ada, adapter_files):
    answer = ada.upload("ada/SQL", adapter_files(seed=9))
    assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")
    assert answer["Location"] == "/api/v1/adapters/ada/sql/"


def test_a_second_revision_is_served_only_once_it_has_passed(three, ada, anyone, adapter_files):
    old = anyone.get("/adapters/ada/sql/").json()["revision"]
    answer = ada.upload("ada/sql", adapter_files(seed=9)).json()
    assert answer["adapter"]["state"] == "checking"
    new = answer["adapter"]["revision"]
    assert anyone.get("/adapters/ada/sql/").json()["revision"] == old
    assert anyone.get("/adapters/ada/sql/", revision=new).status_code == 404
    run_jobs()
    assert anyone.get("/adapters/ada/sql/").json()["revision"] == new
    history = anyone.get("/adapters/ada/sql/revisions/").json()["results"]
    assert [(item["revision"], item["parent"]) for item in history] == [(new, old), (old, None)]
    assert anyone.get("/adapters/ada/sql/", revision=old).json()["revision"] == old


def test_an_adapter_binds_to_a_known_base(ada, adapter_files):
    register_base_model("acme/tiny-base", {path: list(shape) for path, shape in MODULES.items()} | {"lm_head": [9, 8]})
    adapter = ada.ready("ada/sql", adapter_files())
    assert (adapter["facts"]["modules_bound"], adapter["facts"]["modules_in_base"]) == (4, 4)
    assert "base_unknown" not in {warning["code"] for warning in adapter["warnings"]}


def test_an_adapter_without_samples_is_listed_and_not_retrieved(ada, anyone, adapter_files):
    adapter = ada.ready("ada/mute", adapter_files(samples=None))
    assert {"no_samples", "base_unknown"} == {warning["code"] for warning in adapter["warnings"]}
    assert names(anyone.get("/adapters/")) == ["ada/mute"]
    [result] = anyone.post("/retrieve/", {"text": "anything"}).json()["results"]
    assert result == {"abstained": True, "reason": "no_experts", "matches": []}


def test_gates_are_taken_when_they_fit(ada, adapter_files, tmp_path):
    import torch
    from safetensors.torch import save

    path = "model.layers.0.self_attn.q_proj"
    assert ada.upload("ada/g", adapter_files() | {"gates.safetensors": save({path: torch.ones(8)})}).status_code == 202
    for bad in ({path: torch.ones(7)}, {"elsewhere": torch.ones(8)}):
        answer = ada.upload("ada/h", adapter_files() | {"gates.safetensors": save(bad)})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_adapter")


def test_tags_and_licence_come_from_the_card_where_nothing_else_says(ada, adapter_files):
    card = b"---\nlicense: cc0-1.0\ntags: [qa]\n---\n# T\n\nAnswers questions.\n"
    adapter = ada.ready("ada/card", adapter_files() | {"README.md": card})
    assert (adapter["license"], adapter["tags"], adapter["description"]) == ("cc0-1.0", ["qa"], "Answers questions.")


def test_a_merge_of_a_private_parent_is_private_and_bytes_are_shared(three, ada, bob):
    recipe = {"method": "weighted_sum", "inputs": [{"adapter": "ada/sql"}, {"adapter": "bob/json"}]}
    first, second = (who.post("/merges/", recipe).json()["merge"] for who in (ada, bob))
    run_jobs()
    assert first["id"] != second["id"]
    assert first["recipe_hash"] == second["recipe_hash"]
    assert bob.get(f"/merges/{first['id']}/").status_code == 404
    mine = ada.get(f"/merges/{first['id']}/").json()
    assert mine["status"] == "succeeded"
    assert mine["report"]["energy_kept"] <= 1 + 1e-9
    private = {"method": "weighted_sum", "inputs": [{"adapter": "ada/sql"}, {"adapter": "ada/secret"}]}
    ada.post("/merges/", private | {"output": {"name": "ada/both"}})
    run_jobs()
    assert ada.get("/adapters/ada/both/").json()["visibility"] == "private"
    assert Api().get("/adapters/ada/sql/").json()["lineage"]["children"] == []


def test_an_archive_before_the_end_is_409(three, ada):
    merge = ada.post("/merges/", {"method": "weighted_sum", "inputs": [{"adapter": "ada/sql"}]}).json()["merge"]
    answer = ada.get(f"/merges/{merge['id']}/archive/")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_an_owner_may_hide_the_texts_of_its_samples(three, ada, anyone):
    query = {"text": "Name the capital of Peru.", "k": 1, "explain": True, "filters": {"owner": ["ada"]}}
    assert ada.patch("/adapters/ada/sql/", {"samples_public": False}).json()["samples_public"] is False
    [match] = anyone.post("/retrieve/", query).json()["results"][0]["matches"]
    assert [set(sample) for sample in match["evidence"]["samples"]] == [{"score"}] * 2
    assert anyone.get("/adapters/ada/sql/files/samples.jsonl").status_code == 404
    assert "samples.jsonl" not in [file["path"] for file in anyone.get("/adapters/ada/sql/").json()["files"]]
    assert b"Peru" in ada.get("/adapters/ada/sql/files/samples.jsonl").getvalue()


def test_a_merge_that_failed_is_done_again_and_leaves_no_trace_of_the_failure(three, ada, monkeypatch):
    recipe = {
        "method": "weighted_sum",
        "inputs": [{"adapter": "ada/sql"}, {"adapter": "bob/json"}],
        "output": {"name": "ada/both"},
    }
    job = ada.post("/merges/", recipe).json()["job"]
    with monkeypatch.context() as patch:
        patch.setattr("workers.handlers.merge.examine", lambda *_: 1 / 0)
        run_jobs()
    assert ada.get(f"/jobs/{job['id']}/").json()["error"]["code"] == "internal"
    assert ada.get("/adapters/ada/both/").json()["state"] == "rejected"
    again = ada.post("/merges/", recipe)
    assert again.status_code == 202
    assert again.json()["job"]["id"] != job["id"]
    run_jobs()
    adapter = ada.get("/adapters/ada/both/").json()
    assert (adapter["state"], adapter["problems"]) == ("ready", [])
