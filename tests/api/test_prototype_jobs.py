"""`POST …/prototypes/{kind}/`: what a worker computes by the base model, on demand."""

import json

import numpy as np
import pytest
import torch
from django.core.files.uploadedfile import SimpleUploadedFile
from safetensors import safe_open
from safetensors.torch import load
from safetensors.torch import save as save_torch

from lora.examples import Example
from lora.prototypes.phatgoose import train_gates
from lora.runtime.loading import in_bfloat16, load_running_base
from lora.weights import AdapterFile
from registry.models import Job, JobLog
from retrieval.models import Prototype
from tests.api.conftest import run_jobs
from tests.api.test_module_routing import PATHS, add, base_folder, ranked, send, with_base  # noqa: F401 - fixtures
from tests.lora.recipes import merge_input
from tests.lora.tiny_llama import NAME as BASE
from tests.lora.tiny_llama import SAMPLES, UNLABELLED

AT = "/adapters/ada/one/prototypes/phatgoose/"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr("lora.prototypes.phatgoose.STEPS", 5)


def compute(who, path=AT):
    answer = who.post(path, None)
    assert answer.status_code == 202, answer.content
    run_jobs()
    return who.get(f"/jobs/{answer.json()['job']['id']}/").json()


def test_a_worker_trains_gates_and_they_route(with_base, base_folder, ada, add, tmp_path):  # noqa: F811
    add(ada, "one", 1)
    assert ada.get(AT).status_code == 404
    states = {path: np.ones((2, 8), np.float32) for path in PATHS}
    assert send(ada, states, router="phatgoose").json()["results"][0]["reason"] == "no_experts"
    job = compute(ada)
    assert job["status"] == "succeeded", job
    assert len(job["result"]["losses"]) == 5
    assert (job["result"]["modules"], job["result"]["kind"]) == (len(PATHS), "phatgoose")
    assert "The loss of the answers went from" in json.dumps(job["log"])
    found = load(ada.get(AT).content)
    item = merge_input(tmp_path / "one")
    examples = [Example.from_json(json.loads(line)) for line in SAMPLES.splitlines()]
    with AdapterFile(item.weights_path, item.layout) as file:
        expected = train_gates(in_bfloat16(load_running_base(base_folder)), file, examples)
    assert found.keys() == expected.vectors.keys()
    assert all(torch.equal(found[path], gate) for path, gate in expected.vectors.items())
    (tmp_path / "gates").write_bytes(ada.get(AT).content)
    with safe_open(tmp_path / "gates", "pt") as file:
        assert json.loads(file.metadata()["losses"]) == job["result"]["losses"]
    assert {"kind": "phatgoose", "space": None, "count": 4, "dim": 8} in ada.get("/adapters/ada/one/").json()[
        "prototypes"
    ]
    assert [name for name, _ in ranked(send(ada, states, router="phatgoose").json())] == ["ada/one"]


def test_what_is_there_is_not_computed_again(with_base, ada, bob, add):  # noqa: F811
    add(ada, "one", 1)
    first, again = ada.post(AT, None).json()["job"], ada.post(AT, None).json()["job"]
    assert first["id"] == again["id"]
    assert bob.post(AT, None).json()["job"]["id"] != first["id"]
    run_jobs()
    assert list(Job.objects.filter(kind="prototype").values_list("status", flat=True)) == ["succeeded"] * 2
    assert Prototype.objects.filter(kind="phatgoose").count() == 1
    answer = ada.post(AT, None)
    assert (answer.status_code, answer.json()) == (200, {"job": None})


def test_gates_of_a_contributor_are_kept(with_base, ada, add):  # noqa: F811
    sent = save_torch({path: torch.ones(8) for path in PATHS})
    add(ada, "one", 1, gates=sent)
    assert ada.post(AT, None).json() == {"job": None}
    assert ada.get(AT).content == sent


def test_a_worker_without_the_base_says_so_and_ends(with_base, ada, add, settings):  # noqa: F811
    add(ada, "one", 1)
    settings.BASE_MODELS_DIR = ""
    job = compute(ada)
    assert (job["status"], job["error"]["code"]) == ("failed", "base_not_here")
    assert JobLog.objects.filter(message__contains="no weights of acme/tiny-llama").exists()
    assert ada.get("/adapters/ada/one/").json()["state"] == "ready"


