"""Trials over REST: examples in, a measured ranking and a merge out; the examples stay private, and not for long."""

import io
import json
import zipfile

import pytest

from lora.runtime.answering import Answer
from registry.base_models import register_base_model
from registry.models import Job, JobLog, Merge, Revision
from retrieval import trials
from tests.api.conftest import Api, run_jobs, stored
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, SAMPLES, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE

EXAMPLES = [{"input": "ab", "output": "c"}, {"input": "b a", "output": "a c"}, {"input": "ca", "output": "b"}]
SECRET = "cab secret"


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / BASE)


@pytest.fixture
def add(tmp_path):
    """A function that makes an expert of the tiny base ready."""

    def make(who, name, seed=0, samples=SAMPLES, modules=MODULES, config=None, **fields):
        overrides = {"base_model_name_or_path": BASE} | (config or {})
        folder = write_adapter_files(tmp_path / name, modules, rank=2, seed=seed, config_overrides=overrides)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        files |= {"samples.jsonl": samples} if samples else {}
        return who.ready(f"{who.username}/{name}", files, **({"license": "mit"} | fields))

    return make


@pytest.fixture
def with_base(db, base_folder, settings):
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()}, aliases=["acme/other-name"])
    settings.BASE_MODELS_DIR = str(base_folder.parent.parent)


@pytest.fixture
def experts(with_base, ada, add):
    for seed in range(3):
        add(ada, f"in{seed}", seed)


def begin(who, **changes):
    return who.post("/trials/", {"examples": EXAMPLES, "base_model": BASE} | changes)


def finished(who, answer):
    assert answer.status_code == 202, answer.content
    run_jobs()
    return who.get(f"/jobs/{answer.json()['job']['id']}/").json()


def test_a_trial_ranks_what_it_has_measured(experts, ada):
    answer = begin(ada)
    assert answer.status_code == 202
    job = answer.json()["job"]
    assert answer["Location"] == f"/api/v1/jobs/{job['id']}/"
    assert (job["kind"], job["status"]) == ("trial", "queued")
    result = finished(ada, answer)["result"]
    assert {row["kind"] for row in result["ranking"]} == {"base", "base_few_shot", "adapter"}
    assert {row["adapter"] for row in result["ranking"]} == {None, "ada/in0", "ada/in1", "ada/in2"}
    assert result["merge"] is None
    assert (result["base_model"], result["examples"], result["skipped"]) == (BASE, 3, [])
    order = [(-row["exact_match"], -row["probability"]) for row in result["ranking"]]
    assert order == sorted(order)
    assert all(row["examples"] == 3 and row["loss"] > 0 for row in result["ranking"])
    assert all(len(row["revision"]) == 40 for row in result["ranking"] if row["adapter"])


def test_experts_are_asked_below_the_line_of_their_samples_where_the_caller_may_read_them(with_base, ada, bob, add):
    samples = b'{"input": "bb a\\nab", "output": "c"}\n{"input": "bb a\\nb", "output": "a c"}\n'
    for seed in range(6):
        add(ada, f"in{seed}", seed, samples=samples)
    rows = finished(bob, begin(bob))["result"]["ranking"]
    lines = {row["adapter"]: row["instruction"] for row in rows}
    assert set(lines.values()) == {None, "bb a"}
    assert lines[None] is None
    for name in lines:
        if name:
            ada.patch(f"/adapters/{name}/", {"samples_public": False})
    assert {row["instruction"] for row in finished(bob, begin(bob))["result"]["ranking"]} == {None}
    assert finished(ada, begin(ada))["result"]["ranking"] == rows


def test_the_best_merge_can_be_downloaded_and_is_reproduced_by_its_recipe(experts, ada):
    job = finished(ada, begin(ada, merge=True))
    assert job["status"] == "succeeded", job
    [row] = [row for row in job["result"]["ranking"] if row["kind"] == "merge"]
    merge = ada.get(f"/merges/{job['result']['merge']}/").json()
    weights = {item["adapter"]: item["weight"] for item in merge["inputs"]}
    assert weights == {item["adapter"]: item["weight"] for item in row["inputs"] if item["weight"]}
    assert (merge["method"], merge["output"]["rank"], merge["params"]["scale"]) == (
        "weighted_sum",
        {"mode": "exact"},
        1.0,
    )
    run_jobs()
    archive = ada.get(f"/merges/{merge['id']}/archive/")
    assert archive.status_code == 200
    names = zipfile.ZipFile(io.BytesIO(b"".join(archive.streaming_content))).namelist()
    assert any(name.endswith("adapter_model.safetensors") for name in names)
    # The same search again finds the same weights, hence the same merge.
    again = finished(ada, begin(ada, merge=True))
    assert again["result"] == job["result"]
    assert Merge.objects.count() == 1


