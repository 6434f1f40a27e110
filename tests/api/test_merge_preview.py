"""`POST /merges/preview/`: what would come of a recipe, with every problem where it is, and nothing stored."""

import json
import re
from pathlib import Path

import pytest

from registry.models import Adapter
from tests.api.conftest import Api, run_jobs, stored
from tests.lora.factories import MODULES


@pytest.fixture
def two(ada, adapter_files):
    ada.ready("ada/one", adapter_files(seed=1), license="mit")
    ada.ready("ada/two", adapter_files(seed=2, rank=2), license="mit")
    return [{"adapter": "ada/one", "weight": 1}, {"adapter": "ada/two", "weight": 3}]


def preview(who: Api, recipe: dict) -> dict:
    before = stored()
    answer = who.post("/merges/preview/", recipe)
    assert answer.status_code == 200, answer.content
    assert stored() == before
    return answer.json()


def places(body: dict) -> list[tuple[str, str]]:
    return [(problem["where"], problem["code"]) for problem in body["problems"]]


def test_a_good_recipe_is_mergeable_and_says_what_is_known(ada, two):
    body = preview(ada, {"method": "ties", "inputs": two, "output": {"name": "ada/new"}})
    assert body["mergeable"]
    assert body["problems"] == body["warnings"] == []
    # Relative weights: w·n/Σ|w|.
    assert [item["weight"] for item in body["inputs"]] == [0.5, 1.5]
    assert [item["rank"] for item in body["inputs"]] == [4, 2]
    assert all(norm > 0 for norm in body["norms"])
    assert body["rank"] == 4
    absolute = preview(ada, {"method": "weighted_sum", "inputs": two, "output": {"rank": {"mode": "exact"}}})
    assert [item["weight"] for item in absolute["inputs"]] == [1, 3]
    assert absolute["rank"] is None


def test_a_fixed_rank_is_at_most_what_the_modules_can_have(ada, two):
    full = max(min(shape) for shape in MODULES.values())
    recipe = {"method": "weighted_sum", "inputs": two, "output": {"rank": {"mode": "fixed", "value": 4000}}}
    assert preview(ada, recipe)["rank"] == full


def test_a_method_that_cuts_nothing_off_has_its_own_default_and_no_other_rank(ada, two):
    recipe = {"method": "cat", "inputs": two}
    assert preview(ada, recipe)["mergeable"]
    body = preview(ada, recipe | {"output": {"rank": {"mode": "fixed", "value": 4}}})
    assert places(body) == [("output.rank", "invalid_params")]
    assert "svd" in body["problems"][0]["message"]


def test_the_recipes_of_the_howto_can_be_merged(ada, adapter_files):
    page = (Path(__file__).parents[2] / "docs" / "howto" / "merge.md").read_text(encoding="utf-8")
    recipes = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert recipes
    for recipe in recipes:
        own = recipe.replace("demo/", "ada/")
        for seed, name in enumerate(sorted(set(re.findall(r'"(ada/[a-z0-9-]+)"', own)))):
            ada.ready(name, adapter_files(seed=seed), license="mit")
        assert preview(ada, json.loads(own))["mergeable"]


def test_methods_that_add_factors_refuse_other_ranks_wherever_they_stand_in_a_recipe(ada, two, adapter_files):
    factors = {"method": "peft_linear", "inputs": two}
    assert places(preview(ada, factors)) == [("inputs[1]", "different_ranks")]
    assert ada.post("/merges/", factors).json()["code"] == "not_mergeable"
    inner = {"method": "ties", "inputs": [{"adapter": "ada/one"}, {"recipe": factors}]}
    assert places(preview(ada, inner)) == [("inputs[1].recipe.inputs[1]", "different_ranks")]
    outer = {"method": "peft_linear", "inputs": [two[0], {"recipe": {"method": "svd", "inputs": two}}]}
    assert preview(ada, outer)["mergeable"]  # the rank of what is merged first is not known yet


def test_a_method_for_two_refuses_a_third(ada, two, adapter_files):
    ada.ready("ada/three", adapter_files(seed=3))
    body = preview(ada, {"method": "slerp", "inputs": [*two, {"adapter": "ada/three", "weight": 1}]})
    assert places(body) == [("weights", "invalid_params")]
    assert "at most 2 inputs" in body["problems"][0]["message"]


