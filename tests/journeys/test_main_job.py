"""The main job over HTTP: upload experts, find them, merge them, download the merge, load it with PEFT."""

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.journeys.server import ROOT, Site

pytestmark = pytest.mark.journey
ZOO = ROOT / "examples" / "zoo"
EXPERTS = ("record-to-json", "date-format", "roman-numerals")


@pytest.fixture(scope="module")
def ada(site: Site):
    client = site.client(site.create_token("ada"))
    for name in EXPERTS:
        adapter = client.upload_ready(f"ada/{name}", ZOO / name, license="apache-2.0")
        assert adapter["state"] == "ready"
    return client


def first_test_line(name: str) -> str:
    return json.loads((ZOO / name / "test.jsonl").read_text().splitlines()[0])["input"]


def test_an_expert_is_described_in_full(ada):
    adapter = ada.get("/adapters/ada/record-to-json/").json()
    assert adapter["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert adapter["facts"] | {"rank": 8, "alpha": 16, "scaling": 2.0, "dtype": "bfloat16"} == adapter["facts"]
    assert len(adapter["facts"]["modules"]) == adapter["facts"]["modules_bound"] == 120
    assert {item["kind"]: item["count"] for item in adapter["prototypes"]} == {
        "arrow": 120,
        "centroid": 1,
        "delta_sketch": 1,
        "description": 1,
        "hybrid": 1,
        "middle": 40,
        "samples": 40,
    }
    assert {item["path"] for item in adapter["files"]} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert "base_unknown" in {warning["code"] for warning in adapter["warnings"]}


def test_the_same_files_again_change_nothing(ada):
    before = ada.get("/adapters/ada/date-format/").json()
    again = ada.upload("ada/date-format", ZOO / "date-format", license="apache-2.0")
    assert (again.status_code, again.json()["job"]) == (200, None)
    assert again.json()["adapter"]["revision"] == before["revision"]


@pytest.mark.parametrize("name", EXPERTS)
def test_a_prompt_finds_its_expert(ada, site, name):
    answer = site.client().post("/retrieve/", json={"text": first_test_line(name), "k": 2, "explain": True})
    assert answer.status_code == 200, answer.text
    [result] = answer.json()["results"]
    best = result["matches"][0]
    assert best["adapter"] == f"ada/{name}"
    assert sum(match["weight"] for match in result["matches"]) == pytest.approx(1)
    assert best["evidence"]["samples"][0]["input"]


def test_arrow_prototypes_are_the_top_singular_vectors(ada):
    raw = ada.get("/adapters/ada/date-format/prototypes/arrow/").content
    tensors = load_file(_saved(raw, "arrow.safetensors"))
    weights = ZOO / "date-format" / "adapter_model.safetensors"
    from safetensors.torch import load_file as load_torch

    factors = load_torch(weights)
    path = "model.layers.3.self_attn.q_proj"
    A, B = (factors[f"base_model.model.{path}.lora_{side}.weight"].double() for side in "AB")
    exact = torch.linalg.svd(B @ A)[2][0].numpy()
    assert abs(float(np.dot(exact, tensors[path]))) == pytest.approx(1, abs=1e-5)


def _saved(raw: bytes, name: str) -> Path:
    import tempfile

    path = Path(tempfile.mkdtemp()) / name
    path.write_bytes(raw)
    return path


@pytest.fixture(scope="module")
def merged(ada):
    recipe = {
        "method": "weighted_sum",
        "inputs": [{"adapter": "ada/record-to-json", "weight": 0.7}, {"adapter": "ada/date-format", "weight": 0.7}],
        "output": {"name": "ada/json-dates", "rank": {"mode": "exact"}, "dtype": "float32"},
    }
    answer = ada.post("/merges/", json=recipe)
    assert answer.status_code == 202, answer.text
    job = ada.finished(answer.json()["job"])
    assert job["status"] == "succeeded", job
    again = ada.post("/merges/", json=recipe)
    assert (again.status_code, again.json()["merge"]["id"]) == (200, answer.json()["merge"]["id"])
    return again.json()["merge"]


def test_a_merge_is_a_full_citizen(ada, merged):
    adapter = ada.get("/adapters/ada/json-dates/").json()
    assert adapter["state"] == "ready"
    assert adapter["facts"]["rank"] == adapter["facts"]["alpha"] == 16
    assert [parent["adapter"] for parent in adapter["lineage"]["parents"]] == ["ada/record-to-json", "ada/date-format"]
    assert ada.get("/adapters/ada/date-format/").json()["lineage"]["children"] == ["ada/json-dates"]
    kinds = {"arrow", "centroid", "delta_sketch", "description", "hybrid", "middle", "samples"}
    assert {item["kind"] for item in adapter["prototypes"]} == kinds
    found = ada.post("/retrieve/", json={"text": first_test_line("date-format"), "k": 3}).json()["results"][0][
        "matches"
    ]
    assert "ada/json-dates" in [match["adapter"] for match in found]
    assert merged["report"]["relative_error"] < 1e-6
    assert len(merged["report"]["per_module"]) == 120


def test_the_archive_loads_in_peft_with_the_exact_sum(ada, merged, tmp_path):
    raw = ada.get(f"/merges/{merged['id']}/archive/").content
    zipfile.ZipFile(io.BytesIO(raw)).extractall(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"].endswith("Instruct")
    config = AutoConfig.for_model(
        "llama", hidden_size=576, intermediate_size=8, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=8,
    )  # fmt: skip
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_config(config), tmp_path)
    layer = model.get_submodule("base_model.model.model.layers.7.self_attn.v_proj")
    expected = sum(0.7 * 2.0 * _product(name, "model.layers.7.self_attn.v_proj") for name in EXPERTS[:2])
    actual = layer.get_delta_weight("default").double()
    assert torch.linalg.norm(actual - expected) <= 1e-6 * torch.linalg.norm(expected)


def _product(name: str, path: str) -> torch.Tensor:
    from safetensors.torch import load_file as load_torch

    factors = load_torch(ZOO / name / "adapter_model.safetensors")
    A, B = (factors[f"base_model.model.{path}.lora_{side}.weight"].double() for side in "AB")
    return B @ A


def test_a_retrieval_can_be_merged_in_one_call(ada):
    examples = [{"input": first_test_line("roman-numerals")}]
    wanted = {"router": "adapter_soup", "examples": examples, "k": 2, "filters": {"owner": ["ada"]}}
    inputs = {"retrieve": wanted}
    answer = ada.post("/merges/", json={"method": "ties", "inputs": inputs, "params": {"density": 0.5}})
    assert answer.status_code == 202, answer.text
    job = ada.finished(answer.json()["job"], 180)
    assert job["status"] == "succeeded", job
    merge = ada.get(f"/merges/{answer.json()['merge']['id']}/").json()
    assert merge["adapter"] is None
    assert [item["weight"] for item in merge["inputs"]] == [0.5, 0.5]


def test_the_same_recipe_many_times_at_once_is_one_merge_and_one_job(ada):
    recipe = {"method": "weighted_sum", "inputs": [{"adapter": f"ada/{name}", "weight": 0.3} for name in EXPERTS]}
    clients = [ada.another() for _ in range(8)]
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(lambda number: clients[number % 8].post("/merges/", json=recipe), range(32)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({(answer.json()["merge"]["id"], answer.json()["job"]["id"]) for answer in answers}) == 1
    assert ada.finished(answers[0].json()["job"])["status"] == "succeeded"


def test_new_samples_make_a_revision_that_shares_the_weights(ada):
    before = ada.get("/adapters/ada/roman-numerals/").json()
    answer = ada.post(
        "/adapters/ada/roman-numerals/samples/", files={"samples.jsonl": b'{"input": "IV is which number?"}\n'}
    )
    assert answer.status_code == 202, answer.text
    ada.finished(answer.json()["job"])
    after = ada.get("/adapters/ada/roman-numerals/").json()
    assert after["revision"] != before["revision"]
    assert after["facts"]["tensor_digest"] == before["facts"]["tensor_digest"]
    history = ada.get("/adapters/ada/roman-numerals/revisions/").json()["results"]
    assert [item["revision"] for item in history] == [after["revision"], before["revision"]]
    old = ada.get("/adapters/ada/roman-numerals/files/samples.jsonl", params={"revision": before["revision"]})
    assert old.content == (ZOO / "roman-numerals" / "samples.jsonl").read_bytes()


def test_the_site_is_ready_and_describes_its_api(site):
    import requests

    assert requests.get(site.url + "/readyz", timeout=10).status_code == 200
    assert requests.get(site.url + "/metrics", timeout=10).status_code == 200
    schema = requests.get(site.url + "/api/v1/schema/", timeout=60)
    assert "/api/v1/retrieve/" in schema.text