def test_examples_are_erased_with_the_end_of_the_job_and_are_in_nothing_that_is_kept(experts, ada, settings):
    examples = [*EXAMPLES, {"input": SECRET, "output": "b secret"}]
    finished(ada, begin(ada, examples=examples, merge=True))
    for changes in ({"k": 1}, {"k": 2}):
        answer = begin(ada, examples=examples, **changes)
        job = Job.objects.get(pk=answer.json()["job"]["id"])
        assert SECRET in json.dumps(job.private)
        assert SECRET not in json.dumps([job.payload, answer.json(), ada.get(f"/jobs/{job.pk}/").json()])
        if changes == {"k": 1}:
            settings.BASE_MODELS_DIR = ""
            run_jobs()
        else:
            ada.post(f"/jobs/{job.pk}/cancel/", {})
    assert sorted(Job.objects.filter(kind="trial").values_list("status", flat=True)) == [
        "cancelled", "failed", "succeeded",
    ]  # fmt: skip
    rows = [*Job.objects.values("payload", "private", "result", "error"), *JobLog.objects.values("message")]
    rows += Merge.objects.values("params", "output", "tree")
    assert "secret" not in json.dumps(rows)


def test_what_was_answered_is_kept_as_outcomes_if_one_asks_for_it(experts, ada, bob):
    finished(ada, begin(ada))
    assert ada.get("/outcomes/").json()["count"] == 0
    result = finished(ada, begin(ada, outcomes=True))["result"]
    kept = ada.get("/outcomes/", source="trial", own="true", page_size=100).json()
    assert result["outcomes"] == kept["count"] == 9
    for row in result["ranking"]:
        if row["kind"] == "adapter":
            scores = {one["text"]: one["score"] for one in kept["results"] if one["adapter"] == row["adapter"]}
            assert scores.keys() == {example["input"] for example in EXAMPLES}
            assert sum(scores.values()) / 3 == row["exact_match"]
    finished(ada, begin(ada, outcomes=True))
    assert ada.get("/outcomes/").json()["count"] == 9, "the same again"
    assert {one["text"] for one in bob.get("/outcomes/").json()["results"]} == {None}


def test_each_answer_is_kept_with_its_own_input(experts, ada, monkeypatch):
    monkeypatch.setattr(
        "lora.trials.answers", lambda base, lines, prompt: [Answer(1.0, one.input == "b a") for one in lines]
    )
    finished(ada, begin(ada, outcomes=True, k=1))
    kept = ada.get("/outcomes/").json()["results"]
    assert {one["text"]: one["score"] for one in kept} == {"ab": 0.0, "b a": 1.0, "ca": 0.0}


