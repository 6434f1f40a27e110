"""`GET …/prototypes/spectral/`: computed from the file that was uploaded, whenever that was."""

import pytest
import torch
from safetensors.torch import load, save

from registry.models import Revision
from tests.api.conftest import Api, adapter_files  # noqa: F401 - a fixture


@pytest.fixture
def ada(db) -> Api:
    return Api("ada")


def test_rows_are_those_of_the_uploaded_file(ada, adapter_files):  # noqa: F811
    files = adapter_files(seed=4)
    facts = ada.ready("ada/one", files)["facts"]
    answer = ada.get("/adapters/ada/one/prototypes/spectral/")
    assert answer["Content-Disposition"] == 'attachment; filename="one-spectral.safetensors"'
    found = load(answer.content)
    tensors = load(files["adapter_model.safetensors"])
    assert set(found) == {module["path"] for module in facts["modules"]}
    for module in facts["modules"]:
        name = f"base_model.model.{module['path']}.lora_"
        dense = module["scaling"] * (tensors[f"{name}B.weight"] @ tensors[f"{name}A.weight"])
        rows = found[module["path"]]
        torch.testing.assert_close(rows.T @ rows, dense.T @ dense, rtol=1e-4, atol=1e-4)
        assert rows.norm(dim=1).tolist() == pytest.approx(module["sigma"], rel=1e-4, abs=1e-5)
    assert ada.get("/adapters/ada/one/prototypes/spectral/").content == answer.content
    assert "spectral" not in {item["kind"] for item in ada.get("/adapters/ada/one/").json()["prototypes"]}


def test_a_revision_that_did_not_pass_has_none(ada, adapter_files):  # noqa: F811
    ada.ready("ada/one", adapter_files(seed=4))
    Revision.objects.update(state="rejected", problems=[{"code": "x", "where": "y", "message": "z"}])
    assert ada.get("/adapters/ada/one/prototypes/spectral/").status_code == 404


def test_facts_count_the_modules_that_one_vector_describes_badly(ada, adapter_files):  # noqa: F811
    files = adapter_files(seed=4)
    tensors = load(files["adapter_model.safetensors"])
    first = min(name for name in tensors if "lora_A" in name)
    tensors[first] = torch.eye(*tensors[first].shape)
    tensors[first.replace("lora_A", "lora_B")] = torch.eye(*tensors[first.replace("lora_A", "lora_B")].shape)
    facts = ada.ready("ada/round", files | {"adapter_model.safetensors": save(tensors)})["facts"]
    flat = [module for module in facts["modules"] if module["sigma"][1] > 0.9 * module["sigma"][0]]
    assert facts["ambiguous_modules"] == len(flat) >= 1
