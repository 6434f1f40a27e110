"""An adapter's verdict per serving engine, and its export for one, over the API."""

import io
import json
import zipfile

import pytest
import torch
from safetensors.torch import load, save

from registry.base_models import register_base_model
from registry.intake import CONFIG, WEIGHTS
from registry.models import Adapter
from tests.api import test_bad_input as bad
from tests.api.conftest import run_jobs
from tests.lora.factories import MODULES
from tests.lora.raw_files import read_deltas

pytestmark = pytest.mark.django_db

BASE = MODULES | {path.replace("q_proj", "k_proj"): (4, 8) for path in MODULES if "q_proj" in path}


@pytest.fixture
def base(db):
    return register_base_model("acme/tiny-base", BASE, aliases=["tiny"])


def unzipped(answer, folder):
    with zipfile.ZipFile(io.BytesIO(b"".join(answer.streaming_content))) as archive:
        archive.extractall(folder)
    answer.close()
    return folder


def test_the_adapter_says_which_engines_serve_it(ada, adapter_files, base):
    serving = ada.ready("ada/sql", adapter_files(config_overrides={"use_rslora": True}))["serving"]
    assert {engine: found["verdict"] for engine, found in serving.items()} == {
        "vllm": "yes", "sglang": "yes-after-export", "lorax": "yes-after-export", "peft": "yes",
    }  # fmt: skip
    assert serving["vllm"]["max_lora_rank"] == 8
    assert "rsLoRA" in serving["sglang"]["reasons"][0]
    assert "serving" not in ada.get("/adapters/").json()["results"][0]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "lorax", "peft"])
def test_an_export_computes_the_same(ada, anyone, adapter_files, base, tmp_path, engine):
    q = {path: shape for path, shape in MODULES.items() if "q_proj" in path}
    files = adapter_files(modules=q, rank=5, config_overrides={"use_rslora": True}) | {
        "README.md": b"---\nlicense: mit\n---\n"
    }
    (tmp_path / "before").mkdir()
    for name in (CONFIG, WEIGHTS):
        (tmp_path / "before" / name).write_bytes(files[name])
    ada.ready("ada/sql", files)
    answer = anyone.get("/adapters/ada/sql/archive/", **{"for": engine})
    assert answer.status_code == 200
    assert f'filename="ada--sql--{engine}.zip"' in answer["Content-Disposition"]
    folder = unzipped(answer, tmp_path / "after")
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, "README.md"}
    before, after = read_deltas(tmp_path / "before"), read_deltas(folder)
    for path, delta in before.items():
        assert after[path] == pytest.approx(delta, abs=1e-5)
    config = json.loads((folder / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (8, 8, "acme/tiny-base")
    zeros = {path for path in after if path not in before}
    assert len(zeros) == (4 if engine == "sglang" else 0)
    assert not any(after[path].any() for path in zeros)
    assert Adapter.objects.get(full_name="ada/sql").downloads == 1


def test_what_no_export_mends_is_409_with_the_reasons(ada, adapter_files):
    files = adapter_files(config_overrides={"use_dora": True})
    tensors = load(files[WEIGHTS]) | {
        f"base_model.model.{path}.lora_magnitude_vector": torch.ones(shape[0]) for path, shape in MODULES.items()
    }
    ada.ready("ada/dora", files | {WEIGHTS: save(tensors)})
    answer = ada.get("/adapters/ada/dora/archive/", **{"for": "vllm"})
    bad.refused(answer, 409, "conflict")
    assert "DoRA" in answer.json()["detail"]["reasons"][0]
    assert Adapter.objects.get(full_name="ada/dora").downloads == 0


def test_an_unknown_engine_is_400_and_a_private_adapter_404(ada, bob, adapter_files):
    ada.ready("ada/sql", adapter_files(), visibility="private")
    bad.refused(ada.get("/adapters/ada/sql/archive/", **{"for": "tgi"}), 400, "invalid")
    bad.refused(bob.get("/adapters/ada/sql/archive/", **{"for": "vllm"}), 404, "not_found")


def test_a_merge_is_exported_too(ada, adapter_files, tmp_path):
    for seed, name in enumerate(("ada/a", "ada/b")):
        ada.ready(name, adapter_files(seed=seed))
    answer = ada.post("/merges/", {"method": "weighted_sum", "inputs": [{"adapter": "ada/a"}, {"adapter": "ada/b"}]})
    run_jobs()
    merge = answer.json()["merge"]["id"]
    plain = unzipped(ada.get(f"/merges/{merge}/archive/"), tmp_path / "plain")
    exported = unzipped(ada.get(f"/merges/{merge}/archive/", **{"for": "lorax"}), tmp_path / "lorax")
    before, after = read_deltas(plain), read_deltas(exported)
    assert all(after[path] == pytest.approx(before[path], abs=1e-6) for path in before)
    assert json.loads((exported / CONFIG).read_text())["r"] == 8


def test_the_files_of_a_merge_are_called_as_it_is(ada, adapter_files):
    for seed, name in enumerate(("ada/a", "ada/b")):
        ada.ready(name, adapter_files(seed=seed))
    recipe = {"method": "weighted_sum", "inputs": [{"adapter": "ada/a"}, {"adapter": "ada/b"}]}
    named = ada.post("/merges/", recipe | {"output": {"name": "ada/both"}}).json()["merge"]["id"]
    unnamed = ada.post("/merges/", recipe).json()["merge"]["id"]
    run_jobs()
    for merge, name in ((named, "ada--both"), (unnamed, f"merge-{unnamed}")):
        files = ("archive/", "recipe/", "archive/?for=vllm")
        saved = [ada.get(f"/merges/{merge}/{file}")["Content-Disposition"] for file in files]
        expected = (f"{name}.zip", f"{name}.yaml", f"{name}--vllm.zip")
        assert saved == [f'attachment; filename="{file}"' for file in expected]


def test_exporting_leaves_no_scratch_behind(ada, adapter_files, settings):
    ada.ready("ada/sql", adapter_files())
    # What an earlier answer left open may be removed meanwhile.
    before = set(settings.SCRATCH_DIR.glob("*"))
    answer = ada.get("/adapters/ada/sql/archive/", **{"for": "vllm"})
    [folder] = set(settings.SCRATCH_DIR.glob("*")) - before
    answer.close()
    assert not folder.exists()
