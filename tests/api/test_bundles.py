"""`POST /bundles/`: what a router inside the model needs, as an archive that runs."""

import io
import json
import sys
import zipfile

import pytest
import torch
from safetensors.torch import load, load_file, save
from transformers import LlamaForCausalLM

from integrations.bundle import Bundle
from integrations.peft_arrow import bundle_model
from registry.base_models import register_base_model
from registry.models import Adapter, Job
from retrieval import bundles
from retrieval.models import Bundle as Row
from retrieval.models import BundleFile
from tests.api.conftest import run_jobs, stored
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, SAMPLES, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE

PATHS = sorted(MODULES)
IDS = torch.tensor([[3, 4, 5, 3, 7, 8, 4, 1, 6, 2]])


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / BASE)


@pytest.fixture
def known_base(db):
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()})


@pytest.fixture
def add(tmp_path, known_base):
    """A function that makes an expert of the tiny base ready."""

    def make(who, name, seed=0, modules=MODULES, rank=2, gates=None, config=None, samples=None, **fields):
        overrides = {"base_model_name_or_path": BASE} | (config or {})
        folder = write_adapter_files(
            tmp_path / name, modules, rank=rank, alpha=3, seed=seed, config_overrides=overrides
        )
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        files |= {"gates.safetensors": save(gates)} if gates else {}
        files |= {"samples.jsonl": samples} if samples else {}
        return who.ready(f"{who.username}/{name}", files, **({"license": "mit"} | fields))

    return make


@pytest.fixture
def mixed(ada, add):
    """Experts of mixed ranks and targets."""
    add(ada, "one", 1)
    add(ada, "two", 2, rank=4)
    add(ada, "three", 3, modules={path: MODULES[path] for path in PATHS[:2]})
    return ["ada/one", "ada/two", "ada/three"]


def ask(who, router="arrow", **body):
    return who.post("/bundles/", {"router": router} | body)


def made(who, router="arrow", **body):
    answer = ask(who, router, **body)
    assert answer.status_code == 202, answer.content
    run_jobs()
    job = who.get(f"/jobs/{answer.json()['job']['id']}/").json()
    assert job["status"] == "succeeded", job
    assert job["result"] == {"bundle": answer.json()["bundle"]["id"]}
    return who.get(f"/bundles/{answer.json()['bundle']['id']}/").json()


def archive(who, bundle):
    answer = who.get(f"/bundles/{bundle['id']}/archive/")
    assert answer.status_code == 200, answer.content
    return b"".join(answer.streaming_content)


def unpacked(who, bundle, folder):
    zipfile.ZipFile(io.BytesIO(archive(who, bundle))).extractall(folder)
    return folder


def logits(base_folder, folder):
    model = LlamaForCausalLM.from_pretrained(base_folder)
    with Bundle.load(folder).on(model), torch.no_grad():
        return model(IDS).logits


def test_an_arrow_bundle_runs_alike_in_peft_and_in_our_runtime(mixed, ada, base_folder, tmp_path):
    """PEFT takes experts of one rank and the same targets: padded experts come to the same ΔW."""
    bundle = made(ada, adapters=mixed[:2], params={"top_k": 9, "temperature": 0.5})
    assert bundle["params"] == {"top_k": 9, "temperature": 0.5, "uniform": True, "calibrated": False}
    folder = unpacked(ada, bundle, tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["router"]["top_k"] == 2
    assert manifest["format"] == "loradex/bundle/v1"
    assert [expert["rank"] for expert in manifest["experts"]] == [4, 4]
    ours = logits(base_folder, folder)
    model = bundle_model(LlamaForCausalLM.from_pretrained(base_folder), folder)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, ours, atol=1e-5, rtol=1e-4)
        plain = LlamaForCausalLM.from_pretrained(base_folder)(IDS).logits
    assert not torch.allclose(ours, plain, atol=1e-3)
    kept = unpacked(
        ada, made(ada, adapters=mixed[:2], params={"temperature": 0.5, "uniform": False}), tmp_path / "kept"
    )
    torch.testing.assert_close(logits(base_folder, kept), ours, atol=1e-5, rtol=1e-4)