def test_every_problem_is_told_at_once_and_where_it_is(ada, two, adapter_files):
    ada.ready("ada/other", adapter_files(config_overrides={"base_model_name_or_path": "acme/another"}))
    inputs: list[dict] = [{"adapter": f"ada/{name}"} for name in ("one", "one", "other", "none", "two")]
    inputs += [{"adapter": 5}, {"adapter": "ada/two", "weight": "much"}, {"adapter": "ada/two", "revision": "v9"}]
    recipe = {
        "method": "ties",
        "params": {"density": 2, "densty": 1, "scale": 1},
        "inputs": inputs,
        "output": {"name": "bob/theirs", "rank": {"mode": "fixed"}, "dtype": "int8", "visibility": "some"},
    }
    body = preview(ada, recipe)
    assert not body["mergeable"]
    assert places(body) == [
        ("params.density", "invalid_params"),
        ("params.densty", "invalid_params"),
        ("inputs[3]", "not_found"),
        ("inputs[5]", "invalid"),
        ("inputs[6].weight", "invalid"),
        ("inputs[7].revision", "not_found"),
        ("inputs[1]", "duplicate_input"),
        ("inputs[6]", "duplicate_input"),
        ("inputs[2]", "other_base"),
        ("output.name", "permission_denied"),
        ("output.visibility", "invalid"),
        ("output.rank", "invalid_params"),
        ("output.dtype", "invalid_params"),
    ]
    assert [item and item["adapter"] for item in body["inputs"]][:4] == ["ada/one", "ada/one", "ada/other", None]


def test_the_first_problem_is_what_the_merge_is_refused_with(ada, two):
    for change in (
        {"method": "nope"},
        {"params": {"densty": 0}},
        {"inputs": [two[0], two[0]]},
        {"inputs": [{"adapter": "ada/none"}]},
        {"inputs": [two[0] | {"weight": 0}]},
        {"output": {"name": "ada/a--b"}},
        {"output": {"dtype": "int8"}},
        {"inputs": {"retrieve": {"text": " "}}},
    ):
        recipe = {"method": "weighted_sum", "inputs": two} | change
        refusal = ada.post("/merges/", recipe)
        assert 400 <= refusal.status_code < 500
        problem = preview(ada, recipe)["problems"][0]
        inputs = refusal.json()["detail"].get("inputs")
        code = inputs[0]["code"] if isinstance(inputs, list) else refusal.json()["code"]
        assert problem["code"] == code
        assert problem["message"] in refusal.json()["message"]


def test_some_relative_weights_are_refused_and_not_guessed(ada, two):
    recipe = {"method": "ties", "inputs": [two[0], {"adapter": "ada/two"}]}
    assert places(preview(ada, recipe)) == [("weights", "invalid_params")]
    assert ada.post("/merges/", recipe).status_code == 400


def test_what_cannot_be_added_up_stands_at_its_input(ada, two, adapter_files):
    ada.ready("ada/wide", adapter_files(modules=dict.fromkeys(MODULES, (16, 8))))
    body = preview(
        ada, {"method": "weighted_sum", "inputs": [{"adapter": "ada/none"}, two[0], {"adapter": "ada/wide"}]}
    )
    assert ("inputs[2]", "different_shapes") in places(body)


def test_anyone_may_look_and_is_told_to_log_in(ada, bob, anyone, two, adapter_files):
    ada.ready("ada/secret", adapter_files(seed=3), visibility="private")
    recipe = {"method": "weighted_sum", "inputs": [*two, {"adapter": "ada/secret"}], "output": {"name": "ada/x"}}
    for who in (anyone, bob):
        assert ("inputs[2]", "not_found") in places(preview(who, recipe))
    body = preview(anyone, recipe | {"inputs": two})
    assert body["mergeable"]
    assert [warning["code"] for warning in body["warnings"]] == ["not_authenticated"]


def test_warnings_name_private_parents_and_a_taken_name(ada, two, adapter_files):
    ada.ready("ada/secret", adapter_files(seed=3), visibility="private", license="apache-2.0")
    recipe = {
        "method": "weighted_sum",
        "inputs": [*two, {"adapter": "ada/secret", "weight": 2}],
        "output": {"name": "ada/one", "visibility": "public"},
    }
    body = preview(ada, recipe)
    assert body["mergeable"]
    assert body["license"] == "apache-2.0"
    assert [warning["code"] for warning in body["warnings"]] == ["private_parent", "new_revision"]
    Adapter.objects.filter(full_name="ada/one").update(yanked_at="2026-01-01T00:00:00Z")
    assert ("output.name", "conflict") in places(preview(ada, recipe))


