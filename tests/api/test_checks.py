"""`POST /checks/`: the verdict before an upload is the upload's own, and stores nothing."""

import json

import pytest
import torch
from django.core.files.uploadedfile import SimpleUploadedFile
from safetensors.torch import load, save

from registry.base_models import register_base_model
from tests.api import test_bad_input as bad
from tests.api.conftest import stored
from tests.lora.factories import MODULES

pytestmark = pytest.mark.django_db
WEIGHTS, CONFIG, GATES = bad.WEIGHTS, bad.CONFIG, "gates.safetensors"


def agreed(api, name, files, **fields):
    """Assert that check and upload refuse alike. Returns: the verdict."""
    before = stored()
    verdict = api.check(name, files, **fields)
    assert verdict.status_code == 200, verdict.content
    assert stored() == before
    answer = api.upload(name, files, **fields)
    assert answer.status_code in (400, 403, 409, 413, 422), answer.content
    assert verdict.json()["usable"] is False
    assert verdict.json()["refusals"][0] == answer.json()
    return verdict.json()


def test_a_good_adapter_has_facts_binding_samples_and_what_vllm_needs(ada, adapter_files):
    register_base_model("acme/tiny-base", {path: list(shape) for path, shape in MODULES.items()})
    before = stored()
    verdict = ada.check("ada/sql", adapter_files()).json()
    assert (verdict["usable"], verdict["refusals"], verdict["warnings"]) == (True, [], [])
    assert verdict["adapter"] == {"name": "ada/sql", "exists": False, "revision": None, "visibility": None}
    assert (verdict["facts"]["modules_bound"], verdict["facts"]["modules_in_base"]) == (4, 4)
    assert verdict["base_model"] == "acme/tiny-base"
    assert verdict["samples"]["count"] == 2
    assert verdict["samples"]["first"][0] == {"input": "Name the capital of Peru.", "output": "Lima"}
    assert verdict["vllm"] == {"max_lora_rank": 8, "obstacles": [], "cautions": []}
    assert stored() == before


def test_the_facts_and_warnings_are_those_of_the_upload(ada, adapter_files):
    files = adapter_files(samples=None)
    verdict = ada.check("ada/sql", files).json()
    adapter = ada.upload("ada/sql", files).json()["adapter"]
    assert verdict["facts"] == adapter["facts"]
    assert verdict["warnings"] == adapter["warnings"]
    assert {"base_unknown", "no_samples"} == {warning["code"] for warning in verdict["warnings"]}


def test_of_the_weights_only_the_header_is_needed(ada, adapter_files):
    files = adapter_files(modules={f"layers.{i}.q_proj": (64, 64) for i in range(8)})
    beginning = files[WEIGHTS][:2048]
    assert len(files[WEIGHTS]) > 8 * len(beginning)
    assert int.from_bytes(beginning[:8], "little") < 2040
    parts = {name: SimpleUploadedFile(name, raw) for name, raw in (files | {WEIGHTS: beginning}).items()}
    sizes = json.dumps({WEIGHTS: len(files[WEIGHTS])})
    answer = ada.client.post("/api/v1/checks/", parts | {"name": "ada/x", "sizes": sizes}, format="multipart")
    assert answer.json()["facts"]["size_bytes"] == len(files[WEIGHTS])
    assert answer.json()["usable"]


@pytest.mark.parametrize("kind", bad.BAD_WEIGHTS)
def test_bad_weights(ada, adapter_files, kind):
    files = adapter_files()
    files[WEIGHTS] = bad.BAD_WEIGHTS[kind](files[WEIGHTS])
    assert agreed(ada, "ada/x", files)["facts"] is None


@pytest.mark.parametrize("config", bad.BAD_CONFIGS)
def test_bad_configs(ada, adapter_files, config):
    agreed(ada, "ada/x", adapter_files() | {CONFIG: config})


@pytest.mark.parametrize("overrides", bad.HOSTILE)
def test_hostile_configs(ada, adapter_files, overrides):
    agreed(ada, "ada/x", adapter_files(config_overrides=overrides))


@pytest.mark.parametrize("samples", bad.BAD_SAMPLES)
def test_bad_samples_leave_the_facts_of_the_weights(ada, adapter_files, samples):
    assert agreed(ada, "ada/x", adapter_files(samples=samples))["facts"]["rank"] == 4


@pytest.mark.parametrize("name", bad.BAD_NAMES)
def test_bad_names(ada, adapter_files, name):
    verdict = agreed(ada, name, adapter_files())
    assert verdict["adapter"] is None
    assert verdict["facts"]["rank"] == 4


