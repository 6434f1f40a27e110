"""Six adapters made by strangers, uploaded as they are."""

from pathlib import Path

import pytest

from tests.api.conftest import run_jobs

pytestmark = pytest.mark.django_db
FOLDER = Path(__file__).parents[1] / "data" / "strangers"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def files_of(name):
    wanted = ("adapter_config.json", "adapter_model.safetensors", "README.md")
    return {file: (FOLDER / name / file).read_bytes() for file in wanted}


@pytest.mark.parametrize("name", NAMES)
def test_a_strangers_adapter_is_usable_and_its_oddities_are_told(ada, name):
    adapter = ada.ready(f"ada/{name}", files_of(name))
    assert adapter["state"] == "ready"
    told = {warning["code"] for warning in adapter["warnings"]}
    assert {"base_unknown", "no_samples", "template_card", "extra_head"} <= told
    assert ("targets_without_tensors" in told) == (name == "gpt2-classification-b-best")
    assert [item["kind"] for item in adapter["prototypes"]] == ["arrow", "delta_sketch"]
    assert all(module["norm"] > 0 for module in adapter["facts"]["modules"])


def test_two_checkpoints_of_one_run_are_alike_and_others_are_not(ada):
    for name in ("roberta-agnews-500", "roberta-agnews-1200", "roberta-portuguese"):
        ada.upload(f"ada/{name}", files_of(name))
    run_jobs()
    found = ada.get("/adapters/ada/roberta-agnews-500/similar/", by="prototype", k=2).json()
    assert [item["adapter"] for item in found] == ["ada/roberta-agnews-1200", "ada/roberta-portuguese"]
    assert found[0]["score"] > 0.9 > found[1]["score"]