def test_a_worker_without_the_base_says_so_and_what_to_do(ada, add):
    add(ada, "one")
    job = finished(ada, begin(ada))
    assert (job["status"], job["error"]["code"]) == ("failed", "base_not_here")
    assert f"BASE_MODELS_DIR/{BASE}" in job["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"examples": []}, "examples"),
        ({"examples": None}, "examples"),
        ({"examples": "ab => c"}, "examples"),
        ({"examples": EXAMPLES * 22}, "examples"),
        ({"examples": [{"input": "ab"}]}, "examples[0]"),
        ({"examples": [EXAMPLES[0], {"input": "ab", "output": " \n"}]}, "examples[1]"),
        ({"examples": [{"input": " ", "output": "c"}]}, "examples[0]"),
        ({"examples": [{"input": "a" * 4001, "output": "c"}]}, "examples[0]"),
        ({"examples": [{"input": "a\0", "output": "c"}]}, "examples[0]"),
        ({"examples": [{"input": "a", "output": 7}]}, "examples[0]"),
        ({"examples": [{"input": "a" * 3999, "output": "c"}] * 17}, "examples"),
        ({"base_model": None}, "base_model"),
        ({"base_model": 7}, "base_model"),
        ({"base_model": "acme/unheard-of"}, "base_model"),
        ({"k": 0}, "k"),
        ({"k": 33}, "k"),
        ({"k": True}, "k"),
        ({"k": "10"}, "k"),
        ({"merge": "yes"}, "merge"),
        ({"outcomes": "yes"}, "outcomes"),
        ({"merge": True, "examples": EXAMPLES[:1]}, "merge"),
        ({"prompt": "no place for it"}, "prompt"),
        ({"prompt": "{line}" + "a" * 2000}, "prompt"),
        ({"prompt": "{line}\0"}, "prompt"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_name_and_leaves_nothing(experts, ada, changes, field):
    before = stored()
    answer = begin(ada, **changes)
    body = answer.json()
    assert (answer.status_code, body["code"], list(body["detail"])) == (400, "invalid", [field]), body
    assert stored() == before


def test_a_misspelt_field_is_refused(experts, ada):
    answer = begin(ada, merges=True)
    assert answer.status_code == 400
    assert "merge" in answer.json()["message"]


def test_a_base_without_an_expert_that_can_be_tried_is_a_conflict(with_base, ada, bob, add):
    answer = begin(ada)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    add(bob, "hidden", visibility="private")
    assert begin(ada).status_code == 409
    add(ada, "modified", config={"init_lora_weights": "pissa"})
    answer = begin(ada)
    assert answer.status_code == 409
    assert "fits a modified base only" in answer.json()["message"]
    assert begin(bob).status_code == 202, "her own private expert"


def candidates(answer):
    assert answer.status_code == 202, answer.content
    wanted = Job.objects.get(pk=answer.json()["job"]["id"]).payload["revisions"]
    found = Revision.objects.select_related("adapter").in_bulk(wanted)
    return [found[pk].adapter.full_name for pk in wanted]


def test_a_small_pool_is_tried_whole_also_without_samples(with_base, ada, add):
    add(ada, "first")
    add(ada, "mute", 1, samples=None)
    add(ada, "modified", 2, config={"init_lora_weights": "pissa"})
    assert sorted(candidates(begin(ada))) == ["ada/first", "ada/mute"]
    assert sorted(candidates(begin(ada, base_model="acme/other-name"))) == ["ada/first", "ada/mute"]


def test_of_a_larger_pool_those_are_tried_that_a_retrieval_finds_for_the_examples(with_base, ada, add):
    def asks(text):
        return json.dumps({"input": text}).encode() + b"\n"

    add(ada, "rivers", samples=asks("Which river flows through Cairo?"))
    add(ada, "mute", 1, samples=None)
    add(ada, "capitals", 2, samples=asks("Name the capital of Peru."))
    capitals = [{"input": "What is the capital of Chile?", "output": "Santiago"}]
    assert candidates(begin(ada, examples=capitals, k=1)) == ["ada/capitals"]
    assert candidates(begin(ada, examples=capitals, k=2)) == ["ada/capitals", "ada/rivers"]


def test_the_same_request_again_is_the_same_job_while_it_is_open_and_open_trials_are_bounded(experts, ada, bob):
    first = begin(ada).json()["job"]["id"]
    assert begin(ada).json()["job"]["id"] == first
    for count in range(trials.MAX_OPEN - 1):
        assert begin(ada, k=count + 1).status_code == 202
    over = begin(ada, prompt="{line}:")
    assert (over.status_code, over.json()["code"], over["Retry-After"]) == (429, "throttled", "30")
    assert begin(ada).json()["job"]["id"] == first
    assert begin(bob).status_code == 202
    run_jobs()
    assert begin(ada).json()["job"]["id"] != first


def test_a_trial_is_its_owners_own(experts, ada, anyone, bob):
    assert begin(anyone).status_code == 401
    job = begin(ada).json()["job"]
    assert bob.get(f"/jobs/{job['id']}/").status_code == 404


def test_experts_that_were_taken_back_meanwhile_are_not_run(experts, ada):
    answer = begin(ada)
    ada.delete("/adapters/ada/in1/")
    job = finished(ada, answer)
    assert {row["adapter"] for row in job["result"]["ranking"]} == {None, "ada/in0", "ada/in2"}
    answer = begin(ada)
    for name in ("in0", "in2"):
        ada.delete(f"/adapters/ada/{name}/")
    job = finished(ada, answer)
    assert (job["status"], job["error"]["code"]) == ("failed", "conflict")


def test_what_a_licence_forbids_is_tried_and_not_merged(with_base, ada, add):
    for seed in range(2):
        add(ada, f"in{seed}", seed, license="cc-by-nd-4.0")
    job = finished(ada, begin(ada, merge=True))
    assert job["status"] == "succeeded", job
    assert job["result"]["merge"] is None
    assert {row["kind"] for row in job["result"]["ranking"]} == {"base", "base_few_shot", "adapter"}
    assert any("allows no derived works" in line["message"] for line in job["log"])


def test_an_adapter_that_the_base_does_not_take_is_named_and_the_others_are_ranked(with_base, ada, add):
    add(ada, "fits")
    wrong = {f"{path}_of_another": shape for path, shape in MODULES.items()}
    register_base_model(BASE, {path: list(shape) for path, shape in (MODULES | wrong).items()})
    add(ada, "wrong", 1, modules=wrong)
    job = finished(ada, begin(ada))
    assert [item["adapter"] for item in job["result"]["skipped"]] == ["ada/wrong"]
    assert {row["adapter"] for row in job["result"]["ranking"]} == {None, "ada/fits"}


def test_the_trial_of_an_account_that_is_gone_ends_without_its_examples(experts):
    carol = Api("carol")
    answer = begin(carol)
    carol.user.delete()
    run_jobs()
    job = Job.objects.get(pk=answer.json()["job"]["id"])
    assert (job.status, job.private) == ("failed", None)