def test_what_is_in_the_archive(mixed, ada, tmp_path):
    bundle = made(ada, "arrow", adapters=[{"adapter": name} for name in mixed], params={"uniform": False})
    raw = archive(ada, bundle)
    folder = unpacked(ada, bundle, tmp_path / "bundle")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == [file["path"] for file in bundle["files"]]
    assert bundle["size_bytes"] == sum(file["size_bytes"] for file in bundle["files"])
    places = ("00-ada--one", "01-ada--two", "02-ada--three")
    folders = [f"adapters/{place}/adapter_{file}" for place in places for file in ("config.json", "model.safetensors")]
    others = ["bundle.py", "manifest.json", "prototypes.safetensors", "spectra.safetensors"]
    assert names == ["README.md", *folders, *others]
    assert bundle["adapters"][1]["adapter"] == "ada/two"
    vectors, spectra = (load_file(folder / f"{name}.safetensors") for name in ("prototypes", "spectra"))
    assert {path: tuple(tensor.shape) for path, tensor in vectors.items()} == dict.fromkeys(PATHS, (3, 8))
    for place, name in enumerate(mixed):
        answer = ada.get(f"/adapters/{name}/prototypes/arrow/")
        for path, vector in load(answer.content).items():
            assert torch.equal(vectors[path][place], vector)
        facts = {module["path"]: module for module in ada.get(f"/adapters/{name}/").json()["facts"]["modules"]}
        for path in PATHS:
            sigma = facts[path]["sigma"] if path in facts else []
            assert spectra[path][place].tolist() == pytest.approx(sigma + [0.0] * (4 - len(sigma)))
    assert not vectors[PATHS[-1]][2].any()
    page = (folder / "README.md").read_text()
    assert "ada/three" in page
    assert "PEFT" in page
    codes = [warning["code"] for warning in bundle["warnings"]]
    assert codes == ["no_baselines"]
    Row.objects.all().delete()
    assert archive(ada, made(ada, "arrow", adapters=mixed, params={"uniform": False})) == raw


def test_targets_that_differ_are_padded_for_peft(mixed, ada, base_folder, tmp_path):
    """An expert has zeros where it adapts nothing; ours leaves it out there, and PEFT gives it a share of nothing."""
    bundle = made(ada, adapters=mixed)
    folder = unpacked(ada, bundle, tmp_path / "bundle")
    assert [warning["code"] for warning in bundle["warnings"]] == ["no_baselines", "rewritten"]
    for expert in json.loads((folder / "manifest.json").read_text())["experts"]:
        tensors = load_file(folder / expert["folder"] / "adapter_model.safetensors")
        assert {tensor.shape for name, tensor in tensors.items() if "lora_A" in name} == {(4, 8)}
        assert len(tensors) == 2 * len(PATHS)
    model = bundle_model(LlamaForCausalLM.from_pretrained(base_folder), folder)
    with torch.no_grad():
        assert torch.isfinite(model(IDS).logits).all()
    kept = unpacked(ada, made(ada, adapters=mixed, params={"uniform": False}), tmp_path / "kept")
    torch.testing.assert_close(logits(base_folder, folder), logits(base_folder, kept), atol=1e-5, rtol=1e-4)


def test_the_runtime_in_the_archive_runs_it(mixed, ada, base_folder, tmp_path, monkeypatch):
    folder = unpacked(ada, made(ada, "spectr", adapters=mixed), tmp_path / "bundle")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "bundle", raising=False)
    from bundle import Bundle as Shipped  # type: ignore[import-not-found]

    model = LlamaForCausalLM.from_pretrained(base_folder)
    with Shipped.load(folder).on(model), torch.no_grad():
        assert torch.equal(model(IDS).logits, logits(base_folder, folder))
    sys.modules.pop("bundle")


