"""RAMoLE: experts by retrieval, named with the RouterLoRAs that hold them, which run over just the retrieved ones."""

import io
import json
import zipfile

import pytest
import torch
from django.core.files.uploadedfile import SimpleUploadedFile
from safetensors.torch import save
from transformers import LlamaForCausalLM

from lora.runtime.composed import Composition
from registry.base_models import register_base_model
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE

NAMES = ("capitals", "rivers", "dates")
EXPERTS = [f"ada/{name}" for name in NAMES]
TEXTS = {"capitals": "Name the capital of Peru.", "rivers": "Which river is longest?", "dates": "Write 1998-11-06 out."}
IDS = torch.tensor([[3, 4, 5, 3, 7, 8, 4, 1]])


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / BASE)


@pytest.fixture
def experts(ada, tmp_path, db):
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()})
    for seed, name in enumerate(NAMES):
        overrides = {"base_model_name_or_path": BASE}
        folder = write_adapter_files(tmp_path / name, MODULES, 2 + seed, 3, seed=seed, config_overrides=overrides)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        samples = json.dumps({"input": TEXTS[name]}).encode() + b"\n"
        ada.ready(f"ada/{name}", files | {"samples.jsonl": samples}, license="mit")


def router_lora(rank=3, **other):
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for path in sorted(MODULES):
        tensors[f"{path}.router_A"] = torch.randn(rank, 8, generator=generator)
        tensors[f"{path}.router_B"] = torch.randn(8, rank, generator=generator)
    return {name: value for name, value in (tensors | other).items() if value is not None}


def send(who, name="ada/asks", adapters=EXPERTS, tensors=None, **more):
    request = {"name": name, "type": "ramole", "adapters": adapters} | more
    gates = SimpleUploadedFile("gates", save(tensors or router_lora()))
    return who.client.post(
        "/api/v1/compositions/", {"request": json.dumps(request), "gates": gates}, format="multipart"
    )


def unpack(who, name, folder):
    raw = b"".join(who.get(f"/compositions/{name}/archive/").streaming_content)
    zipfile.ZipFile(io.BytesIO(raw)).extractall(folder)


def asked(who, **changes):
    answer = who.post("/retrieve/", {"router": "ramole", "text": TEXTS["capitals"], "k": 2} | changes)
    assert answer.status_code == 200, answer.content
    return answer.json()["results"]


def test_retrieval_is_lora_retrievers_and_names_what_holds_all_matches(experts, ada, bob):
    assert asked(ada)[0]["compositions"] == []
    assert send(ada).status_code == 201
    assert send(ada, "ada/hidden", visibility="private").status_code == 201
    assert send(ada, "ada/few", ["ada/capitals"]).status_code == 201
    [found] = asked(ada)
    assert found["compositions"] == ["ada/asks", "ada/hidden"]
    plain = ada.post("/retrieve/", {"router": "lora_retriever", "text": TEXTS["capitals"], "k": 2}).json()["results"]
    assert plain == [{name: value for name, value in found.items() if name != "compositions"}]
    assert asked(bob)[0]["compositions"] == ["ada/asks"]
    assert asked(bob, k=1)[0]["compositions"] == ["ada/asks", "ada/few"]
    several = asked(bob, text=None, texts=list(TEXTS.values()), k=1)
    assert [one["compositions"] for one in several] == [["ada/asks", "ada/few"], ["ada/asks"], ["ada/asks"]]
    [none] = asked(bob, params={"min_score": 1.0}, text="zzz")
    assert (none["reason"], none["compositions"]) == ("below_threshold", [])


def test_the_archive_runs_over_just_what_was_retrieved(experts, ada, base_folder, tmp_path):
    assert send(ada).status_code == 201
    [found] = asked(ada)
    retrieved = [match["adapter"] for match in found["matches"]]
    unpack(ada, found["compositions"][0], tmp_path / "asks")
    assert "among=" in (tmp_path / "asks" / "README.md").read_text()
    # The same RouterLoRA over only these experts is another composition, and the same model.
    assert send(ada, "ada/two", retrieved).status_code == 201
    unpack(ada, "ada/two", tmp_path / "two")
    model = LlamaForCausalLM.from_pretrained(base_folder).eval()
    logits = {}
    for name, among in (("asks", retrieved), ("two", ()), ("all", ())):
        composition = Composition.load(tmp_path / ("asks" if name == "all" else name))
        with composition.on(model, among=among), torch.no_grad():
            logits[name] = model(IDS).logits
    torch.testing.assert_close(logits["asks"], logits["two"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits["asks"], logits["all"], atol=1e-4)


PATH = sorted(MODULES)[0]


@pytest.mark.parametrize(
    ("other", "code"),
    [
        ({f"{PATH}.router_B": None}, "missing_tensor"),
        ({f"{PATH}.router_A": torch.zeros(3, 7)}, "gate_shape"),
        ({f"{PATH}.router_B": torch.zeros(8, 4)}, "gate_shape"),
        ({f"{PATH}.router_A": torch.full((3, 8), torch.nan)}, "not_finite"),
        ({f"{PATH}.router_A": None, f"{PATH}.router_B": None}, "missing_gate"),
        ({f"{PATH}.lora_A": torch.zeros(3, 8)}, "unknown_tensor"),
        ({"model.layers.0.router_A": torch.zeros(3, 8), "model.layers.0.router_B": torch.zeros(8, 3)}, "not_a_module"),
    ],
)
def test_a_router_lora_that_does_not_fit_is_refused_by_tensor(experts, ada, other, code):
    answer = send(ada, tensors=router_lora(**other))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_vectors"), answer.content
    assert code in {problem["code"] for problem in answer.json()["detail"]["problems"]}


@pytest.mark.parametrize("params", [{"temperature": 0}, {"temperature": "1"}, {"tau": 1}])
def test_bad_params_are_refused(experts, ada, params):
    answer = send(ada, params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_params")
