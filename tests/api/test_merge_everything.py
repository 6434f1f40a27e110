"""Merges of adapters that hold more than ΔW, through the API and the worker: taken where they can be, else refused."""

import json

import pytest
import torch
from safetensors.torch import load, save, save_file

from registry.base_models import register_base_model
from registry.intake import CONFIG, WEIGHTS
from tests.api import test_bad_input as bad
from tests.api.conftest import run_jobs
from tests.lora.factories import MODULES

pytestmark = pytest.mark.django_db


@pytest.fixture
def with_tensors(adapter_files):
    """A function that makes the files of an adapter with further tensors and config entries."""

    def make(tensors, seed=0, **config):
        files = adapter_files(seed=seed, config_overrides=config)
        return files | {WEIGHTS: save(load(files[WEIGHTS]) | tensors)}

    return make


def vectors(leaf):
    return {f"base_model.model.{path}.{leaf}": torch.ones(shape[0]) for path, shape in MODULES.items()}


def merge(user, method="weighted_sum", names=("ada/a", "ada/b"), **body):
    return user.post("/merges/", {"method": method, "inputs": [{"adapter": name} for name in names]} | body)


def codes(answer):
    return [(item["adapter"], item["code"]) for item in answer.json()["detail"]["inputs"]]


@pytest.fixture
def base_dir(tmp_path, settings):
    settings.BASE_MODELS_DIR = str(tmp_path / "bases")
    folder = tmp_path / "bases" / "acme" / "tiny-base"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    weights = {f"{path}.weight": torch.randn(*shape, generator=generator) for path, shape in MODULES.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def test_dora_merges_where_the_base_is_at_hand_and_is_refused_elsewhere(
    ada, with_tensors, adapter_files, base_dir, settings
):
    register_base_model("acme/tiny-base", MODULES)
    ada.ready("ada/a", with_tensors(vectors("lora_magnitude_vector"), use_dora=True))
    ada.ready("ada/b", adapter_files(seed=1))
    body = {"method": "weighted_sum", "inputs": [{"adapter": "ada/a"}, {"adapter": "ada/b"}]}
    assert ada.post("/merges/preview/", body).json()["mergeable"] is True
    answer = merge(ada, output={"name": "ada/merged"})
    assert answer.status_code == 202
    run_jobs()
    done = ada.get(f"/merges/{answer.json()['merge']['id']}/").json()
    assert done["status"] == "succeeded"
    assert "dora_compressed" in {warning["code"] for warning in done["report"]["warnings"]}
    assert ada.get("/adapters/ada/merged/").json()["serving"]["vllm"]["verdict"] == "yes"
    settings.BASE_MODELS_DIR = ""
    refused = merge(ada, params={"scale": 0.5})
    bad.refused(refused, 422, "not_mergeable")
    assert codes(refused) == [("ada/a", "dora")]


def test_biases_and_heads(ada, with_tensors, adapter_files):
    head = {"base_model.model.score.weight": torch.ones(2, 8)}
    extra = vectors("lora_B.bias") | head
    ada.ready("ada/a", with_tensors(extra, lora_bias=True, modules_to_save=["score"]))
    ada.ready("ada/b", adapter_files(seed=1))
    refused = merge(ada, "ties")
    bad.refused(refused, 422, "not_mergeable")
    assert codes(refused) == [("ada/a", "lora_bias")]
    answer = merge(ada, output={"name": "ada/merged"})
    run_jobs()
    done = ada.get(f"/merges/{answer.json()['merge']['id']}/").json()
    assert done["status"] == "succeeded"
    assert "head_copied" in {warning["code"] for warning in done["report"]["warnings"]}
    serving = ada.get("/adapters/ada/merged/").json()["serving"]
    assert {name: found["verdict"] for name, found in serving.items()} == {
        "vllm": "no", "sglang": "wrong-silently", "lorax": "no", "peft": "yes",
    }  # fmt: skip


def test_biases_of_the_base_need_weights_that_sum_to_one(ada, with_tensors):
    for seed, name in enumerate(("ada/a", "ada/b")):
        ada.ready(name, with_tensors(vectors("base_layer.bias"), seed, bias="lora_only"))
    inputs = [{"adapter": "ada/a", "weight": 1.0}, {"adapter": "ada/b", "weight": 1.0}]
    refused = ada.post("/merges/", {"method": "weighted_sum", "inputs": inputs})
    bad.refused(refused, 422, "not_mergeable")
    assert codes(refused) == [("ada/a", "trained_bias"), ("ada/b", "trained_bias")]
    assert merge(ada).status_code == 202


def test_a_preview_tells_of_weights_that_dwarf_the_rest(ada, adapter_files):
    shapes = {f"model.layers.0.self_attn.{name}": (8, 8) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    files = adapter_files(modules=shapes)
    tensors = {
        name: tensor * 50 if ("q_proj" in name or "k_proj" in name) and "lora_B" in name else tensor
        for name, tensor in load(files[WEIGHTS]).items()
    }
    ada.ready("ada/a", files | {WEIGHTS: save(tensors)})
    ada.ready("ada/b", adapter_files(modules=shapes, seed=1))
    body = {"method": "weighted_sum", "inputs": [{"adapter": "ada/a"}, {"adapter": "ada/b"}]}
    found = [w for w in ada.post("/merges/preview/", body).json()["warnings"] if w["code"] == "possible_merge_lock"]
    assert [w["message"].split()[0] for w in found] == ["ada/a"]


@pytest.mark.parametrize("init", ["pissa", "olora", "corda", "loftq"])
def test_adapters_of_a_modified_base_say_how_to_convert_them(ada, adapter_files, init):
    ada.ready("ada/a", adapter_files(config_overrides={"init_lora_weights": init}))
    ada.ready("ada/b", adapter_files(seed=1))
    refused = merge(ada)
    assert codes(refused) == [("ada/a", "modified_base")]
    assert "path_initial_model_for_weight_conversion" in refused.json()["message"]


@pytest.mark.parametrize("kind", ["ADALORA", "LOHA", "LOKR", "VERA", "OFT", "IA3"])
def test_other_kinds_of_adapters_are_refused_at_the_door(ada, adapter_files, kind):
    files = adapter_files()
    files[CONFIG] = json.dumps(json.loads(files[CONFIG]) | {"peft_type": kind}).encode()
    answer = ada.upload("ada/x", files)
    bad.refused(answer, 422, "invalid_adapter")
    assert answer.json()["detail"]["problems"][0]["code"] == "not_lora"
