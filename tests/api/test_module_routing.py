"""`POST /retrieve/` by what enters the modules of the base: as a job from texts, and at once from hidden states."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from django.conf import settings as django_settings
from django.core.files.uploadedfile import SimpleUploadedFile
from safetensors.torch import save as save_torch

from lora.array_file import array_file
from lora.generic_texts import GENERIC_TEXTS
from lora.module_routers.arrow_global import baselines
from lora.runtime.loading import load_running_base
from lora.runtime.states import module_states
from registry.base_models import register_base_model
from registry.errors import NotReady
from registry.models import Job, JobLog
from retrieval import hidden_states, hybrid_search, module_routing
from retrieval.baselines import KIND, read_baselines
from retrieval.models import Prototype
from retrieval.module_routing import layer_means
from tests.api.conftest import Api, run_jobs
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, SAMPLES, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE

PATHS = sorted(MODULES)
WIDE = "model.layers.1.mlp.up_proj"
ROUTERS = ("arrow_global", "arrow", "spectr")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("bases") / BASE)


@pytest.fixture(scope="module")
def base(base_folder):
    return load_running_base(base_folder)


@pytest.fixture
def with_base(db, base_folder, settings, tmp_path):
    modules = MODULES | {WIDE: (16, 8)}
    register_base_model(BASE, {path: list(shape) for path, shape in modules.items()}, aliases=["acme/other-name"])
    settings.BASE_MODELS_DIR = str(base_folder.parent.parent)
    settings.DATA_DIR = tmp_path / "data"


@pytest.fixture
def add(tmp_path):
    """A function that makes an expert of the tiny base ready."""

    def make(who, name, seed=0, modules=MODULES, rank=2, gates=None, samples=SAMPLES, **fields):
        folder = write_adapter_files(
            tmp_path / name, modules, rank=rank, seed=seed, config_overrides={"base_model_name_or_path": BASE}
        )
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        files |= {"samples.jsonl": samples} if samples else {}
        files |= {"gates.safetensors": gates} if gates else {}
        return who.ready(f"{who.username}/{name}", files, **({"license": "mit"} | fields))

    return make


@pytest.fixture
def experts(with_base, ada, add):
    """Experts of mixed ranks and targets."""
    add(ada, "one", 1)
    add(ada, "two", 2, rank=4, tags=["qa"])
    add(ada, "three", 3, modules={path: MODULES[path] for path in PATHS[:2]})
    assert Job.objects.exclude(status="succeeded").count() == 0


def ask(who, **changes):
    return who.post("/retrieve/", {"router": "arrow_global", "text": "a b", "base_model": BASE} | changes)


def finished(who, answer):
    assert answer.status_code == 202, answer.content
    run_jobs()
    return who.get(f"/jobs/{answer.json()['job']['id']}/").json()


def result_of(who, **changes):
    job = finished(who, ask(who, **changes))
    assert job["status"] == "succeeded", job
    return job["result"]


def send(who, states, **changes):
    content = states if isinstance(states, bytes) else array_file(states)
    parts = {"request": json.dumps({"router": "arrow_global", "base_model": BASE} | changes)}
    parts["hidden_states"] = SimpleUploadedFile("hidden_states", content)
    return who.client.post("/api/v1/retrieve/", parts, format="multipart")


def ranked(result, number=0):
    return [(match["adapter"], match["score"]) for match in result["results"][number]["matches"]]


@pytest.mark.parametrize("router", ROUTERS)
def test_a_job_answers_as_other_routers_do_and_as_hidden_states_do(experts, ada, base, router):
    result = result_of(ada, router=router, text="a b", explain=True)
    assert result["router"] == router
    assert result["space"] == f"hidden states of {BASE}"
    assert result["took_ms"].keys() == {"encode", "search"}
    [found] = result["results"]
    assert not found["abstained"]
    scores = [match["score"] for match in found["matches"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(match["weight"] for match in found["matches"]) == pytest.approx(1)
    assert {match["adapter"] for match in found["matches"]} == {"ada/one", "ada/two", "ada/three"}
    for match in found["matches"]:
        assert len(match["revision"]) == 40
        assert match["license"] == "mit"
        layers = {layer["layer"]: layer["score"] for layer in match["evidence"]["layers"]}
        assert set(layers) == ({0} if match["adapter"] == "ada/three" else {0, 1})
    picks = found["evidence"]["picks"]
    assert [pick["layer"] for pick in picks] == [0, 1]
    for pick in picks:
        told = [layer for match in found["matches"] for layer in match["evidence"]["layers"]]
        assert pick["score"] == max(layer["score"] for layer in told if layer["layer"] == pick["layer"])
    sent = send(ada, module_states(base, "a b", PATHS), router=router)
    assert sent.status_code == 200, sent.content
    for (name, score), (expected, known) in zip(ranked(sent.json()), ranked(result), strict=True):
        assert name == expected
        assert score == pytest.approx(known, abs=2e-5)


def test_scores_are_those_of_the_formula(experts, ada, base):
    generic = [module_states(base, text, PATHS) for text in GENERIC_TEXTS]
    states = module_states(base, "c b a", PATHS)
    for name, score in ranked(result_of(ada, text="c b a")):
        revision = module_routing.Revision.objects.get(adapter__full_name=name)
        vectors = module_routing.read_arrow([revision.pk])[revision.pk]
        known = baselines(generic, vectors)
        z = []
        for path, v in vectors.items():
            x = states[path].astype(float)
            response = np.mean(np.abs(x @ v) / np.linalg.norm(x, axis=1))
            z.append((response - known.modules[path][0]) / known.modules[path][1])
        # The generic texts are kept in half precision.
        assert score == pytest.approx(np.mean(z) / np.hypot(known.spread, 0.5), abs=0.02)


def test_samples_count_where_experts_have_some(with_base, ada, add, base):
    add(ada, "greek", 1, samples=b'{"input": "alpha beta gamma"}\n{"input": "delta alpha"}\n')
    add(
        ada,
        "french",
        2,
        samples=b'{"input": "Quelle est la capitale du Chili ?"}\n{"input": "Quelle heure est-il ?"}\n',
    )
    add(ada, "silent", 3, samples=None)
    asked = {"text": "Quelle est la capitale ?", "explain": True}
    plain = result_of(ada, **asked, params={"with_samples": False})
    assert all("samples_shift" not in match["evidence"] for match in plain["results"][0]["matches"])
    result = result_of(ada, **asked)
    assert result["warnings"] == []
    shifts = {match["adapter"]: match["evidence"]["samples_shift"] for match in result["results"][0]["matches"]}
    assert shifts["ada/french"] > 0.1 > 0 > shifts["ada/greek"]
    assert shifts["ada/silent"] == pytest.approx(shifts["ada/greek"], abs=0.05)
    before = dict(ranked(plain))
    for name, score in ranked(result):
        assert score == pytest.approx(before[name] + shifts[name], abs=1e-5)
    states = module_states(base, asked["text"], PATHS)
    assert dict(ranked(send(ada, states).json())) == pytest.approx(before, abs=2e-5)


def test_without_an_encoder_it_says_that_samples_did_not_count(experts, ada, monkeypatch):
    plain = ranked(result_of(ada, params={"with_samples": False}))

    def gone(space_id):
        raise NotReady("The encoder is not there.")

    monkeypatch.setattr(hybrid_search, "encoder_of", gone)
    result = result_of(ada)
    assert [warning["code"] for warning in result["warnings"]] == ["without_samples"]
    assert ranked(result) == plain


def test_texts_and_examples_give_one_result_each_or_together(experts, ada, base):
    texts = ["a", "b c", "a b c a"]
    result = result_of(ada, text=None, texts=texts)
    assert len(result["results"]) == 3
    assert ranked(result, 1) == ranked(result_of(ada, text="b c"))
    together = result_of(ada, text=None, examples=[{"input": text, "output": "c"} for text in texts])
    joined = {path: np.concatenate([module_states(base, text, PATHS)[path] for text in texts]) for path in PATHS}
    assert [name for name, _ in ranked(together)] == [name for name, _ in ranked(send(ada, joined).json())]


def test_baselines_are_computed_once_and_at_admission_from_then_on(experts, ada, add, settings):
    assert not Prototype.objects.filter(kind=KIND).exists()
    result_of(ada)
    before = dict(Prototype.objects.filter(kind=KIND).values_list("revision_id", "blob_id"))
    assert len(before) == 3
    add(ada, "four", 4)
    rows = dict(Prototype.objects.filter(kind=KIND).values_list("revision_id", "blob_id"))
    assert len(rows) == 4
    assert before.items() <= rows.items()
    assert read_baselines(rows).keys() == rows.keys()
    # Known to every process, so that hidden states are ranked where there is neither base nor background.
    settings.BASE_MODELS_DIR, settings.DATA_DIR = "", settings.DATA_DIR / "elsewhere"
    states = {path: np.ones((2, 8), np.float32) for path in PATHS}
    assert len(ranked(send(Api(), states, k=10).json())) == 4


def test_a_damaged_or_partial_background_is_made_anew(experts, ada, add):
    scores = ranked(result_of(ada))
    [file] = Path(django_settings.DATA_DIR, "backgrounds").iterdir()
    file.write_bytes(b"damaged")
    Prototype.objects.filter(kind=KIND).delete()
    assert ranked(result_of(ada)) == scores
    add(ada, "wide", 5, modules=MODULES | {WIDE: (16, 8)})
    assert "ada/wide" in dict(ranked(result_of(ada, k=10)))
    assert len(list(file.parent.iterdir())) == 1


def test_hidden_states_wait_for_baselines_which_a_job_computes(experts, ada, base):
    states = module_states(base, "a b", PATHS)
    for _ in range(2):
        answer = send(ada, states)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert int(answer["Retry-After"]) > 0
    assert Job.objects.filter(kind="baselines").count() == 1
    run_jobs()
    assert send(ada, states).status_code == 200


def test_hidden_states_say_why_baselines_cannot_be_had(experts, ada, base, settings):
    settings.BASE_MODELS_DIR = ""
    states = module_states(base, "a b", PATHS)
    send(ada, states)
    run_jobs()
    answer = send(ada, states)
    assert answer.status_code == 503
    assert "no weights of acme/tiny-llama" in answer.json()["message"]
    assert Job.objects.filter(kind="baselines").count() == 1


def test_gates_of_contributors_route(with_base, ada, add):
    states = {path: np.random.default_rng(3).normal(size=(4, 8)).astype(np.float32) for path in PATHS}
    like = {path: torch.from_numpy(x.mean(axis=0)).bfloat16() for path, x in states.items()}
    add(ada, "gated", 1, gates=save_torch(like))
    add(ada, "other", 2, gates=save_torch({path: -gate for path, gate in like.items()}))
    add(ada, "none", 3)
    found = ranked(send(ada, states, router="phatgoose").json())
    assert [name for name, _ in found] == ["ada/gated", "ada/other"]


def test_what_the_caller_may_not_see_has_no_influence(experts, ada, bob, add):
    public = ranked(result_of(bob, router="arrow"))
    add(ada, "secret", 5, visibility="private")
    assert ranked(result_of(bob, router="arrow")) == public
    assert "ada/secret" in dict(ranked(result_of(ada, router="arrow", k=10)))
    assert ada.delete("/adapters/ada/one/").status_code == 204
    assert "ada/one" not in dict(ranked(result_of(bob, router="arrow")))


def test_filters_aliases_k_and_thresholds(experts, ada):
    assert [name for name, _ in ranked(result_of(ada, filters={"tag": ["qa"]}))] == ["ada/two"]
    assert len(ranked(result_of(ada, k=1, base_model="acme/other-name"))) == 1
    none = result_of(ada, filters={"license": ["apache-2.0"]})["results"]
    assert none == [{"abstained": True, "reason": "no_experts", "matches": []}]
    low = result_of(ada, params={"min_score": 1e6})["results"]
    assert low == [{"abstained": True, "reason": "below_threshold", "matches": []}]


def test_texts_are_erased_with_the_end_of_the_job(experts, ada, settings):
    answer = ask(ada, text="cab secret")
    assert "secret" in json.dumps(Job.objects.get(kind="route").private)
    finished(ada, answer)
    settings.BASE_MODELS_DIR = ""
    failed = finished(ada, ask(ada, text="cab secret"))
    assert failed["error"]["code"] == "base_not_here"
    rows = [*Job.objects.values("payload", "private", "result", "error"), *JobLog.objects.values("message")]
    assert "secret" not in json.dumps(rows)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"base_model": None}, "base_model"),
        ({"base_model": 3}, "base_model"),
        ({"text": " "}, "text"),
        ({"texts": ["a"]}, "texts"),
        ({"vector": [1.0], "text": None}, "'vector'"),
        ({"k": 0}, "k"),
        ({"filters": {"colour": ["red"]}}, "filters"),
        ({"params": {"temprature": 1}}, None),
        ({"hidden_states": "x"}, "'hidden_states'"),
    ],
)
def test_bad_requests_are_refused_by_field(with_base, ada, changes, field):
    answer = ask(ada, **changes)
    assert answer.status_code == 400, answer.content
    assert field is None or field in answer.json()["detail"]
    assert not Job.objects.filter(kind="route").exists()


def test_who_may_ask_and_how_often(with_base, ada, anyone):
    assert ask(anyone).json()["code"] == "not_authenticated"
    for _ in range(8):
        assert ask(ada).status_code == 202
    assert ask(ada).json()["code"] == "throttled"


def test_other_places_say_that_this_router_needs_a_job(experts, ada):
    body = {"method": "weighted_sum", "inputs": {"retrieve": {"router": "arrow_global", "text": "a"}}}
    answer = ada.post("/merges/", body)
    assert (answer.status_code, "job" in answer.json()["message"]) == (400, True)
    known = ada.post("/retrieve/", {"router": "arow", "text": "a"}).json()
    assert {"arrow_global", "lora_retriever"} <= set(json.dumps(known).replace('"', " ").replace(",", " ").split())
    assert "arrow_global" in {method["name"] for method in ada.get("/methods/").json()["routers"]}


def bad_states():
    good = {path: np.ones((2, 8), np.float32) for path in PATHS}
    return {
        "not safetensors": b"PK\x03\x04 not a tensor file",
        "one dimension": array_file(good | {PATHS[0]: np.ones(8, np.float32)}),
        "no tokens": array_file(good | {PATHS[0]: np.ones((0, 8), np.float32)}),
        "integers": array_file(good | {PATHS[0]: np.ones((2, 8), np.int32)}),
        "zeros": array_file({path: np.zeros((2, 8), np.float32) for path in PATHS}),
        "not a number": array_file(good | {PATHS[0]: np.full((2, 8), np.nan, np.float32)}),
        "too wide": array_file(good | {PATHS[0]: np.ones((2, 9), np.float32)}),
        "too many tokens": array_file({PATHS[0]: np.ones((hidden_states.MAX_TOKENS + 1, 8), np.float32)}),
        "other modules": array_file({"model.layers.7.q": np.ones((2, 8), np.float32)}),
    }


@pytest.mark.parametrize("case", bad_states())
def test_bad_hidden_states_are_refused(experts, ada, case):
    answer = send(ada, bad_states()[case])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_vectors"), answer.content
    assert answer.json()["detail"]["problems"]


def test_multipart_requests_have_their_two_parts_and_a_limit(experts, ada, monkeypatch):
    good = {path: np.ones((2, 8), np.float32) for path in PATHS}
    at = "/api/v1/retrieve/"
    assert ada.client.post(at, {"request": "{}"}, format="multipart").json()["code"] == "invalid"
    file = SimpleUploadedFile("hidden_states", array_file(good))
    for request in ("{", "[]", json.dumps({"router": "lora_retriever", "text": "a"})):
        file.seek(0)
        answer = ada.client.post(at, {"request": request, "hidden_states": file}, format="multipart")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
    assert send(ada, good, text="a", router="arrow").status_code == 400
    monkeypatch.setattr(hidden_states, "MAX_BYTES", 100)
    assert send(ada, good, router="arrow").json()["code"] == "too_large"


def test_more_experts_than_fit_are_not_skipped_silently(experts, ada, monkeypatch):
    monkeypatch.setattr(module_routing, "MAX_EXPERTS", 2)
    answer = send(ada, {path: np.ones((2, 8), np.float32) for path in PATHS}, router="arrow")
    assert (answer.status_code, "filters" in answer.json()["detail"]) == (400, True)


def test_layers_are_told_by_the_modules_that_experts_have_in_them():
    paths = ["model.layers.10.q", "model.layers.2.q", "model.layers.2.k", "lm_head"]
    parts = np.array([[1.0, np.nan], [2.0, 4.0], [4.0, np.nan], [9.0, 9.0]])
    layers, means = layer_means(paths, parts)
    assert layers == [2, 10]
    assert np.array_equal(means, [[3.0, 4.0], [1.0, np.nan]], equal_nan=True)
