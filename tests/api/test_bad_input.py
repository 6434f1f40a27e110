"""What must be refused, and leaves nothing behind."""

import gzip
import hashlib
import io
import json
import zipfile
from datetime import timedelta

import pytest
import torch
from django.utils import timezone
from safetensors.torch import load, save

from registry.base_models import register_base_model
from registry.models import AccessToken
from registry.tokens import create_token
from tests.api.conftest import run_jobs, stored

pytestmark = pytest.mark.django_db
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def refused(answer, status, code, **expected):
    """Assert the contract's error shape. Returns: the body."""
    assert answer.status_code == status, answer.content
    body = answer.json()
    assert set(body) == {"code", "message", "detail"}
    assert body["code"] == code
    assert body["message"]
    return body


@pytest.fixture
def unchanged():
    """Nothing is stored by the test, and nothing is left in the spool."""
    before = stored()
    yield
    assert stored() == before


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "y" * 100)
    return buffer.getvalue()


def changed(good: bytes, change) -> bytes:
    """The file with each tensor replaced by `change(name, tensor)`, or left out where that is None."""
    tensors = {name: change(name, tensor) for name, tensor in load(good).items()}
    return save({name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None})


BAD_WEIGHTS = {
    "truncated": lambda good: good[:-7],
    "empty": lambda good: b"",
    "trailing bytes": lambda good: good + b"PK\x03\x04",
    "pickle under the right name": lambda good: pickled(),
    "zip": lambda good: zipped(),
    "gzip": gzip.compress,
    "json": lambda good: b'{"r": 8}',
    "html": lambda good: b"<!DOCTYPE html><html></html>",
    "header of 2**63 bytes": lambda good: (2**63).to_bytes(8, "little") + good[8:],
    "half a pair": lambda good: changed(good, lambda name, t: None if "0.self_attn.q_proj.lora_B" in name else t),
    "other rank than the config": lambda good: changed(good, lambda name, t: t[:2] if "lora_A" in name else t[:, :2]),
    "integers": lambda good: changed(good, lambda name, t: t.to(torch.int64)),
}


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
def test_unusable_weights_are_422(ada, adapter_files, unchanged, kind):
    files = adapter_files()
    files[WEIGHTS] = BAD_WEIGHTS[kind](files[WEIGHTS])
    body = refused(ada.upload("ada/x", files), 422, "invalid_adapter")
    assert {"code", "where", "message"} == set(body["detail"]["problems"][0])


BAD_CONFIGS = [b"", b"[]", b"{", b'{"r": 8, "r": 9}', b"\xff", b"[" * 100_000, b'{"peft_type": "IA3"}', b'{"r": NaN}']


@pytest.mark.parametrize("config", BAD_CONFIGS)
def test_unusable_configs_are_422(ada, adapter_files, unchanged, config):
    refused(ada.upload("ada/x", adapter_files() | {CONFIG: config}), 422, "invalid_adapter")


HOSTILE = [
    {"r": "8"}, {"r": True}, {"r": 0}, {"lora_alpha": "x"}, {"peft_type": "IA3"}, {"r": 3}, {"target_modules": 5},
    {"auto_mapping": {"parent_library": "os"}}, {"base_model_name_or_path": "http://169.254.169.254/x"},
]  # fmt: skip


@pytest.mark.parametrize("overrides", HOSTILE)
def test_hostile_configs_are_422(ada, adapter_files, unchanged, overrides):
    refused(ada.upload("ada/x", adapter_files(config_overrides=overrides)), 422, "invalid_adapter")


def test_a_pickle_is_refused_with_the_way_to_convert(ada, adapter_files, unchanged):
    files = adapter_files()
    files["adapter_model.bin"] = files.pop(WEIGHTS)
    body = refused(ada.upload("ada/x", files), 422, "invalid_adapter")
    assert body["message"].startswith("adapter_model.bin: It can run code")
    assert "save_file" in body["message"]


def test_the_config_of_another_model_is_422(ada, adapter_files):
    register_base_model("acme/other", {"encoder.layer.0.query": [8, 8]})
    before = stored()
    files = adapter_files(config_overrides={"base_model_name_or_path": "acme/other"})
    body = refused(ada.upload("ada/x", files), 422, "invalid_adapter")
    assert body["detail"]["problems"][0]["code"] == "no_module_binds"
    assert stored() == before


def test_a_wrong_digest_is_422(ada, adapter_files, unchanged):
    body = refused(ada.upload("ada/x", adapter_files(), sha256="0" * 64), 422, "invalid_adapter")
    assert body["detail"]["problems"][0]["code"] == "digest_mismatch"


def test_the_right_digest_is_fine_in_upper_case(ada, adapter_files):
    files = adapter_files()
    digest = hashlib.sha256(files[WEIGHTS]).hexdigest().upper()
    assert ada.upload("ada/x", files, sha256=digest).status_code == 202


