"""`POST /retrieve/` by running experts on the query: `lorahub`, and `what_the_weight` by prior and entropy."""

import json

import pytest

from registry.base_models import register_base_model
from registry.models import Job, JobLog, Revision
from retrieval import module_services
from tests.api.conftest import run_jobs
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, SAMPLES, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE

EXAMPLES = [{"input": "ab", "output": "c"}, {"input": "b a", "output": "a c"}, {"input": "ca", "output": "b"}]
PRIOR = {"score": "prior"}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / BASE)


@pytest.fixture
def with_base(db, base_folder, settings):
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()}, aliases=["acme/other-name"])
    settings.BASE_MODELS_DIR = str(base_folder.parent.parent)


@pytest.fixture
def add(tmp_path):
    """A function that makes an expert of the tiny base ready."""

    def make(who, name, seed=0, samples=SAMPLES, modules=MODULES, **fields):
        overrides = {"base_model_name_or_path": BASE}
        folder = write_adapter_files(tmp_path / name, modules, rank=2, seed=seed, config_overrides=overrides)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        files |= {"samples.jsonl": samples} if samples else {}
        return who.ready(f"{who.username}/{name}", files, **({"license": "mit"} | fields))

    return make


@pytest.fixture
def experts(with_base, ada, add):
    add(ada, "in0", 0)
    add(ada, "in1", 1, tags=["qa"])
    add(ada, "bare", 2, samples=None)


def ask(who, router="lorahub", **changes):
    return who.post("/retrieve/", {"router": router, "examples": EXAMPLES, "base_model": BASE} | changes)


def finished(who, answer):
    assert answer.status_code == 202, answer.content
    run_jobs()
    return who.get(f"/jobs/{answer.json()['job']['id']}/").json()


def result_of(who, *asked, **changes):
    job = finished(who, ask(who, *asked, **changes))
    assert job["status"] == "succeeded", job
    return job["result"]


def test_lorahub_ranks_by_the_weights_that_it_found(experts, ada):
    answer = result_of(ada, explain=True)
    assert (answer["router"], answer["space"], answer["warnings"], answer["skipped"]) == (
        "lorahub",
        f"experts of {BASE}",
        [],
        [],
    )
    [found] = answer["results"]
    weights = {one["adapter"]: one["weight"] for one in found["inputs"]}
    assert set(weights) <= {"ada/in0", "ada/in1", "ada/bare"}
    assert found["loss"]["after"] < found["loss"]["before"]
    assert found["loss"]["tried"] == 40
    positive = {name: weight for name, weight in weights.items() if weight > 0}
    assert [match["adapter"] for match in found["matches"]] == sorted(positive, key=lambda name: -positive[name])
    for match in found["matches"]:
        assert match["score"] == pytest.approx(weights[match["adapter"]], abs=1e-6)
        assert match["weight"] == pytest.approx(weights[match["adapter"]] / sum(positive.values()), abs=1e-5)
        assert match["evidence"]["samples"] == []
        assert match["evidence"]["loss_without"] > 0
        assert (match["license"], len(match["revision"])) == ("mit", 40)


def test_what_lorahub_found_is_merged_as_it_stands(experts, ada):
    """Negative weights included; the merge's own search, at that point, begins with the same loss."""
    for seed in range(20):
        [found] = result_of(ada, params={"seed": seed})["results"]
        if any(one["weight"] < 0 for one in found["inputs"]):
            break
    assert any(one["weight"] < 0 for one in found["inputs"])
    body = {"method": "weighted_sum", "inputs": found["inputs"], "output": {"name": "ada/sum"}}
    merge = ada.post("/merges/", body)
    assert merge.status_code == 202, merge.content
    again = {"budget": 1, "shrinkage": 0, "examples": EXAMPLES}
    searched = ada.post("/merges/", {"method": "lorahub", "inputs": found["inputs"], "params": again})
    assert searched.status_code == 202, searched.content
    run_jobs()
    assert ada.get(f"/merges/{merge.json()['merge']['id']}/").json()["status"] == "succeeded"
    report = ada.get(f"/merges/{searched.json()['merge']['id']}/").json()["report"]
    assert report["found"]["loss"] == pytest.approx(found["loss"]["after"], rel=1e-5)


