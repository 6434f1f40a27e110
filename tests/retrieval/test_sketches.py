"""Sketches of ΔW: a prototype of their own, and how `GET …/similar/` finds what to compare without reading files."""

import numpy as np
import pytest
from django.core.management import call_command
from safetensors.torch import load, save

from retrieval import similar, sketches
from retrieval.models import DeltaSketch
from tests.api.conftest import Api, adapter_files  # noqa: F401 - a fixture
from tests.lora.factories import MODULES


@pytest.fixture
def ada(db) -> Api:
    return Api("ada")


def with_scaled_b(files: dict[str, bytes], factor: float) -> dict[str, bytes]:
    tensors = load(files["adapter_model.safetensors"])
    changed = {name: tensor * factor if "lora_B" in name else tensor for name, tensor in tensors.items()}
    return files | {"adapter_model.safetensors": save(changed)}


def dense(files: dict[str, bytes]) -> np.ndarray:
    tensors = load(files["adapter_model.safetensors"])
    names = sorted(name for name in tensors if "lora_A" in name)
    return np.concatenate([(tensors[n.replace("lora_A", "lora_B")] @ tensors[n]).double().ravel() for n in names])


@pytest.fixture
def some(ada, adapter_files):  # noqa: F811
    """A few adapters by name; `ada/twin` and `ada/foe` change the base as `ada/one` does, and the other way."""
    files = {f"ada/{name}": adapter_files(seed=seed) for seed, name in enumerate(("one", "two", "three"))}
    files["ada/twin"] = with_scaled_b(files["ada/one"], 3.0)
    files["ada/foe"] = with_scaled_b(files["ada/one"], -0.5)
    for name, parts in files.items():
        ada.ready(name, parts)
    other = adapter_files(seed=0, config_overrides={"base_model_name_or_path": "acme/another"})
    ada.ready("ada/elsewhere", other)
    return files


def test_scores_are_exact_cosines_of_one_base(ada, some):
    found = ada.get("/adapters/ada/one/similar/", by="delta").json()
    assert found[0]["adapter"] == "ada/twin"
    assert found[-1]["adapter"] == "ada/foe"
    assert "ada/elsewhere" not in {match["adapter"] for match in found}
    own = dense(some["ada/one"])
    for match in found:
        other = dense(some[match["adapter"]])
        assert match["score"] == pytest.approx(own @ other / np.linalg.norm(own) / np.linalg.norm(other), abs=1e-5)
    assert ada.get("/adapters/ada/one/similar/", by="delta", k=1).json() == found[:1]


def test_a_shortlist_and_a_budget_bound_what_is_read(ada, some, monkeypatch):
    monkeypatch.setattr(sketches, "SHORTLIST", 1)
    assert [m["adapter"] for m in ada.get("/adapters/ada/one/similar/", by="delta").json()] == ["ada/twin"]
    monkeypatch.setattr(sketches, "MAX_READ_BYTES", 10)
    assert ada.get("/adapters/ada/one/similar/", by="delta").json() == []


def test_what_a_caller_may_not_see_is_not_compared(ada, some):
    ada.patch("/adapters/ada/twin/", {"visibility": "private"})
    found = Api().get("/adapters/ada/one/similar/", by="delta").json()
    assert "ada/twin" not in {match["adapter"] for match in found}


def test_adapters_of_an_older_version_get_their_sketches_by_a_command(ada, some, capsys):
    before = {sketch.pk: bytes(sketch.vector) for sketch in DeltaSketch.objects.all()}
    DeltaSketch.objects.all().delete()
    assert ada.get("/adapters/ada/one/similar/", by="delta").json() == []
    call_command("sketch_deltas")
    assert f"{len(before)} adapters" in capsys.readouterr().out
    assert {sketch.pk: bytes(sketch.vector) for sketch in DeltaSketch.objects.all()} == before
    call_command("sketch_deltas")
    assert "0 adapters" in capsys.readouterr().out


def test_an_adapter_that_changes_nothing_and_one_of_other_modules(ada, some, adapter_files):  # noqa: F811
    half = {path: MODULES[path] for path in list(MODULES)[:1]}
    ada.ready("ada/half", adapter_files(seed=0, modules=half))
    scores = {m["adapter"]: m["score"] for m in ada.get("/adapters/ada/half/similar/", by="delta").json()}
    assert set(scores) == set(some)


def test_a_sketch_is_listed_and_served_as_other_prototypes_are(ada, some):
    row = {"kind": "delta_sketch", "space": None, "count": 1, "dim": 256}
    assert row in ada.get("/adapters/ada/one/").json()["prototypes"]
    listed = {item["name"]: item["prototypes"] for item in ada.get("/adapters/").json()["results"]}
    assert listed["ada/one"] == ada.get("/adapters/ada/one/").json()["prototypes"]
    vectors = {
        name: load_vector(ada.get(f"/adapters/{name}/prototypes/delta_sketch/")) for name in ("ada/one", "ada/twin")
    }
    assert vectors["ada/twin"] == pytest.approx(3 * vectors["ada/one"], rel=1e-4)


def load_vector(answer) -> np.ndarray:
    [rows] = load(answer.content).values()
    assert tuple(rows.shape) == (1, 256)
    return rows[0].numpy()


def test_sketches_alone_estimate_and_read_no_file(ada, some, monkeypatch):
    exact = {m["adapter"]: m["score"] for m in ada.get("/adapters/ada/one/similar/", by="delta").json()}
    for module, name in ((sketches, "local_file"), (similar, "read_blob")):
        monkeypatch.setattr(module, name, None)
    found = ada.get("/adapters/ada/one/similar/", by="delta_sketch").json()
    assert found[0]["adapter"] == "ada/twin"
    assert found[-1]["adapter"] == "ada/foe"
    # Four small modules: the estimate is as rough as it gets.
    assert {m["adapter"]: m["score"] for m in found} == pytest.approx(exact, abs=0.3)
    assert ada.get("/adapters/ada/one/similar/", by="delta_sketch", k=1).json() == found[:1]


def test_arrow_vectors_are_read_of_those_whose_sketches_are_nearest(ada, some, monkeypatch):
    """However old they are, and also where they do the opposite, which Arrow vectors do not tell apart."""
    monkeypatch.setattr(similar, "MAX_COMPARED", 2)
    found = ada.get("/adapters/ada/one/similar/", by="prototype").json()
    assert {m["adapter"]: m["score"] for m in found} == pytest.approx({"ada/twin": 1, "ada/foe": 1}, abs=1e-5)
    # Without sketches the newest are read.
    DeltaSketch.objects.all().delete()
    assert {m["adapter"] for m in ada.get("/adapters/ada/one/similar/", by="prototype").json()} == {
        "ada/twin",
        "ada/foe",
    }
    assert {m["adapter"] for m in ada.get("/adapters/ada/twin/similar/", by="prototype").json()} == {
        "ada/foe",
        "ada/three",
    }