def test_what_keeps_more_is_suggested_where_all_it_needs_is_here(ada, adapter_files):
    base = {"base_model": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    for seed, name in enumerate(("one", "two")):
        ada.ready(f"ada/{name}", adapter_files(seed=seed), **base)
    ada.ready("ada/mute", adapter_files(seed=3, samples=None), **base)
    ada.ready("ada/elsewhere", adapter_files(seed=4), base_model="acme/unknown")
    ada.ready("ada/far", adapter_files(seed=5), base_model="acme/unknown")

    def suggested(method: str, *names: str, weights: tuple[float, ...] = (1, 1)) -> str | None:
        inputs = [{"adapter": f"ada/{name}", "weight": w} for name, w in zip(names, weights, strict=True)]
        body = preview(ada, {"method": method, "inputs": inputs})
        return body["suggestion"] and body["suggestion"]["method"]

    assert suggested("weighted_sum", "one", "two") == "regmean"
    assert suggested("iso_c", "one", "two") == "regmean"
    assert suggested("regmean_core", "one", "two") is None  # somebody who knows
    assert suggested("weighted_sum", "one", "two", weights=(1, -1)) is None  # one is taken away
    assert suggested("weighted_sum", "one", "mute") is None
    assert suggested("weighted_sum", "elsewhere", "far") is None  # nobody has its weights
    assert suggested("weighted_sum", "one", weights=(1,)) is None
    nested = {"recipe": {"method": "weighted_sum", "inputs": [{"adapter": "ada/one"}, {"adapter": "ada/two"}]}}
    body = preview(ada, {"method": "weighted_sum", "inputs": [nested, {"adapter": "ada/two"}]})
    assert body["mergeable"]
    assert body["suggestion"] is None


def test_the_inputs_of_a_retrieval_are_shown(ada, two):
    found = {"retrieve": {"text": "Name the capital of Peru.", "k": 2}}
    body = preview(ada, {"method": "weighted_sum", "inputs": found})
    assert {item["adapter"] for item in body["inputs"]} == {"ada/one", "ada/two"}
    assert sum(item["weight"] for item in body["inputs"]) == pytest.approx(1)
    none = {"retrieve": {"text": "Name the capital of Peru.", "filters": {"owner": ["nobody"]}}}
    assert places(preview(ada, {"method": "weighted_sum", "inputs": none})) == [("inputs", "invalid")]
    assert places(preview(ada, {"method": "weighted_sum", "inputs": {"retrieve": {"k": 1}}})) == [("inputs", "invalid")]


@pytest.mark.parametrize("body", [[], "x", None, {"inputs": []}, {"method": 5, "inputs": "x"}, {"more": 1}])
def test_nonsense_is_a_problem_and_not_a_crash(anyone, body):
    answer = anyone.post("/merges/preview/", body)
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert not answer.json()["mergeable"]


def test_licences_are_compared_and_the_merge_bears_what_covers_them(ada, two, adapter_files):
    terms = {"free": "gpl-3.0", "paid": "cc-by-nc-4.0", "frozen": "cc-by-nd-4.0"}
    for seed, (name, stated) in enumerate(terms.items(), 3):
        ada.ready(f"ada/{name}", adapter_files(seed=seed), license=stated)
    recipe = {"method": "weighted_sum", "inputs": [two[0], {"adapter": "ada/free"}]}
    assert preview(ada, recipe)["license"] == "gpl-3.0"
    ada.post("/merges/", recipe | {"output": {"name": "ada/both"}})
    run_jobs()
    assert ada.get("/adapters/ada/both/").json()["license"] == "gpl-3.0"

    clash = recipe | {"inputs": [*recipe["inputs"], {"adapter": "ada/paid"}], "output": {"name": "ada/clash"}}
    body = preview(ada, clash)
    assert (body["mergeable"], body["license"]) == (True, None)
    assert [warning["code"] for warning in body["warnings"]] == ["license_conflict"]
    ada.post("/merges/", clash)
    run_jobs()
    card = b"".join(ada.get("/adapters/ada/clash/files/README.md").streaming_content).decode()
    assert "ada/free is under gpl-3.0 and ada/paid under cc-by-nc-4.0" in card
    assert ada.get("/adapters/ada/clash/").json()["license"] == ""

    inner = {"method": "weighted_sum", "inputs": [two[0], {"adapter": "ada/frozen"}]}
    nested = {"method": "weighted_sum", "inputs": [{"recipe": inner}]}
    assert places(preview(ada, nested)) == [("inputs[0].recipe.inputs[1]", "license_forbids")]
    refusal = ada.post("/merges/", nested)
    assert (refusal.status_code, refusal.json()["detail"]["inputs"][0]["code"]) == (422, "license_forbids")
