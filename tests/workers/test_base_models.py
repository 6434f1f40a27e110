"""Merges that run the base model: found on the worker, run on samples, or refused with what to do."""

import json
import os
import shutil

import pytest
import torch

from lora.runtime.loading import load_running_base
from registry.base_models import register_base_model
from registry.base_weights import find_packaged
from registry.models import Job
from tests.api.conftest import Api, run_jobs
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, SAMPLES, UNLABELLED, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE
from workers import base_models
from workers.base_models import running_base


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / BASE)


def files(folder, samples=SAMPLES):
    return {path.name: path.read_bytes() for path in folder.iterdir()} | ({"samples.jsonl": samples} if samples else {})


@pytest.fixture
def ada(db, tmp_path):
    ada = Api("ada")
    for seed in (0, 1):
        folder = write_adapter_files(
            tmp_path / f"in{seed}", MODULES, rank=2, seed=seed, config_overrides={"base_model_name_or_path": BASE}
        )
        ada.ready(f"ada/in{seed}", files(folder), license="mit")
    return ada


def merged(ada, method, **params):
    inputs = [{"adapter": "ada/in0"}, {"adapter": "ada/in1"}]
    asked = ada.post("/merges/", {"method": method, "inputs": inputs, "params": params})
    assert asked.status_code == 202, asked.content
    run_jobs()
    return Job.objects.get(pk=asked.json()["job"]["id"]), ada.get(f"/merges/{asked.json()['merge']['id']}/").json()


@pytest.mark.django_db
def test_the_base_is_loaded_from_its_folder_and_the_search_ends_in_a_weighted_sum(ada, base_folder, settings):
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()})
    settings.BASE_MODELS_DIR = str(base_folder.parent.parent)
    job, merge = merged(ada, "lorahub", budget=4)
    assert merge["status"] == "succeeded", job.error
    assert len(merge["report"]["found"]["weights"]) == 2
    assert len(merge["report"]["found"]["losses"]) == 4
    assert BASE in " ".join(line.message for line in job.log.all())
    job, merge = merged(ada, "regmean", samples=2)
    assert merge["status"] == "succeeded", job.error


@pytest.mark.django_db
def test_inputs_without_samples_are_refused_at_once_unless_there_are_examples(ada, tmp_path):
    folder = write_adapter_files(tmp_path / "mute", MODULES, rank=2, config_overrides={"base_model_name_or_path": BASE})
    ada.ready("ada/mute", files(folder, None), license="mit")
    recipe = {"method": "packllm", "inputs": [{"adapter": "ada/in0"}, {"adapter": "ada/mute"}]}
    refused = ada.post("/merges/", recipe)
    assert (refused.status_code, refused.json()["code"]) == (422, "not_mergeable")
    [problem] = ada.post("/merges/preview/", recipe).json()["problems"]
    assert (problem["where"], problem["code"]) == ("inputs[1]", "no_samples")
    assert ada.post("/merges/", recipe | {"params": {"examples": [{"input": "a b"}]}}).status_code == 202


def problems(ada, recipe):
    return [(item["where"], item["code"]) for item in ada.post("/merges/preview/", recipe).json()["problems"]]


@pytest.mark.django_db
def test_missing_outputs_are_told_before_there_is_a_job(ada, tmp_path):
    folder = write_adapter_files(tmp_path / "asks", MODULES, rank=2, config_overrides={"base_model_name_or_path": BASE})
    ada.ready("ada/asks", files(folder, UNLABELLED), license="mit")
    inputs = [{"adapter": "ada/in0"}, {"adapter": "ada/asks"}]
    recipe = {"method": "lorahub", "inputs": inputs}
    assert problems(ada, recipe) == [("inputs[1]", "no_labels")]
    refused = ada.post("/merges/", recipe)
    assert (refused.status_code, refused.json()["detail"]["inputs"][0]["code"]) == (422, "no_labels")
    assert "give examples in params" in refused.json()["message"]
    assert problems(ada, recipe | {"params": {"examples": [{"input": "a", "output": "b"}]}}) == []
    unlabelled = recipe | {"params": {"examples": [{"input": "a", "output": "b"}, {"input": "b"}]}}
    assert problems(ada, unlabelled) == [("params.examples", "invalid_params")]
    assert problems(ada, {"method": "regmean", "inputs": inputs}) == []  # looks at inputs alone
    # A recipe has the samples of all its adapters; its own method may look at each.
    inner = {"recipe": {"method": "weighted_sum", "inputs": inputs}}
    assert problems(ada, {"method": "lorahub", "inputs": [inner]}) == []
    inner["recipe"]["method"] = "greedy_soup"
    assert problems(ada, {"method": "ties", "inputs": [inner]}) == [("inputs[0].recipe.inputs[1]", "no_labels")]
    inner = {"recipe": {"method": "weighted_sum", "inputs": inputs[1:]}}
    assert problems(ada, {"method": "lorahub", "inputs": [inner]}) == [("inputs[0].recipe.inputs[0]", "no_labels")]