@pytest.mark.parametrize("score", ["prior", "entropy"])
def test_what_the_weight_by_running_experts_warns(experts, ada, score):
    answer = result_of(ada, "what_the_weight", params={"score": score}, explain=True)
    [warning] = answer["warnings"]
    assert warning["code"] == "prompts_only"
    assert "POST /trials/" in warning["message"]
    [found] = answer["results"]
    matches = found["matches"]
    assert {match["adapter"] for match in matches} == {"ada/in0", "ada/in1", "ada/bare"}
    assert sum(match["score"] for match in matches) == pytest.approx(1, abs=1e-5)
    assert [match["weight"] for match in matches] == pytest.approx([match["score"] for match in matches], abs=1e-5)
    name = "log_likelihood" if score == "prior" else "entropy"
    values = [match["evidence"][name] for match in matches]
    assert values == sorted(values, reverse=score == "prior")
    assert "inputs" not in found
    equal = result_of(ada, "what_the_weight", params={"score": score, "weights": "uniform"}, k=2)["results"][0]
    assert [match["weight"] for match in equal["matches"]] == [0.5, 0.5]
    one = result_of(ada, "what_the_weight", params={"score": score}, examples=None, text="ab c")
    assert len(one["results"][0]["matches"]) == 3


def test_the_other_scores_answer_at_once_as_before(experts, ada):
    answer = ask(ada, "what_the_weight", params={"score": "uniform"})
    assert answer.status_code == 200
    assert "warnings" not in answer.json()


def test_candidates_are_those_nearest_to_the_examples_under_filters(experts, ada, add):
    ask(ada, params={"candidates": 2})
    [job] = Job.objects.filter(kind="route", status="queued")
    near = ada.post("/retrieve/", {"router": "lora_retriever", "examples": EXAMPLES, "k": 2}).json()
    names = [match["revision"] for match in near["results"][0]["matches"]]
    assert [Revision.objects.get(pk=pk).commit for pk in job.payload["revisions"]] == names
    [found] = result_of(ada, "what_the_weight", params=PRIOR, filters={"tag": ["qa"]})["results"]
    assert [match["adapter"] for match in found["matches"]] == ["ada/in1"]
    [found] = result_of(ada, "what_the_weight", params=PRIOR, base_model="acme/other-name")["results"]
    assert len(found["matches"]) == 3


def test_without_experts_or_without_gain_it_abstains(with_base, ada, add):
    [found] = result_of(ada)["results"]
    assert (found["abstained"], found["reason"], found["matches"]) == (True, "no_experts", [])
    add(ada, "in0", 0)
    [found] = result_of(ada, params={"shrinkage": 1e6})["results"]
    assert (found["abstained"], found["reason"]) == (True, "below_threshold")
    assert found["inputs"] == []
    assert found["loss"]["after"] == found["loss"]["before"]


def test_what_the_caller_may_not_see_is_not_run(experts, ada, bob, add):
    add(ada, "secret", 5, visibility="private")
    names = {match["adapter"] for match in result_of(bob, "what_the_weight", params=PRIOR)["results"][0]["matches"]}
    assert names == {"ada/in0", "ada/in1", "ada/bare"}
    answer = ask(bob, "what_the_weight", params=PRIOR)
    ada.patch("/adapters/ada/in0/", {"visibility": "private"})
    job = finished(bob, answer)
    assert {match["adapter"] for match in job["result"]["results"][0]["matches"]} == {"ada/in1", "ada/bare"}
    answer = ask(bob, "what_the_weight", params=PRIOR)
    for name in ("in1", "bare"):
        assert ada.delete(f"/adapters/ada/{name}/").status_code == 204
    assert finished(bob, answer)["error"]["code"] == "conflict"


def test_what_the_base_does_not_take_is_told_and_left_out(with_base, ada, add, base_folder):
    wide = "model.layers.1.mlp.up_proj"
    register_base_model(BASE, {path: list(shape) for path, shape in (MODULES | {wide: (32, 8)}).items()})
    add(ada, "in0", 0)
    add(ada, "odd", 1, modules=MODULES | {wide: (32, 8)})
    answer = result_of(ada, "what_the_weight", params=PRIOR)
    assert [match["adapter"] for match in answer["results"][0]["matches"]] == ["ada/in0"]
    [skipped] = answer["skipped"]
    assert skipped["adapter"] == "ada/odd"
    assert wide in skipped["reason"]