def test_over_the_limit_is_413(ada, adapter_files, unchanged, settings):
    settings.MAX_UPLOAD_BYTES = 1000
    refused(ada.upload("ada/x", adapter_files()), 413, "too_large")


BAD_SAMPLES = [b"not json", b"[]", b'{"text": "x"}', b"\xff"]
BAD_NAMES = ["x", "ada/..", "ada/x y", "admin/x", "Api/x", "", "ada/x.git"]


@pytest.mark.parametrize("samples", BAD_SAMPLES)
def test_samples_that_are_not_jsonl_are_422(ada, adapter_files, unchanged, samples):
    refused(ada.upload("ada/x", adapter_files(samples=samples)), 422, "invalid_samples")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_illegal_and_reserved_names_are_400(ada, adapter_files, unchanged, name):
    refused(ada.upload(name, adapter_files()), 400, "invalid")


def test_unknown_parts_are_400_and_named(ada, adapter_files, unchanged):
    body = refused(ada.upload("ada/x", adapter_files() | {"training_args.json": b"{}"}), 400, "invalid")
    assert "training_args.json" in body["message"]
    body = refused(ada.upload("ada/x", adapter_files(), licence="mit"), 400, "invalid")
    assert "licence" in body["detail"]


@pytest.mark.parametrize("missing", [WEIGHTS, CONFIG])
def test_a_missing_file_is_400_and_named(ada, adapter_files, unchanged, missing):
    files = adapter_files()
    del files[missing]
    assert refused(ada.upload("ada/x", files), 400, "invalid")["detail"] == {missing: "missing"}


def test_a_bad_visibility_is_400(ada, adapter_files, unchanged):
    refused(ada.upload("ada/x", adapter_files(), visibility="secret"), 400, "invalid")


def test_json_instead_of_a_form_is_415(ada, unchanged):
    body = refused(ada.post("/adapters/", {"name": "ada/x"}), 415, "unsupported_media_type")
    assert "Send multipart/form-data." in body["message"]


def test_a_foreign_namespace_is_403(ada, bob, adapter_files):
    before = stored()
    refused(bob.upload("ada/x", adapter_files()), 403, "permission_denied")
    assert stored() == before


def test_tokens_that_are_missing_unknown_expired_or_revoked_are_401(ada, anyone, adapter_files):
    files, before = adapter_files(), stored()
    body = refused(anyone.upload("ada/x", files), 401, "not_authenticated")
    assert "/settings/tokens/" in body["message"]
    anyone.use("hf_" + "x" * 40)
    refused(anyone.upload("ada/x", files), 401, "not_authenticated")
    past = timezone.now() - timedelta(days=2)
    for change in ({"created_at": past, "expires_at": past + timedelta(days=1)}, {"revoked_at": timezone.now()}):
        token, secret = create_token(ada.user, "t", 1)
        AccessToken.objects.filter(pk=token.pk).update(**change)
        ada.use(secret)
        refused(ada.upload("ada/x", files), 401, "not_authenticated")
    assert stored() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_values_that_mean_nothing_fail_the_job(ada, anyone, adapter_files, value):
    files = adapter_files()
    tensors = {name: torch.full_like(t, value) if "lora_B" in name else t for name, t in load(files[WEIGHTS]).items()}
    answer = ada.upload("ada/x", files | {WEIGHTS: save(tensors)})
    assert answer.status_code == 202, answer.content
    run_jobs()
    job = ada.get(f"/jobs/{answer.json()['job']['id']}/").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "invalid_adapter")
    adapter = ada.get("/adapters/ada/x/").json()
    assert adapter["state"] == "rejected"
    assert adapter["problems"]
    assert anyone.get("/adapters/ada/x/").status_code == 404
    refused(ada.post("/merges/", {"method": "weighted_sum", "inputs": [{"adapter": "ada/x"}]}), 409, "conflict")


BAD_RETRIEVALS = [
    {"text": "x", "k": 0}, {"text": "x", "k": 10**9}, {"text": "x", "k": -1}, {"text": "x", "k": True},
    {"text": "x", "k": "3"},
    {"text": ""}, {"text": "  \n"}, {"text": 5}, {}, {"text": "x", "texts": ["y"]}, {"texts": []},
    {"texts": ["x"] * 257},
    {"texts": ["x", " "]}, {"examples": [{"output": "x"}]}, {"text": "x", "params": {"temprature": 1}},
    {"text": "x", "params": {"temperature": 0}}, {"text": "x", "filters": {"colour": ["red"]}},
    {"text": "x", "topk": 3}, [], "x",
]  # fmt: skip


@pytest.mark.parametrize("body", BAD_RETRIEVALS, ids=str)
def test_bad_retrievals_are_400(anyone, body):
    assert anyone.post("/retrieve/", body).status_code == 400