def test_gates_of_contributors_are_bundled_and_asked_for_where_they_are_missing(ada, add, tmp_path):
    gates = {path: torch.randn(8).bfloat16() for path in PATHS[:-1]}
    add(ada, "one", 1, gates=gates)
    add(ada, "two", 2)
    refused = ask(ada, "phatgoose", adapters=["ada/one", "ada/two"])
    assert refused.status_code == 422
    assert refused.json()["code"] == "missing_prototypes"
    [problem] = refused.json()["detail"]["inputs"]
    assert problem["adapter"] == "ada/two"
    assert problem["where"] == "adapters[1]"
    assert "gates.safetensors" in problem["message"]
    assert ask(ada, "activation", adapters=["ada/one"]).json()["code"] == "missing_prototypes"
    bundle = made(ada, "phatgoose", adapters=["ada/one"])
    assert [warning["code"] for warning in bundle["warnings"]] == ["unrouted_modules"]
    vectors = load_file(unpacked(ada, bundle, tmp_path / "bundle") / "prototypes.safetensors")
    for path, gate in gates.items():
        assert torch.equal(vectors[path], gate.float()[None])
    assert not vectors[PATHS[-1]].any()


def test_mu_and_sigma_come_along_where_the_worker_has_the_base(mixed, ada, base_folder, settings, tmp_path):
    refused = ask(ada, adapters=mixed, params={"calibrated": True})
    run_jobs()
    job = ada.get(f"/jobs/{refused.json()['job']['id']}/").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "base_not_here")
    without = ask(ada, "arrow_global", adapters=mixed).json()["job"]["id"]
    run_jobs()
    assert ada.get(f"/jobs/{without}/").json()["error"]["code"] == "base_not_here"
    settings.BASE_MODELS_DIR = str(base_folder.parent.parent)
    settings.DATA_DIR = tmp_path / "data"
    bundle = made(ada, adapters=mixed, params={"calibrated": True, "uniform": False})
    assert bundle["warnings"] == []
    folder = unpacked(ada, bundle, tmp_path / "bundle")
    baselines = load_file(folder / "baselines.safetensors")
    assert {tuple(tensor.shape) for tensor in baselines.values()} == {(3, 2)}
    assert (baselines[PATHS[0]][:, 1] > 0).all()
    raw = unpacked(ada, made(ada, adapters=mixed, params={"uniform": False}), tmp_path / "raw")
    assert torch.isfinite(logits(base_folder, folder)).all()
    assert not torch.allclose(logits(base_folder, folder), logits(base_folder, raw), atol=1e-4)
    whole = unpacked(ada, made(ada, "arrow_global", adapters=mixed), tmp_path / "whole")
    model = LlamaForCausalLM.from_pretrained(base_folder)
    with Bundle.load(whole).on(model, prompt={"input_ids": IDS}), torch.no_grad():
        assert torch.isfinite(model(IDS).logits).all()


def test_a_request_again_is_the_same_bundle_and_a_failed_one_is_tried_again(mixed, ada, bob, client):
    body = {"adapters": mixed}
    first = ask(ada, **body)
    again = ask(ada, **body)
    assert again.status_code == 202
    assert again.json()["job"]["id"] == first.json()["job"]["id"]
    job = Job.objects.get(pk=first.json()["job"]["id"])
    ada.post(f"/jobs/{job.pk}/cancel/", {})
    third = ask(ada, **body)
    assert third.json()["bundle"]["id"] == first.json()["bundle"]["id"]
    assert third.json()["job"]["id"] != str(job.pk)
    assert ada.get(f"/bundles/{first.json()['bundle']['id']}/archive/").json()["code"] == "conflict"
    run_jobs()
    assert ask(ada, **body).status_code == 200
    client.force_login(ada.user)
    page = client.get(f"/jobs/{third.json()['job']['id']}/").content.decode()
    assert f'href="/api/v1/bundles/{third.json()["bundle"]["id"]}/archive/"' in page
    listed = ada.get("/bundles/").json()
    assert [row["id"] for row in listed["results"]] == [first.json()["bundle"]["id"]]
    assert bob.get("/bundles/").json()["count"] == 0
    assert bob.get(f"/bundles/{first.json()['bundle']['id']}/").status_code == 404
    assert bob.get(f"/bundles/{first.json()['bundle']['id']}/archive/").status_code == 404


