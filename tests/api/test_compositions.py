"""`/compositions/`: trained gates over experts, checked against them, found through them, and run from the archive."""

import io
import json
import sys
import zipfile

import pytest
import torch
from django.core.files.uploadedfile import SimpleUploadedFile
from safetensors.torch import load_file, save
from transformers import LlamaForCausalLM

from lora.compositions import COMPOSITIONS
from lora.runtime.composed import Composition
from registry.base_models import register_base_model
from retrieval.models import Composition as Row
from tests.api.conftest import run_jobs, stored
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, SAMPLES, UNLABELLED, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE

PATHS = sorted(MODULES)
LAYERS = ["model.layers.0", "model.layers.1"]
IDS = torch.tensor([[3, 4, 5, 3, 7, 8, 4, 1, 6, 2]])
EXPERTS = ["ada/one", "ada/two"]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / BASE)


@pytest.fixture
def add(tmp_path, db):
    """A function that makes an expert of the tiny base ready."""
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()} | {"lm_head": [20, 8]})

    def make(who, name, seed=0, rank=2, samples=None, **fields):
        folder = write_adapter_files(
            tmp_path / name, MODULES, rank, 3, seed=seed, config_overrides={"base_model_name_or_path": BASE}
        )
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        files |= {"samples.jsonl": samples} if samples else {}
        return who.ready(f"{who.username}/{name}", files, **({"license": "mit"} | fields))

    return make


@pytest.fixture
def two(ada, add):
    add(ada, "one", 1, samples=SAMPLES)
    add(ada, "two", 2, rank=4, samples=SAMPLES)


def gates(kind="lora_flow", n=2, places=LAYERS, seed=0, **other):
    """Random gates at some places; more tensors by name, None takes one away."""
    generator = torch.Generator().manual_seed(seed)
    shapes = COMPOSITIONS.get(kind).run(COMPOSITIONS.parse(kind, {}))
    sizes = {"n": n, "n-1": n - 1, "d": 8, "o": 8, "n*o": 8 * n}
    tensors = {}
    for place in places:
        for part, shape in shapes.items():
            size = [one if isinstance(one, int) else sizes.get(one, 3) for one in shape]
            tensors[f"{place}.{part}"] = torch.rand(size, generator=generator) + 0.1
    return {name: value for name, value in (tensors | other).items() if value is not None}


def send(who, name="ada/both", kind="lora_flow", tensors=None, **more):
    request = {"name": name, "type": kind, "adapters": EXPERTS} | more
    tensors = gates(kind) if tensors is None else tensors
    raw = tensors if isinstance(tensors, bytes) else save(tensors)
    body = {"request": json.dumps(request), "gates": SimpleUploadedFile("gates.safetensors", raw)}
    return who.client.post("/api/v1/compositions/", body, format="multipart")


def added(who, *args, **more):
    answer = send(who, *args, **more)
    assert answer.status_code == 201, answer.content
    assert answer.json()["job"] is None
    return answer.json()["composition"]


def unpacked(who, name, folder):
    answer = who.get(f"/compositions/{name}/archive/")
    assert answer.status_code == 200, answer.content
    raw = b"".join(answer.streaming_content)
    zipfile.ZipFile(io.BytesIO(raw)).extractall(folder)
    return folder


def problems(answer):
    assert answer.status_code == 422, answer.content
    assert answer.json()["code"] == "invalid_vectors"
    return {(problem["code"], problem["where"]) for problem in answer.json()["detail"]["problems"]}


def test_what_is_uploaded_is_listed_found_and_runs_from_its_archive(
    two, ada, anyone, base_folder, tmp_path, monkeypatch
):
    made = added(ada, description="Both of them")
    assert made["name"] == "ada/both"
    assert made["places"] == LAYERS
    assert made["visibility"] == "public"
    assert [expert["adapter"] for expert in made["adapters"]] == EXPERTS
    assert made["runs"]
    assert anyone.get("/compositions/ada/both/").json() == made
    for query in ({}, {"type": "lora_flow"}, {"base_model": BASE}, {"adapter": EXPERTS}, {"owner": "ada"}):
        assert [row["name"] for row in anyone.get("/compositions/", **query).json()["results"]] == ["ada/both"]
    for query in ({"type": "mole"}, {"adapter": ["ada/one", "ada/none"]}, {"owner": "bob"}):
        assert anyone.get("/compositions/", **query).json()["count"] == 0
    assert anyone.get("/compositions/", type="nonsense").json()["code"] == "unknown_method"
    assert anyone.get("/compositions/", colour="red").status_code == 400
    folder = unpacked(anyone, "ada/both", tmp_path / "both")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    adapters = {
        f"adapters/{p}/adapter_{f}"
        for p in ("00-ada--one", "01-ada--two")
        for f in ("config.json", "model.safetensors")
    }
    assert names == {"README.md", "composition.py", "gates.safetensors", "manifest.json"} | adapters
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "composition", raising=False)
    from composition import Composition as Shipped  # type: ignore[import-not-found]

    model = LlamaForCausalLM.from_pretrained(base_folder)
    plain = model(IDS).logits
    with Shipped.load(folder).on(model), torch.no_grad():
        found = model(IDS).logits
    sys.modules.pop("composition")
    assert not torch.allclose(found, plain, atol=1e-3)
    assert torch.equal(model(IDS).logits, plain)
    (folder / "gates.safetensors").write_bytes(save(gates(seed=9)))
    with pytest.raises(ValueError, match="not what the manifest says"):
        Composition.load(folder)


