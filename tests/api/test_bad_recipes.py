"""Recipes that cannot be what somebody wants: each is refused with what to do, or gives something sound."""

import json

import pytest
from safetensors.numpy import load

from registry.models import Adapter, Job, Merge, Revision
from tests.api.conftest import run_jobs, stored
from tests.lora.factories import MODULES


@pytest.fixture
def two(ada, adapter_files):
    ada.ready("ada/one", adapter_files(seed=1, rank=2), license="mit")
    ada.ready("ada/two", adapter_files(seed=2, rank=3), license="mit")
    return [{"adapter": "ada/one"}, {"adapter": "ada/two"}]


def refused(ada, recipe, status, code):
    before = stored()
    answer = ada.post("/merges/", recipe)
    assert answer.status_code == status, answer.content
    assert answer.json()["code"] == code
    assert stored() == before
    return answer.json()


def finished(ada, answer):
    assert answer.status_code == 202, answer.content
    run_jobs()
    return ada.get(f"/merges/{answer.json()['merge']['id']}/").json()


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "-Infinity", "1e999", '"1"', "true", "[1]", "1e7"])
@pytest.mark.parametrize("method", ["weighted_sum", "ties"])
def test_weights_that_are_no_sensible_number(ada, two, method, weight):
    raw = json.dumps({"method": method, "inputs": two}).replace('"ada/two"', f'"ada/two", "weight": {weight}')
    answer = ada.client.post("/api/v1/merges/", raw, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


@pytest.mark.parametrize("method", ["weighted_sum", "ties"])
def test_weights_that_are_all_zero(ada, two, method):
    zero = [item | {"weight": 0} for item in two]
    assert refused(ada, {"method": method, "inputs": zero}, 400, "invalid_params")["detail"]["where"] == "weights"


def test_weights_that_cancel_are_a_sound_merge(ada, two):
    opposite = [two[0] | {"weight": 1}, two[1] | {"weight": -1}]
    assert finished(ada, ada.post("/merges/", {"method": "weighted_sum", "inputs": opposite}))["status"] == "succeeded"


@pytest.mark.parametrize("density", [0, -0.1, 1.1, None, "1", True])
def test_densities_out_of_bounds(ada, two, density):
    recipe = {"method": "ties", "inputs": two, "params": {"density": density}}
    assert refused(ada, recipe, 400, "invalid_params")["detail"]["where"] == "params.density"


def test_all_of_the_entries_is_a_density(ada, two):
    recipe = {"method": "ties", "inputs": two, "params": {"density": 1}}
    assert finished(ada, ada.post("/merges/", recipe))["status"] == "succeeded"


def test_numbers_of_parents(ada, two):
    for inputs in ([], two * 5000, [{"adapter": f"ada/{number}"} for number in range(101)]):
        refused(ada, {"method": "weighted_sum", "inputs": inputs}, 400, "invalid")
    assert finished(ada, ada.post("/merges/", {"method": "ties", "inputs": two[:1]}))["report"]["relative_error"] < 1e-6


def test_the_same_parent_twice_also_by_its_revision(ada, two):
    revision = ada.get("/adapters/ada/one/").json()["revision"]
    again = {"adapter": "ada/one", "revision": revision}
    detail = refused(ada, {"method": "ties", "inputs": [*two, again]}, 422, "not_mergeable")["detail"]
    assert [(item["where"], item["code"]) for item in detail["inputs"]] == [("inputs[2]", "duplicate_input")]


def test_a_merge_into_its_own_parent_is_the_next_revision_and_no_cycle(ada, two):
    recipe = {"method": "weighted_sum", "inputs": two, "output": {"name": "ada/one"}}
    before = ada.get("/adapters/ada/one/").json()["revision"]
    assert finished(ada, ada.post("/merges/", recipe))["adapter"] == "ada/one"
    adapter = ada.get("/adapters/ada/one/").json()
    assert adapter["revision"] != before
    assert before in [parent["revision"] for parent in adapter["lineage"]["parents"]]
    # `main` is another revision now, so that this is another merge, of the first one.
    assert finished(ada, ada.post("/merges/", recipe))["status"] == "succeeded"
    assert ada.client.get("/adapters/ada/one/").status_code == 200


def test_parents_that_do_not_fit_each_other(ada, two, adapter_files):
    ada.ready("ada/other", adapter_files(config_overrides={"base_model_name_or_path": "acme/another"}))
    ada.ready("ada/wide", adapter_files(modules=dict.fromkeys(MODULES, (16, 8))))
    for name, code in (("other", "other_base"), ("wide", "different_shapes")):
        recipe = {"method": "weighted_sum", "inputs": [two[0], {"adapter": f"ada/{name}"}]}
        detail = refused(ada, recipe, 422, "not_mergeable")["detail"]
        assert [(item["where"], item["adapter"], item["code"]) for item in detail["inputs"]] == [
            ("inputs[1]", f"ada/{name}", code)
        ]
    stated = {"method": "weighted_sum", "inputs": two, "base_model": "acme/another"}
    assert "acme/tiny-base" in refused(ada, stated, 400, "invalid")["message"]


def test_parents_with_other_ranks_and_targets_fit(ada, two, adapter_files):
    ada.ready("ada/few", adapter_files(modules=dict(list(MODULES.items())[:1]), rank=1))
    merge = finished(ada, ada.post("/merges/", {"method": "weighted_sum", "inputs": [*two, {"adapter": "ada/few"}]}))
    assert [warning["code"] for warning in merge["report"]["warnings"]] == ["missing_modules"]


def test_a_rank_above_all_that_there_is(ada, two, tmp_path):
    recipe = {"method": "weighted_sum", "inputs": two, "output": {"rank": {"mode": "fixed", "value": 4096}}}
    merge = finished(ada, ada.post("/merges/", recipe))
    assert merge["report"]["relative_error"] < 1e-6
    weights = Merge.objects.get(pk=merge["id"]).artefact.weights
    from registry.storage import read_blob

    ranks = {tensor.shape[0] for name, tensor in load(read_blob(weights)).items() if "lora_A" in name}
    assert ranks == {8}  # no module can have more
    for value in (0, -1, 4097, 1.5, True, "8", None):
        wrong = recipe | {"output": {"rank": {"mode": "fixed", "value": value}}}
        assert refused(ada, wrong, 400, "invalid_params")["detail"]["where"] == "output.rank"


def test_parents_that_are_not_to_be_had(ada, bob, two, adapter_files):
    bob.ready("bob/secret", adapter_files(seed=3), visibility="private")
    bob.ready("bob/gone", adapter_files(seed=4))
    bob.delete("/adapters/bob/gone/")
    ada.upload("ada/checking", adapter_files(seed=5))
    for name, status, code in (
        ("bob/secret", 404, "not_found"),
        ("bob/gone", 404, "not_found"),
        ("bob/never", 404, "not_found"),
        ("ada/checking", 409, "conflict"),
    ):
        for inputs in ([*two, {"adapter": name}], [{"recipe": {"method": "ties", "inputs": [{"adapter": name}]}}]):
            refused(ada, {"method": "weighted_sum", "inputs": inputs}, status, code)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("how", ["yanked", "private"])
def test_a_parent_that_is_taken_back_while_the_merge_waits(ada, bob, two, adapter_files, how, nested):
    bob.ready("bob/lent", adapter_files(seed=3))
    lent = {"adapter": "bob/lent"}
    inputs = [two[0], {"recipe": {"method": "weighted_sum", "inputs": [lent]}} if nested else lent]
    answer = ada.post("/merges/", {"method": "weighted_sum", "inputs": inputs, "output": {"name": "ada/new"}})
    assert answer.status_code == 202
    if how == "yanked":
        bob.delete("/adapters/bob/lent/")
    else:
        bob.patch("/adapters/bob/lent/", {"visibility": "private"})
    run_jobs()
    job = ada.get(f"/jobs/{answer.json()['job']['id']}/").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "not_mergeable")
    [item] = job["error"]["detail"]["inputs"]
    assert (item["adapter"], item["code"]) == ("bob/lent", "withdrawn")
    assert not Adapter.objects.filter(full_name="ada/new").exists()