BAD = [
    ({}, "invalid"),
    ({"adapters": []}, "invalid"),
    ({"adapters": ["ada/one"] * 101}, "invalid"),
    ({"adapters": "ada/one"}, "invalid"),
    ({"adapters": [7]}, "invalid"),
    ({"adapters": [{"adapter": "ada/one", "weight": 1, "more": 2}]}, "invalid"),
    ({"adapters": [{"adapter": "ada/one", "revision": 7}]}, "invalid"),
    ({"adapters": ["ada/one"], "retrieve": {"text": "a"}}, "invalid"),
    ({"adapters": ["ada/one"], "name": "x"}, "invalid"),
    ({"adapters": ["ada/one"], "router": None}, "invalid"),
    ({"adapters": ["ada/one"], "router": "lora_retriever"}, "unknown_router"),
    ({"adapters": ["ada/one"], "params": {"top_k": 0}}, "invalid_params"),
    ({"adapters": ["ada/one"], "params": {"topk": 2}}, "invalid_params"),
    ({"adapters": ["ada/none"]}, "not_found"),
    ({"adapters": ["ada/one", "ada/one"]}, "not_routable"),
]


def test_bad_requests_are_refused_and_leave_nothing(ada, add):
    add(ada, "one", 1)
    before = stored()
    for body, code in BAD:
        answer = ada.post("/bundles/", {"router": "arrow"} | body)
        assert answer.json()["code"] == code, (body, answer.content)
        assert 400 <= answer.status_code < 500
    assert stored() == before


def test_experts_that_cannot_be_routed_are_named(ada, add):
    add(ada, "one", 1)
    add(ada, "other", 2, config={"base_model_name_or_path": "acme/other"})
    answer = ask(ada, adapters=["ada/one", "ada/other"])
    assert answer.status_code == 422
    assert [(item["where"], item["code"]) for item in answer.json()["detail"]["inputs"]] == [
        ("adapters[1]", "other_base")
    ]
    Adapter.objects.filter(full_name="ada/one").update(yanked_at="2020-01-01T00:00Z")
    assert ask(ada, adapters=["ada/one"]).status_code in (404, 409)


def test_private_experts_are_for_who_may_read_them_alone(ada, bob, anyone, add):
    add(ada, "mine", 1, visibility="private")
    add(bob, "ours", 2)
    assert ask(bob, adapters=["ada/mine"]).status_code == 404
    assert ask(anyone, adapters=["bob/ours"]).status_code == 401
    both = made(ada, adapters=["ada/mine", "bob/ours"])
    assert archive(ada, both)
    bob.patch("/adapters/bob/ours/", {"visibility": "private"})
    withdrawn = ada.get(f"/bundles/{both['id']}/archive/")
    assert (withdrawn.status_code, withdrawn.json()["code"]) == (409, "conflict")


def test_an_expert_that_is_taken_back_while_the_bundle_waits_ends_it(ada, bob, add):
    add(bob, "ours", 2)
    answer = ask(ada, adapters=["bob/ours"])
    bob.patch("/adapters/bob/ours/", {"visibility": "private"})
    run_jobs()
    assert ada.get(f"/jobs/{answer.json()['job']['id']}/").json()["error"]["code"] == "conflict"
    assert not BundleFile.objects.exists()


def test_matches_of_a_retrieval_are_bundled(ada, add):
    for seed, name in enumerate(("one", "two")):
        add(ada, name, seed, samples=SAMPLES)
    asked = {"router": "lora_retriever", "text": "ab", "k": 2}
    bundle = made(ada, retrieve=asked)
    found = ada.post("/retrieve/", asked).json()["results"][0]["matches"]
    assert [item["adapter"] for item in bundle["adapters"]] == [match["adapter"] for match in found]


def test_open_bundles_are_bounded(mixed, ada):
    for count in range(bundles.MAX_OPEN):
        assert ask(ada, adapters=mixed, params={"top_k": count + 1}).status_code == 202
    full = ask(ada, adapters=mixed, params={"top_k": 50})
    assert (full.status_code, full.json()["code"]) == (429, "throttled")
    assert Row.objects.count() == bundles.MAX_OPEN


def test_methods_describe_what_can_be_bundled(anyone):
    described = {method["name"]: method for method in anyone.get("/methods/").json()["bundles"]}
    assert set(described) == {"arrow", "arrow_global", "spectr", "phatgoose", "activation"}
    assert described["arrow"]["params"]["properties"]["top_k"]["default"] == 4
    assert all(method["when"] for method in described.values())