@pytest.mark.django_db
def test_a_base_that_is_not_seen_here_is_a_warning_because_a_worker_may_have_it(ada, base_folder, settings):
    def warned(method):
        recipe = {"method": method, "inputs": [{"adapter": "ada/in0"}, {"adapter": "ada/in1"}]}
        body = ada.post("/merges/preview/", recipe).json()
        assert body["mergeable"]
        return [item["message"] for item in body["warnings"] if item["code"] == "base_needed"]

    [message] = warned("regmean")
    assert BASE in message
    assert "base_not_here" in message
    assert warned("ties") == []
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()})
    settings.BASE_MODELS_DIR = str(base_folder.parent.parent)
    assert warned("regmean") == []


@pytest.mark.django_db
def test_the_texts_of_examples_stay_with_the_caller(ada, base_folder, settings):
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()})
    settings.BASE_MODELS_DIR = str(base_folder.parent.parent)
    inner = {
        "method": "greedy_soup",
        "inputs": [{"adapter": "ada/in0"}, {"adapter": "ada/in1"}],
        "params": {"examples": [{"input": "a secret", "output": "b"}]},
    }
    recipe = {"method": "weighted_sum", "inputs": [{"recipe": inner, "weight": 1}], "output": {"name": "ada/soup"}}
    merge = ada.post("/merges/", recipe).json()["merge"]
    run_jobs()
    done = ada.get(f"/merges/{merge['id']}/").json()
    assert done["status"] == "succeeded", done
    assert done["inputs"][0]["recipe"]["params"]["examples"] == [{"input": "a secret", "output": "b"}]
    [found] = done["report"]["found_within"].values()
    assert len(found["weights"]) == 2
    for path in ("README.md", "adapter_model.safetensors"):
        raw = b"".join(ada.get(f"/adapters/ada/soup/files/{path}").streaming_content)
        assert b"secret" not in raw
        assert b"sha256" in raw


@pytest.mark.django_db
def test_a_worker_without_the_base_fails_the_job_and_says_what_to_do(ada, settings, base_folder, tmp_path):
    job, _ = merged(ada, "lorahub")
    assert (job.status, job.error["code"], job.attempts) == ("failed", "base_not_here", 1)
    assert f"BASE_MODELS_DIR/{BASE}" in job.error["message"]
    broken = tmp_path / "bases" / BASE
    broken.mkdir(parents=True)
    (broken / "model.safetensors").write_bytes((base_folder / "model.safetensors").read_bytes()[:100])
    (broken / "config.json").write_text(json.dumps({"model_type": "no such model"}))
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()})
    settings.BASE_MODELS_DIR = str(tmp_path / "bases")
    job, _ = merged(ada, "swarm")
    assert job.status == "failed"
    assert "Traceback" not in job.error["message"]


def test_the_packaged_base_is_found_without_importing_its_package(db):
    folder, file = find_packaged("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert (folder / file).is_file()
    assert find_packaged("../etc") is None


@pytest.fixture
def loads(monkeypatch):
    """How often a base was loaded; none is kept from before."""
    counted = []

    def load(*args, **options):
        counted.append(args)
        return load_running_base(*args, **options)

    monkeypatch.setattr(base_models, "load_running_base", load)
    monkeypatch.setattr(base_models, "_kept", {})
    return counted


@pytest.fixture
def base(db, base_folder, settings, tmp_path):
    """A folder of the base that a test may change."""
    folder = tmp_path / "bases" / BASE
    shutil.copytree(base_folder, folder)
    settings.BASE_MODELS_DIR = str(tmp_path / "bases")
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()})
    return folder


def test_the_last_base_is_kept_for_the_next_job_as_long_as_its_files_are_the_same(base, loads, monkeypatch):
    told = []
    first = running_base(BASE, told.append)
    again = running_base(BASE, lambda fraction: None)
    assert again.model is first.model
    first.progress(0.5)
    assert told == [0.5]
    assert len(loads) == 1
    os.utime(base / "config.json", ns=(1, 1))
    running_base(BASE, told.append)
    assert len(loads) == 2
    monkeypatch.setattr(base_models, "KEPT_BYTES", 1)
    os.utime(base / "config.json", ns=(2, 2))
    for _ in range(2):
        running_base(BASE, told.append)
    assert len(loads) == 4


def test_a_base_that_a_job_has_left_changed_is_loaded_anew(base, loads):
    running_base(BASE, lambda fraction: None).model.to(torch.bfloat16)
    found = running_base(BASE, lambda fraction: None)
    assert {parameter.dtype for parameter in found.model.parameters()} == {torch.float32}
    next(found.model.modules()).register_forward_hook(lambda module, args, output: output)
    assert running_base(BASE, lambda fraction: None).model is not found.model
    assert len(loads) == 3