def test_examples_are_erased_and_a_worker_without_the_base_says_so(experts, ada, settings):
    secret = [{"input": "cab secret", "output": "secret"}]
    finished(ada, ask(ada, examples=secret))
    settings.BASE_MODELS_DIR = ""
    job = finished(ada, ask(ada, examples=secret))
    assert (job["status"], job["error"]["code"]) == ("failed", "base_not_here")
    rows = [*Job.objects.values("payload", "private", "result", "error"), *JobLog.objects.values("message")]
    assert "secret" not in json.dumps(rows)


@pytest.mark.parametrize(
    ("router", "changes", "field"),
    [
        ("lorahub", {"base_model": None}, "base_model"),
        ("lorahub", {"examples": None, "text": "a"}, "text"),
        ("lorahub", {"examples": [{"input": "a"}]}, "examples[0].output"),
        ("lorahub", {"examples": [{"input": " ", "output": "a"}]}, "examples[0].input"),
        ("lorahub", {"examples": [{"input": "a" * 40_000, "output": "b" * 30_000}]}, "examples"),
        ("lorahub", {"examples": []}, "examples"),
        ("lorahub", {"outcomes": True}, "'outcomes'"),
        ("lorahub", {"params": {"budgets": 3}}, None),
        ("lorahub", {"params": {"prompt": "no place"}}, None),
        ("lorahub", {"params": []}, None),
        ("what_the_weight", {"params": PRIOR, "base_model": None}, "base_model"),
        ("what_the_weight", {"params": PRIOR, "examples": None, "texts": ["a"]}, "texts"),
        ("what_the_weight", {"params": PRIOR, "examples": None, "text": "a" * 64_001}, "text"),
        ("what_the_weight", {"params": PRIOR | {"top": 1}}, None),
        ("what_the_weight", {"params": {"score": "priors"}}, None),
    ],
)
def test_bad_requests_are_refused_by_field(experts, ada, router, changes, field):
    answer = ask(ada, router, **changes)
    assert answer.status_code == 400, answer.content
    assert field is None or field in answer.json()["detail"], answer.content
    assert not Job.objects.filter(kind="route").exists()


def test_who_may_ask_and_how_often(experts, ada, anyone, monkeypatch):
    assert ask(anyone).json()["code"] == "not_authenticated"
    assert ask(anyone, "what_the_weight", params=PRIOR).json()["code"] == "not_authenticated"
    monkeypatch.setattr(module_services, "MAX_OPEN", 1)
    assert ask(ada).status_code == 202
    assert ask(ada).json()["code"] == "throttled"


def test_other_places_say_that_these_need_a_job(experts, ada):
    for retrieval in ({"router": "lorahub"}, {"router": "what_the_weight", "params": PRIOR}):
        body = {"method": "weighted_sum", "inputs": {"retrieve": retrieval | {"text": "a"}}}
        answer = ada.post("/merges/", body)
        assert (answer.status_code, "job" in answer.json()["message"]) == (400, True)
    parts = {"request": json.dumps({"router": "lorahub", "base_model": BASE}), "hidden_states": "x"}
    assert ada.client.post("/api/v1/retrieve/", parts, format="multipart").status_code == 400
    known = ada.post("/retrieve/", {"router": "lora_hub", "text": "a"}).json()
    assert "lorahub" in known["message"]


def test_methods_tell_which_parameters_take_a_job(db, anyone):
    routers = {method["name"]: method for method in anyone.get("/methods/").json()["routers"]}
    assert (routers["lorahub"]["answers"], routers["lorahub"]["job_with"]) == ("job", {})
    assert routers["what_the_weight"]["answers"] == "at_once"
    assert routers["what_the_weight"]["job_with"] == {"score": ["prior", "entropy"]}
    assert routers["hybrid"]["job_with"] == {}
    assert not any("only" in method for method in routers.values())
