"""Recipes as trees and as documents: the same recipe is the same merge, whatever it is written in."""

import io
import json
import zipfile

import pytest
import yaml

from lora.merges import MERGES
from registry.models import Job, Merge, MergeArtefact
from tests.api.conftest import run_jobs, stored

YAML = "application/yaml"


@pytest.fixture
def three(ada, adapter_files):
    for seed, name in enumerate(("a", "b", "c")):
        ada.ready(f"ada/{name}", adapter_files(seed=seed, rank=2), license="mit")


def send(who, document, path="/merges/"):
    raw = document if isinstance(document, str | bytes) else yaml.safe_dump(document, sort_keys=False)
    return who.client.post(f"/api/v1{path}", raw, content_type=YAML)


def mean(*names):
    return {"method": "weighted_sum", "inputs": [{"adapter": f"ada/{name}"} for name in names]}


SUBTRACTION = {
    "method": "weighted_sum",
    "inputs": [{"adapter": "ada/a", "weight": 1}, {"recipe": mean("a", "b", "c"), "weight": -1}],
}


def test_a_tree_is_merged_with_all_its_adapters_as_parents(three, ada, anyone):
    asked = ada.post("/merges/", SUBTRACTION | {"output": {"name": "ada/rest"}})
    assert asked.status_code == 202, asked.content
    merge = asked.json()["merge"]
    assert [sorted(item) for item in merge["inputs"]] == [["adapter", "revision", "weight"], ["recipe", "weight"]]
    assert len(merge["inputs"][1]["recipe"]["inputs"]) == 3
    run_jobs()
    done = ada.get(f"/merges/{merge['id']}/").json()
    assert done["status"] == "succeeded", done
    assert done["inputs"] == merge["inputs"]
    assert len(done["report"]["interference"]["cosine"]) == 2
    parents = anyone.get("/adapters/ada/rest/").json()["lineage"]["parents"]
    # In total: 1 - 1/3 of a, and -1/3 of b and c.
    assert [(parent["adapter"], round(parent["weight"], 3)) for parent in parents] == [
        ("ada/a", 0.667),
        ("ada/b", -0.333),
        ("ada/c", -0.333),
    ]
    assert anyone.get("/adapters/ada/c/").json()["lineage"]["children"] == ["ada/rest"]


def test_the_same_recipe_is_the_same_merge_however_it_is_written(three, ada):
    first = ada.post("/merges/", SUBTRACTION).json()["merge"]
    run_jobs()
    inner = SUBTRACTION["inputs"][1]
    reordered = {
        "inputs": [
            {"weight": 1.0, "adapter": "ada/a"},
            {"weight": -1, "recipe": dict(reversed(inner["recipe"].items()))},
        ],
        "params": {"scale": 1},
        "method": "weighted_sum",
    }
    document = ada.client.get(f"/api/v1/merges/{first['id']}/recipe/")
    assert document["Content-Type"] == YAML
    assert yaml.safe_load(document.content)["format"] == "loradex/v1"
    as_json = ada.get(f"/merges/{first['id']}/recipe/", format="json").json()
    assert as_json == yaml.safe_load(document.content)
    again = [
        ada.post("/merges/", reordered),
        ada.post("/merges/", as_json),
        send(ada, SUBTRACTION),
        send(ada, {"format": "loradex/v1"} | reordered),
        send(ada, document.content),
    ]
    assert [(answer.status_code, answer.json()["merge"]["id"]) for answer in again] == [(200, first["id"])] * 5
    assert ada.post("/merges/", mean("a", "b", "c")).json()["merge"]["id"] != first["id"]
    assert MergeArtefact.objects.count() == 1


def test_the_recipe_is_the_callers_own(three, ada, bob):
    merge = ada.post("/merges/", SUBTRACTION).json()["merge"]
    for query in ({}, {"format": "json"}, {"format": "yaml"}):
        assert bob.get(f"/merges/{merge['id']}/recipe/", **query).json()["code"] == "not_found"
    assert ada.get(f"/merges/{merge['id']}/recipe/", format="xml").status_code == 400


def test_flaws_are_told_at_their_place_in_the_tree(three, ada, adapter_files):
    ada.ready("ada/other", adapter_files(config_overrides={"base_model_name_or_path": "acme/another"}))
    ada.ready("ada/wide", adapter_files(modules={"model.layers.0.self_attn.q_proj": (16, 8)}))
    inner = {
        "method": "ties",
        "params": {"densty": 1},
        "inputs": [
            {"adapter": "ada/b", "weight": "x"},
            {"adapter": "ada/none"},
            {"adapter": "ada/other"},
            {"adapter": "ada/wide"},
        ],
    }
    recipe = {"method": "weighted_sum", "inputs": [{"adapter": "ada/a"}, {"recipe": inner}]}
    before = stored()
    problems = ada.post("/merges/preview/", recipe).json()["problems"]
    place = "inputs[1].recipe."
    assert [(problem["where"], problem["code"]) for problem in problems] == [
        (f"{place}params.densty", "invalid_params"),
        (f"{place}inputs[0].weight", "invalid"),
        (f"{place}inputs[1]", "not_found"),
        (f"{place}inputs[2]", "other_base"),
        (f"{place}inputs[3]", "different_shapes"),
    ]
    refusal = ada.post("/merges/", recipe).json()
    assert (refusal["code"], refusal["detail"]["where"]) == ("invalid_params", f"{place}params.densty")
    assert stored() == before