def test_an_unknown_router_names_the_known_ones(anyone):
    body = refused(anyone.post("/retrieve/", {"router": "nope", "text": "x"}), 400, "unknown_router")
    assert "lora_retriever" in body["detail"]["known"]


def test_a_misspelt_parameter_names_the_known_ones(anyone):
    body = {"router": "lora_retriever", "text": "x", "params": {"temprature": 1}}
    answer = refused(anyone.post("/retrieve/", body), 400, "invalid_params")
    assert "'temprature'" in answer["message"]
    assert answer["detail"] == {"known": ["min_score", "temperature"]}


def test_a_question_that_is_too_long_is_told_how_long_one_may_be(anyone):
    answer = refused(anyone.post("/retrieve/", {"text": "a b " * 2_600_000}), 413, "too_large")
    assert "4,194,304 bytes" in answer["message"]


@pytest.fixture
def two(ada, adapter_files):
    ada.ready("ada/one", adapter_files(seed=1))
    ada.ready("ada/two", adapter_files(seed=2))
    return [{"adapter": "ada/one"}, {"adapter": "ada/two"}]


def test_bad_recipes_are_400(ada, two):
    before = stored()
    good = {"method": "weighted_sum", "inputs": two}
    assert refused(ada.post("/merges/", good | {"method": "nope"}), 400, "unknown_method")["detail"]["known"]
    refused(ada.post("/merges/", good | {"params": {"densty": 1}}), 400, "invalid_params")
    refused(ada.post("/merges/", {"method": "ties", "inputs": two, "params": {"density": 1.1}}), 400, "invalid_params")
    for bad in ([], {}, "x", None, [5], [{"adapter": "ada/one", "wait": 1}], [{"adapter": 5}]):
        assert ada.post("/merges/", good | {"inputs": bad}).status_code == 400, bad
    for weight in ("NaN", "1e999"):
        raw = json.dumps(good).replace('"ada/two"', f'"ada/two", "weight": {weight}')
        answer = ada.client.post("/api/v1/merges/", raw, content_type="application/json")
        assert answer.status_code == 400, weight
    zero = [item | {"weight": 0} for item in two]
    assert ada.post("/merges/", good | {"inputs": zero}).status_code == 400
    for output in (
        {"name": "x"},
        {"rank": {"mode": "some"}},
        {"rank": {"mode": "fixed"}},
        {"dtype": "int8"},
        {"nome": 1},
    ):
        assert ada.post("/merges/", good | {"output": output}).status_code == 400, output
    assert stored() == before


def test_inputs_that_cannot_be_merged_are_422(ada, two, adapter_files):
    ada.ready("ada/other", adapter_files(config_overrides={"base_model_name_or_path": "acme/another"}))
    before = stored()
    twice = {"method": "weighted_sum", "inputs": [two[0], two[0]]}
    body = refused(ada.post("/merges/", twice), 422, "not_mergeable")
    assert body["detail"]["inputs"][0] == body["detail"]["inputs"][0] | {
        "adapter": "ada/one",
        "code": "duplicate_input",
    }
    other = {"method": "weighted_sum", "inputs": [two[0], {"adapter": "ada/other"}]}
    body = refused(ada.post("/merges/", other), 422, "not_mergeable")
    assert body["detail"]["inputs"][0]["adapter"] == "ada/other"
    assert stored() == before


def test_what_is_private_or_yanked_is_404_everywhere(ada, bob, anyone, two, adapter_files):
    ada.ready("ada/secret", adapter_files(seed=3), visibility="private")
    assert ada.delete("/adapters/ada/one/").status_code == 204
    for caller in (bob, anyone):
        for name in ("secret", "one"):
            for path in (
                "",
                "revisions/",
                "files/adapter_config.json",
                "archive/",
                "prototypes/arrow/",
                "similar/?by=samples",
            ):
                refused(caller.get(f"/adapters/ada/{name}/{path}"), 404, "not_found")
    for name in ("ada/secret", "ada/one"):
        refused(bob.post("/merges/", {"method": "weighted_sum", "inputs": [{"adapter": name}]}), 404, "not_found")
    names = [item["name"] for item in anyone.get("/adapters/").json()["results"]]
    assert names == ["ada/two"]
    kept = ada.get("/adapters/ada/one/files/adapter_config.json")
    assert json.loads(kept.getvalue())["peft_type"] == "LORA"


def test_api_paths_that_do_not_exist_are_json(anyone):
    for path in ("/nope/", "/adapters", "/adapters/a", "/jobs/not-a-uuid/"):
        refused(anyone.get(path), 404, "not_found")
    refused(anyone.client.put("/api/v1/retrieve/", {}, format="json"), 405, "method_not_allowed")