def test_samples_are_read_by_the_base_and_route(with_base, ada, add):  # noqa: F811
    for seed, name in enumerate(("one", "two", "silent")):
        add(ada, name, seed)
    ada.client.post(
        "/api/v1/adapters/ada/two/samples/",
        {"samples.jsonl": SimpleUploadedFile("samples.jsonl", b'{"input": "c c c"}\n{"input": "c c"}\n')},
        format="multipart",
    )
    run_jobs()
    for kind, router in (("activations", "activation"), ("dam", "dam")):
        for name in ("one", "two"):
            job = compute(ada, f"/adapters/ada/{name}/prototypes/{kind}/")
            assert job["status"] == "succeeded", job
        found = load(ada.get(f"/adapters/ada/one/prototypes/{kind}/").content)
        shapes = {tuple(rows.shape) for rows in found.values()}
        assert shapes == ({(8,)} if kind == "activations" else {(3, 8)})
        answer = ada.post("/retrieve/", {"router": router, "text": "c c c", "base_model": BASE})
        run_jobs()
        result = ada.get(f"/jobs/{answer.json()['job']['id']}/").json()["result"]
        assert {name for name, _ in ranked(result)} == {"ada/one", "ada/two"}
        assert router == "activation" or ranked(result)[0][0] == "ada/two"
    one_text = ada.post("/retrieve/", {"router": "dam", "examples": [{"input": "a"}], "base_model": BASE})
    assert (one_text.status_code, "examples" in one_text.json()["detail"]) == (400, True)


def test_experts_are_ranked_by_what_labelled_examples_depend_on(with_base, ada, add):  # noqa: F811
    for seed, name in enumerate(("one", "two", "silent")):
        add(ada, name, seed)
    other = b'{"input": "c c c", "output": "b"}\n{"input": "c c", "output": "b b"}\n'
    ada.client.post(
        "/api/v1/adapters/ada/two/samples/",
        {"samples.jsonl": SimpleUploadedFile("samples.jsonl", other)},
        format="multipart",
    )
    run_jobs()
    for name in ("one", "two"):
        job = compute(ada, f"/adapters/ada/{name}/prototypes/fisher/")
        assert job["status"] == "succeeded", job
    order = {"router": "pi_tuning", "base_model": BASE}
    examples = [{"input": "c c c", "output": "b"}, {"input": "c c", "output": "b b"}]
    asked = ada.post("/retrieve/", order | {"examples": examples}).json()["job"]
    run_jobs()
    result = ada.get(f"/jobs/{asked['id']}/").json()["result"]
    assert [name for name, _ in ranked(result)] == ["ada/two", "ada/one"]
    assert result["results"][0]["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
    own = load(ada.get("/adapters/ada/two/prototypes/fisher/").content)
    sent = send(ada, {path: rows[None].numpy() for path, rows in own.items()}, router="pi_tuning").json()
    assert ranked(sent)[0][0] == "ada/two"
    for refused in ({"text": "c c c"}, {"examples": [{"input": "c"}]}, {"examples": [{"input": "c", "output": " "}]}):
        assert ada.post("/retrieve/", order | refused).status_code == 400


def test_who_may_ask_and_for_what(with_base, ada, bob, anyone, add, monkeypatch):  # noqa: F811
    add(ada, "one", 1)
    add(ada, "secret", 2, visibility="private")
    assert anyone.post(AT, None).status_code == 401
    assert bob.post("/adapters/ada/secret/prototypes/phatgoose/", None).status_code == 404
    unknown = ada.post("/adapters/ada/one/prototypes/arrow/", None)
    assert (unknown.status_code, "phatgoose" in unknown.json()["message"]) == (400, True)
    monkeypatch.setattr("retrieval.prototype_jobs.MAX_OPEN", 0)
    assert ada.post(AT, None).json()["code"] == "throttled"


def test_what_cannot_be_computed_is_refused_at_once_or_by_the_job(with_base, ada, add, adapter_files):  # noqa: F811
    ada.ready("ada/silent", adapter_files(seed=4) | {"samples.jsonl": UNLABELLED})
    assert ada.post("/adapters/ada/silent/prototypes/phatgoose/", None).json()["code"] == "conflict"
    add(ada, "one", 1)
    answer = ada.post(AT, None)
    assert ada.delete("/adapters/ada/one/").status_code == 204
    run_jobs()
    job = ada.get(f"/jobs/{answer.json()['job']['id']}/").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "conflict")


@pytest.mark.parametrize(("value", "code"), [(float("nan"), "not_finite"), (0.0, "all_zero")])
def test_gates_of_a_contributor_are_checked_by_value(ada, adapter_files, value, code):
    modules = ada.ready("ada/fine", adapter_files(seed=1))["facts"]["modules"]
    gates = save_torch({module["path"]: torch.full((module["d_in"],), value) for module in modules})
    answer = ada.upload("ada/broken", adapter_files(seed=2) | {"gates.safetensors": gates})
    run_jobs()
    job = ada.get(f"/jobs/{answer.json()['job']['id']}/").json()
    assert (job["status"], job["error"]["detail"]["problems"][0]["code"]) == ("failed", code)