def test_what_a_retrieval_finds_is_an_input_and_can_be_compressed(three, ada):
    found = {"retrieve": {"text": "Name the capital of Peru.", "k": 2}}
    recipe = {
        "method": "weighted_sum",
        "inputs": [{"recipe": {"method": "weighted_sum", "inputs": found}, "weight": 1}],
        "output": {"rank": {"mode": "fixed", "value": 1}},
    }
    merge = ada.post("/merges/", recipe).json()["merge"]
    assert len(merge["inputs"][0]["recipe"]["inputs"]) == 2
    run_jobs()
    report = ada.get(f"/merges/{merge['id']}/").json()["report"]
    assert {module["rank"] for module in report["per_module"]} == {1}


def test_fifty_equal_requests_make_one_job(three, ada):
    answers = [ada.post("/merges/", SUBTRACTION | {"output": {"name": "ada/rest"}}) for _ in range(50)]
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["job"]["id"] for answer in answers}) == 1
    assert (Merge.objects.count(), Job.objects.filter(kind="merge").count()) == (1, 1)


# The same 50 at once, over HTTP and in PostgreSQL, is in tests/services.


def test_mergekits_configuration_is_understood(three, ada):
    config = """
merge_method: ties
base_model: acme/tiny-base
models:
  - model: acme/tiny-base
  - model: ada/a
    parameters: {weight: 0.7, density: 0.5}
  - model: acme/tiny-base+ada/b
    parameters: {weight: 0.3}
parameters: {density: 0.5, lambda: 0.9}
dtype: bfloat16
"""
    merge = send(ada, config).json()["merge"]
    assert merge["method"] == "ties"
    assert [(item["adapter"], item["weight"]) for item in merge["inputs"]] == [("ada/a", 0.7), ("ada/b", 0.3)]
    assert merge["params"] == {"density": 0.5, "scale": 0.9, "scope": "tensor", "semantics": "mergekit"}
    assert merge["output"]["dtype"] == "bfloat16"
    other = send(ada, config.replace("acme/tiny-base", "acme/huge-base"))
    assert (other.status_code, "acme/huge-base" in other.json()["message"]) == (400, True)
    place = send(ada, config.replace("density", "densty"), "/merges/preview/").json()["problems"]
    assert [problem["where"] for problem in place] == ["models[1].parameters.densty"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (b"\xff", "UTF-8"),
        ("method: ties\nmethod: weighted_sum\n", "line 2, column 1: this key is there twice"),
        ("method: &m ties\ninputs: [*m]\n", "aliases"),
        ("method: !!python/object/apply:os.system ['true']\n", "not accepted here"),
        ("method: !!binary aGk=\n", "not accepted here"),
        ("? [a]\n: 1\n", "plain text"),
        ("[" * 100_000, "nested too deeply"),
        ("method: [\n", "line 2"),
        ("a: " + "x" * 300_000, "at most"),
        ("<<: {method: ties}\n", "has no field '<<'"),
        ("- method\n", "must be an object"),
        ("", "method is missing"),
        ("format: loradex/v2\n", "loradex/v1"),
        ("2026-11-22: 1\n", "has no field '2026-11-22'"),
    ],
)
def test_what_is_no_plain_document_is_refused(anyone, ada, document, said):
    answer = send(ada, document)
    assert answer.status_code == 400, answer.content
    assert said in answer.json()["message"]


def test_json_bodies_may_carry_the_format_and_other_types_are_415(three, ada):
    assert ada.post("/merges/", {"format": "loradex/v1"} | SUBTRACTION).status_code == 202
    answer = ada.client.post("/api/v1/merges/", json.dumps(SUBTRACTION), content_type="text/plain")
    assert answer.status_code == 415


def test_every_method_runs_with_its_defaults_and_cat_adds_the_ranks(three, ada):
    names = sorted(name for name in MERGES.names() if not MERGES.get(name).needs)
    asked = {}
    for name in names:
        answer = ada.post("/merges/", mean("a", "b") | {"method": name})
        assert answer.status_code == 202, answer.content
        asked[name] = answer.json()["merge"]
    run_jobs()
    for name, merge in asked.items():
        done = ada.get(f"/merges/{merge['id']}/").json()
        assert done["status"] == "succeeded", (name, done)
        assert merge["output"]["rank"] == {"mode": "exact" if name == "cat" else "max_input"}
    folder = ada.get(f"/merges/{asked['cat']['id']}/archive/")
    with zipfile.ZipFile(io.BytesIO(b"".join(folder.streaming_content))) as archive:
        assert json.loads(archive.read("adapter_config.json"))["r"] == 4
