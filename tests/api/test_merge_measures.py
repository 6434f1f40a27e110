"""What `POST /merges/preview/` measures: how the inputs relate, and what a weighted sum of them would keep."""

import numpy as np
import pytest
import torch
from django.conf import settings
from safetensors.numpy import load

from registry import merge_measures
from registry.models import Revision
from tests.api.conftest import run_jobs
from tests.api.test_merge_preview import preview

MEASURES = ("cosine", "overlap", "overlap_in", "sign_conflict")


@pytest.fixture
def two(ada, adapter_files):
    ada.ready("ada/one", adapter_files(seed=1))
    ada.ready("ada/two", adapter_files(seed=2, rank=2))
    return [{"adapter": "ada/one", "weight": 1}, {"adapter": "ada/two", "weight": 3}]


def dense_cosine(one: dict[str, bytes], other: dict[str, bytes]) -> float:
    """Of whole ΔW with scaling alpha/r = 8/r, from the bytes of the files."""
    flat = []
    for files in (one, other):
        tensors = load(files["adapter_model.safetensors"])
        names = sorted(name for name in tensors if "lora_A" in name)
        parts = [tensors[name.replace("lora_A", "lora_B")] @ tensors[name] * 8 / len(tensors[name]) for name in names]
        flat.append(np.concatenate([part.ravel() for part in parts]).astype(float))
    return float(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))


def test_it_measures_how_the_inputs_relate(ada, anyone, two, adapter_files):
    body = preview(anyone, {"method": "ties", "inputs": two})
    assert [item["adapter"] for item in body["measured"]] == ["ada/one", "ada/two"]
    for name in MEASURES:
        assert np.shape(body[name]) == (2, 2)
    expected = dense_cosine(adapter_files(seed=1), adapter_files(seed=2, rank=2))
    assert body["cosine"][0][1] == body["cosine"][1][0] == pytest.approx(expected, abs=1e-6)
    assert body["overlap_chance"]["in"] == pytest.approx([4 / 8, 2 / 8])
    assert body["stable_rank"][1] <= 2
    assert sum(body["contributions"]) == pytest.approx(1)
    assert [row["rank"] for row in body["energy"]] == [1, 2, 4, 6, 8]
    assert body["energy"][-1]["kept"] == 1
    assert body["job"] is None


def test_weights_change_what_is_kept_and_who_dominates(ada, two):
    even = preview(ada, {"method": "weighted_sum", "inputs": [item | {"weight": 1} for item in two]})
    assert even["dominates"] is None
    uneven = preview(ada, {"method": "weighted_sum", "inputs": [two[0] | {"weight": 0.01}, two[1] | {"weight": 1}]})
    assert uneven["dominates"]["input"] == 1
    assert uneven["contributions"][1] > 0.95
    told = next(item["message"] for item in uneven["warnings"] if item["code"] == "norm_ratio")
    assert told.startswith("ada/two is ")
    assert all(uneven[name] == even[name] for name in MEASURES)
    assert uneven["energy"] != even["energy"]


def test_the_rank_asked_for_is_on_the_curve_and_a_low_one_is_warned_of(ada, two):
    recipe = {"method": "weighted_sum", "inputs": two, "output": {"rank": {"mode": "fixed", "value": 3}}}
    body = preview(ada, recipe)
    assert 3 in [row["rank"] for row in body["energy"]]
    low = preview(ada, recipe | {"output": {"rank": {"mode": "fixed", "value": 1}}})
    told = next(item["message"] for item in low["warnings"] if item["code"] == "low_energy")
    assert f"Rank 1 keeps {100 * low['energy'][0]['kept']:.1f} %" in told
    assert "Rank 8, which vLLM serves" in told


def test_copies_are_told_once(ada, two, adapter_files):
    ada.ready("ada/copy", adapter_files(seed=1, dtype=torch.bfloat16))
    body = preview(ada, {"method": "weighted_sum", "inputs": [*two, {"adapter": "ada/copy"}]})
    codes = [warning["code"] for warning in body["warnings"]]
    assert codes.count("near_duplicate") == 1
    told = next(item["message"] for item in body["warnings"] if item["code"] == "near_duplicate")
    assert "ada/one and ada/copy (cosine 1.000)" in told


def test_what_cannot_be_added_up_is_not_measured(ada, two):
    body = preview(ada, {"method": "weighted_sum", "inputs": [*two, {"adapter": "ada/none"}]})
    assert [body[name] for name in (*MEASURES, "measured", "energy", "dominates", "job")] == [None] * 8
    # What is wrong elsewhere does not hide it.
    assert preview(ada, {"method": "ties", "inputs": two, "params": {"density": 5}})["cosine"] is not None


def test_a_recipe_of_recipes_is_measured_by_its_adapters(ada, two, adapter_files):
    ada.ready("ada/three", adapter_files(seed=3))
    inner = {"recipe": {"method": "weighted_sum", "inputs": two}, "weight": 0.5}
    body = preview(ada, {"method": "weighted_sum", "inputs": [inner, {"adapter": "ada/three", "weight": 1}]})
    assert [(item["adapter"], item["weight"]) for item in body["measured"]] == [
        ("ada/one", 0.5),
        ("ada/two", 1.5),
        ("ada/three", 1),
    ]
    assert np.shape(body["cosine"]) == (3, 3)


def test_large_inputs_are_measured_by_a_worker(ada, bob, anyone, two, monkeypatch):
    recipe = {"method": "weighted_sum", "inputs": two}
    direct = preview(ada, recipe)
    monkeypatch.setattr(merge_measures, "DIRECT_BYTES", 100)
    stranger = preview(anyone, recipe)
    assert stranger["cosine"] is None
    assert "not_measured" in [warning["code"] for warning in stranger["warnings"]]
    asked = ada.post("/merges/preview/", recipe)
    assert asked.status_code == 202
    job = asked.json()["job"]
    assert (job["kind"], job["status"], asked.json()["cosine"]) == ("preview", "queued", None)
    assert asked.json()["mergeable"]
    # The same question again waits for the same job; another caller has one of his own.
    assert ada.post("/merges/preview/", recipe).json()["job"]["id"] == job["id"]
    assert bob.post("/merges/preview/", recipe).json()["job"]["id"] != job["id"]
    run_jobs()
    assert ada.get(f"/jobs/{job['id']}/").json()["status"] == "succeeded"
    for who in (ada, anyone):
        body = preview(who, recipe)
        for name in (*MEASURES, "overlap_chance", "energy", "contributions", "measured", "warnings"):
            if name != "warnings" or who is ada:
                assert body[name] == direct[name]


def test_a_worker_that_finds_a_damaged_file_says_so_once(ada, two, monkeypatch):
    monkeypatch.setattr(merge_measures, "DIRECT_BYTES", 100)
    recipe = {"method": "weighted_sum", "inputs": two}
    job = ada.post("/merges/preview/", recipe).json()["job"]
    weights = Revision.objects.filter(adapter__full_name="ada/one").get().file("adapter_model.safetensors").blob_id
    [stored] = (settings.DATA_DIR / "files").rglob(weights)
    stored.rename(stored.with_suffix(".away"))
    try:
        run_jobs()
    finally:
        # Other tests store the same bytes.
        stored.with_suffix(".away").rename(stored)
    assert ada.get(f"/jobs/{job['id']}/").json()["status"] == "failed"
    again = ada.post("/merges/preview/", recipe)
    assert (again.status_code, again.json()["job"]["id"], again.json()["cosine"]) == (200, job["id"], None)