def test_the_revision_of_a_waiting_merge_cannot_be_deleted(ada, two):
    from django.db.models import ProtectedError

    ada.post("/merges/", {"method": "weighted_sum", "inputs": [{"recipe": {"method": "ties", "inputs": two}}]})
    with pytest.raises(ProtectedError):
        Revision.objects.filter(adapter__full_name="ada/two").delete()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"method": "weighted_sun"}, "method"),
        ({"params": {"densty": 1}}, "params.densty"),
        ({"parms": {}}, "request"),
        ({"output": {"nome": "ada/x"}}, "output"),
        ({"output": {"rank": {"mode": "exact", "vaule": 1}}}, "output.rank"),
        ({"inputs": [{"adapter": "ada/one", "wieght": 1}]}, "inputs[0]"),
        ({"inputs": [{"adapter": "ada/one", "recipe": {}}]}, "inputs[0]"),
        ({"inputs": [{"recipe": {"method": "ties", "output": {}}}]}, "inputs[0].recipe"),
    ],
)
def test_what_is_misspelled_is_refused_with_its_place(ada, two, change, where):
    answer = ada.post("/merges/", {"method": "weighted_sum", "inputs": two} | change)
    assert (answer.status_code, answer.json()["detail"]["where"]) == (400, where)


def test_the_same_fifty_times_is_one_job(ada, two):
    recipe = {"method": "ties", "inputs": two, "output": {"name": "ada/new"}}
    answers = [ada.post("/merges/", recipe).json() for _ in range(50)]
    assert len({(answer["merge"]["id"], answer["job"]["id"]) for answer in answers}) == 1
    assert Job.objects.filter(kind="merge").count() == 1