def test_bad_fields_and_parts(ada, adapter_files):
    files = adapter_files()
    agreed(ada, "ada/x", files, visibility="secret")
    agreed(ada, "ada/x", files, license="x" * 101)
    agreed(ada, "ada/x", files, tags=['a"b'])
    agreed(ada, "ada/x", files | {"training_args.json": b"{}"})
    agreed(ada, "ada/x", {CONFIG: files[CONFIG]})
    agreed(ada, "ada/x", files | {"README.md": b"---\n: [\n---\n"})
    agreed(ada, "ada/x", files | {"README.md": b"x" * (1024**2 + 1)})


def test_bad_gates(ada, adapter_files):
    files = adapter_files()
    agreed(ada, "ada/x", files | {GATES: save({"model.layers.0.self_attn.q_proj": torch.ones(7)})})
    agreed(ada, "ada/x", files | {GATES: save({"elsewhere": torch.ones(8)})})


def test_a_pickle_says_how_to_convert(ada, adapter_files):
    files = adapter_files()
    files["adapter_model.bin"] = files.pop(WEIGHTS)
    assert "save_file" in agreed(ada, "ada/x", files)["refusals"][0]["message"]


def test_a_base_of_other_modules(ada, adapter_files):
    register_base_model("acme/other", {"encoder.layer.0.query": [8, 8]})
    verdict = agreed(ada, "ada/x", adapter_files(), base_model="acme/other")
    assert verdict["refusals"][0]["detail"]["problems"][0]["code"] == "no_module_binds"


def test_the_size_that_counts_is_that_of_the_whole_upload(ada, adapter_files, settings):
    settings.MAX_UPLOAD_BYTES = 3000
    agreed(ada, "ada/x", adapter_files(modules={f"layers.{i}.q_proj": (64, 64) for i in range(8)}))


def test_an_existing_name_is_a_new_revision_and_a_foreign_one_is_refused(ada, bob, adapter_files):
    files = adapter_files()
    revision = ada.ready("ada/sql", files, visibility="private")["revision"]
    verdict = ada.check("ada/sql", files).json()
    assert verdict["adapter"] == {"name": "ada/sql", "exists": True, "revision": revision, "visibility": "private"}
    agreed(ada, "ada/SQL", files)
    verdict = agreed(bob, "ada/sql", files)
    assert verdict["adapter"] is None
    ada.delete("/adapters/ada/sql/")
    agreed(ada, "ada/sql", files)


def test_every_refusal_is_told_at_once(ada, adapter_files):
    files = adapter_files(samples=b"nonsense") | {CONFIG: b"{", "README.md": b"\xff"}
    files[WEIGHTS] = files[WEIGHTS][:-7]
    refusals = ada.check("admin/x", files, visibility="secret").json()["refusals"]
    assert [refusal["code"] for refusal in refusals] == [
        "invalid",
        "invalid",
        "invalid",
        "invalid_adapter",
        "invalid_samples",
    ]
    assert [problem["where"] for problem in refusals[3]["detail"]["problems"]] == [CONFIG, WEIGHTS]


def test_who_is_not_logged_in_gets_no_verdict(anyone, adapter_files):
    bad.refused(anyone.check("ada/x", adapter_files()), 401, "not_authenticated")


@pytest.mark.parametrize("sizes", ["", "[]", '{"x": -1}', '{"x": "1"}', "[" * 100_000, '{"x": 1e400}'])
def test_sizes_that_are_none_are_400(ada, adapter_files, sizes):
    parts = {name: SimpleUploadedFile(name, raw) for name, raw in adapter_files().items()}
    answer = ada.client.post("/api/v1/checks/", parts | {"name": "ada/x", "sizes": sizes}, format="multipart")
    bad.refused(answer, 400, "invalid")


@pytest.mark.parametrize(("rank", "wanted"), [(1, 1), (4, 8), (16, 16), (17, 32), (512, 512), (513, None)])
def test_vllm_gets_the_smallest_of_its_ranks(ada, adapter_files, rank, wanted):
    files = adapter_files(modules={"layers.0.q_proj": (600, 600)}, rank=rank)
    vllm = ada.check("ada/x", files).json()["vllm"]
    assert vllm["max_lora_rank"] == wanted
    assert bool(vllm["obstacles"]) is (wanted is None)


def test_what_vllm_does_not_serve_is_named(ada, adapter_files, tmp_path):
    files = adapter_files(config_overrides={"use_dora": True, "modules_to_save": ["lm_head"]})
    tensors = load(files[WEIGHTS])
    for path, (d_out, _) in MODULES.items():
        tensors[f"base_model.model.{path}.lora_magnitude_vector.weight"] = torch.ones(d_out)
    tensors["base_model.model.lm_head.weight"] = torch.ones(8, 8)
    obstacles = ada.check("ada/x", files | {WEIGHTS: save(tensors)}).json()["vllm"]["obstacles"]
    assert len(obstacles) == 2
    assert "DoRA" in obstacles[0]
    assert "lm_head" in obstacles[1]