def test_every_type_is_taken_in_and_handed_out(two, ada, base_folder, tmp_path):
    model = LlamaForCausalLM.from_pretrained(base_folder)
    for kind in COMPOSITIONS.names():
        method = COMPOSITIONS.get(kind)
        places = {"any": LAYERS, "module": PATHS, "model": LAYERS[-1:]}[method.traits["place"]]
        made = added(ada, f"ada/{kind}", kind, gates(kind, places=places))
        assert made["runs"] == method.traits["runs"]
        folder = unpacked(ada, f"ada/{kind}", tmp_path / kind)
        assert method.title in (folder / "README.md").read_text()
        if not method.traits["runs"]:
            with pytest.raises(ValueError, match="kept, and not run"):
                Composition.load(folder)
            continue
        prompt = {"input_ids": IDS} if method.traits["reads"] == "example" else None
        with Composition.load(folder).on(model, prompt=prompt), torch.no_grad():
            assert torch.isfinite(model(IDS).logits).all()


def test_gates_that_do_not_fit_are_refused_by_name_and_nothing_is_stored(two, ada):
    before = stored()
    whole, first = gates(), LAYERS[0]
    cases = [
        (whole | {f"{first}.bias": torch.ones(3)}, ("gate_shape", f"{first}.bias")),
        (whole | {f"{first}.weight": torch.ones(2, 7)}, ("gate_shape", first)),
        (gates(**{f"{first}.bias": None}), ("missing_tensor", f"{first}.bias")),
        (whole | {f"{first}.colour": torch.ones(2)}, ("unknown_tensor", f"{first}.colour")),
        (whole | {f"{first}.bias": torch.ones(2, dtype=torch.int32)}, ("gate_dtype", f"{first}.bias")),
        (gates(places=["model.layers.7"]), ("unknown_module", "model.layers.7")),
        (gates(places=LAYERS[:1]), ("missing_gate", ", ".join(PATHS[2:]))),
        (gates(places=[*LAYERS, PATHS[0]]), ("two_gates", PATHS[0])),
        (whole | {f"{first}.weight": torch.full((2, 8), torch.nan)}, ("not_finite", f"{first}.weight")),
    ]
    for tensors, expected in cases:
        assert expected in problems(send(ada, tensors=tensors))
    cold = gates("mole", places=PATHS) | {f"{PATHS[0]}.temperature": torch.zeros(1)}
    assert problems(send(ada, kind="mole", tensors=cold)) == {("not_positive", f"{PATHS[0]}.temperature")}
    assert ("not_a_module", first) in problems(send(ada, kind="mole", tensors=gates("mole")))
    assert ("too_many_gates", ", ".join(LAYERS)) in problems(send(ada, kind="co_llm", tensors=gates("co_llm")))
    assert problems(send(ada, tensors=b"PK\x03\x04" + bytes(600)))
    assert stored() == before


def test_requests_that_say_something_else_are_refused(two, ada, bob, anyone, add):
    before = stored()
    assert send(anyone).status_code == 401
    assert send(bob).status_code == 403
    assert send(ada, name="nonsense").status_code == 400
    assert send(ada, kind="nonsense", tensors=gates()).json()["detail"]["known"] == COMPOSITIONS.names()
    assert send(ada, params={"top_k": 1}).json()["code"] == "invalid_params"
    assert send(ada, colour="red").status_code == 400
    assert send(ada, base_model="acme/other").json()["detail"].keys() == {"base_model"}
    assert send(ada, adapters=["ada/none"]).status_code == 404
    assert send(ada, adapters=[]).status_code == 400
    twice = send(ada, adapters=["ada/one", "ada/one"])
    assert twice.json()["code"] == "not_routable"
    assert twice.json()["detail"]["inputs"][0]["code"] == "duplicate_input"
    assert ada.post("/compositions/", {"name": "ada/x", "type": "mole", "adapters": EXPERTS}).status_code == 400
    assert stored() == before


def test_versions_are_immutable_and_named_by_what_is_in_them(two, ada, anyone):
    first = added(ada)
    again = send(ada)
    assert (again.status_code, again.json()["composition"]["revision"]) == (200, first["revision"])
    second = added(ada, tensors=gates(seed=1))
    assert second["revision"] != first["revision"]
    assert anyone.get("/compositions/ada/both/").json()["revision"] == second["revision"]
    assert anyone.get("/compositions/ada/both/", revision=first["revision"]).json() == first
    assert anyone.get("/compositions/").json()["count"] == 1
    assert send(ada, name="ada/Both").json()["code"] == "already_exists"
    assert anyone.delete("/compositions/ada/both/").status_code == 401
    assert ada.delete("/compositions/ada/both/").status_code == 204
    assert anyone.get("/compositions/ada/both/", revision=first["revision"]).status_code == 404
    assert not Row.objects.exists()


def test_a_composition_is_never_more_visible_than_its_experts(two, ada, bob, add):
    add(bob, "other", 3)
    added(ada)
    assert bob.delete("/compositions/ada/both/").status_code == 403
    ada.patch("/adapters/ada/two/", {"visibility": "private"})
    assert bob.get("/compositions/ada/both/").status_code == 404
    assert bob.get("/compositions/ada/both/archive/").status_code == 404
    assert bob.get("/compositions/").json()["count"] == 0
    assert ada.get("/compositions/ada/both/").json()["visibility"] == "private"
    assert send(bob, name="bob/mine").status_code == 404
    added(bob, name="bob/mine", adapters=["ada/one", "bob/other"])
    ada.delete("/adapters/ada/one/")
    assert bob.get("/compositions/bob/mine/archive/").json()["code"] == "conflict"
    hidden = added(bob, name="bob/own", tensors=gates(n=1), adapters=["bob/other"], visibility="private")
    assert ada.get(f"/compositions/{hidden['name']}/").status_code == 404


def test_a_retrieval_that_explains_names_the_compositions_of_its_matches(two, ada, anyone):
    added(ada)
    added(ada, name="ada/private", visibility="private")

    def named(who):
        answer = who.post("/retrieve/", {"router": "lora_retriever", "text": "ab", "explain": True}).json()
        return {match["adapter"]: match["compositions"] for match in answer["results"][0]["matches"]}

    assert named(anyone) == {name: ["ada/both"] for name in EXPERTS}
    assert named(ada) == {name: ["ada/both", "ada/private"] for name in EXPERTS}


def test_a_worker_trains_the_gates_on_the_samples_of_the_experts(two, ada, base_folder, settings, tmp_path):
    settings.BASE_MODELS_DIR = base_folder.parents[1]
    order = {"name": "ada/trained", "type": "lora_flow", "adapters": EXPERTS, "train": {"steps": 6}}
    answer = ada.post("/compositions/", order)
    assert answer.status_code == 202, answer.content
    assert ada.post("/compositions/", order).json()["job"]["id"] == answer.json()["job"]["id"]
    assert ada.get("/compositions/ada/trained/").status_code == 404
    run_jobs()
    job = ada.get(f"/jobs/{answer.json()['job']['id']}/").json()
    assert job["status"] == "succeeded", job
    made = ada.get("/compositions/ada/trained/").json()
    assert (job["result"]["composition"], job["result"]["revision"]) == (made["name"], made["revision"])
    assert len(job["result"]["losses"]) == 6
    assert made["training"]["losses"] == job["result"]["losses"]
    assert made["places"] == LAYERS
    tensors = load_file(unpacked(ada, "ada/trained", tmp_path / "trained") / "gates.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in gates().items()
    }
    assert all(tensor.any() for tensor in tensors.values())


@pytest.mark.parametrize("kind", [name for name in COMPOSITIONS.names() if COMPOSITIONS.get(name).traits["runs"]])
def test_gates_of_every_type_that_runs_are_trained(two, ada, base_folder, settings, tmp_path, kind):
    settings.BASE_MODELS_DIR = base_folder.parents[1]
    order = {"name": "ada/trained", "type": kind, "adapters": EXPERTS, "train": {"steps": 2}}
    job = ada.post("/compositions/", order).json()["job"]
    run_jobs()
    assert ada.get(f"/jobs/{job['id']}/").json()["status"] == "succeeded"
    loaded = Composition.load(unpacked(ada, "ada/trained", tmp_path / "trained"))
    assert (loaded.type, list(loaded.experts)) == (kind, EXPERTS)


def test_what_cannot_be_trained_is_said_before_or_by_the_job(two, ada, add):
    add(ada, "unlabelled", 3, samples=UNLABELLED)
    order = {"name": "ada/x", "type": "lora_flow", "adapters": EXPERTS, "train": {}}
    for change in ({"train": {"steps": 0}}, {"train": {"pace": 1}}, {"train": 3}, {"type": "calm"}):
        assert ada.post("/compositions/", order | change).status_code == 400, change
    refused = ada.post("/compositions/", order | {"adapters": ["ada/one", "ada/unlabelled"]}).json()
    assert (refused["code"], refused["detail"]["inputs"][0]["code"]) == ("not_routable", "no_labels")
    job = ada.post("/compositions/", order).json()["job"]
    run_jobs()
    assert ada.get(f"/jobs/{job['id']}/").json()["error"]["code"] == "base_not_here"
    assert ada.get("/compositions/").json()["count"] == 0
