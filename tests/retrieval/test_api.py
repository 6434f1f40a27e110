"""The REST paths of retrieval."""

import json

import numpy as np
import pytest
from django.test import Client
from safetensors.numpy import load

from retrieval.prototypes import store_modules
from tests.retrieval.rows import make_expert, make_user, publish

pytestmark = pytest.mark.django_db

CAPITALS = ["Name the capital of France.", "What is the capital of Japan?"]
SUMS = ["What is 12 + 30?", "Add 4 and 5."]


def post(client, payload):
    body = payload if isinstance(payload, bytes) else json.dumps(payload)
    return client.post("/api/v1/retrieve/", body, content_type="application/json")


@pytest.fixture
def ada():
    client = Client()
    client.force_login(make_user("ada"))
    return client


def test_anybody_may_retrieve(client):
    make_expert("bo/sums", SUMS)
    make_expert("ada/capitals", CAPITALS, base_model="org/base")
    make_expert("ada/secret", CAPITALS, visibility="private")
    answer = post(client, {"text": "Name the capital of Peru.", "k": 2, "explain": True})
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"router", "space", "index_version", "took_ms", "results"}
    [result] = body["results"]
    assert [match["adapter"] for match in result["matches"]] == ["ada/capitals", "bo/sums"]
    said = {"adapter", "revision", "base_model", "score", "weight"}
    assert result["matches"][0].keys() == said | {"license", "rank", "instruction", "evidence", "compositions"}
    [plain] = post(client, {"text": "Name the capital of Peru.", "k": 1}).json()["results"]
    assert plain["matches"][0].keys() == said


def test_a_caller_finds_its_own_private_experts(ada):
    make_expert("ada/secret", CAPITALS, visibility="private")
    [result] = post(ada, {"text": CAPITALS[0]}).json()["results"]
    assert [match["adapter"] for match in result["matches"]] == ["ada/secret"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"text": " "}, "invalid"),
        ({"text": "a", "k": 10**9}, "invalid"),
        ({"text": "a", "router": "\ud800"}, "unknown_router"),
        ({"text": "a", "params": {"\ud800": 1}}, "invalid_params"),
        ({"text": "a", "\ud800": 1}, "invalid"),
        ({"text": "a", "filters": {"\ud800": ["x"]}}, "invalid"),
        (b"{", "invalid"),
        (b"", "invalid"),
        (b'{"text": "a", "k": NaN}', "invalid"),
        (b'{"text": "\xff"}', "invalid"),
        (b'{"text": "a", "k": ' + b"1" * 5000 + b"}", "invalid"),
        (b"[" * 200_000, "invalid"),
    ],
)
def test_refusals_are_400_with_a_code_and_a_message(client, body, code):
    answer = post(client, body)
    assert answer.status_code == 400
    assert answer.json()["code"] == code
    assert answer.json()["message"]


def test_a_body_of_megabytes_is_too_large(client):
    answer = post(client, {"text": "a" * 5_000_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_only_json_is_read(client):
    form = {"content_type": "application/x-www-form-urlencoded"}
    assert client.post("/api/v1/retrieve/", "text=a", **form).status_code == 415
    parts = client.post("/api/v1/retrieve/", {"text": "a"})  # multipart is for hidden states
    assert (parts.status_code, parts.json()["detail"]) == (400, {"text": "unknown part"})
    assert client.get("/api/v1/retrieve/").status_code == 405


def test_methods_describe_themselves(client):
    body = client.get("/api/v1/methods/").json()
    assert {"lora_retriever", "adapter_soup"} <= {method["name"] for method in body["routers"]}
    assert {"arrow", "centroid", "samples"} <= {method["name"] for method in body["prototypes"]}
    assert {"weighted_sum", "ties"} <= {method["name"] for method in body["merges"]}
    for method in [*body["routers"], *body["prototypes"], *body["merges"]]:
        assert method.keys() >= {"name", "title", "summary", "source", "needs", "params"}
        assert method["params"]["type"] == "object"
    ties = next(method for method in body["merges"] if method["name"] == "ties")
    assert (ties["family"], ties["weights"], ties["lacks"]) == ("elementwise", "relative", ["low_rank"])
    assert ties["when"].endswith(".")


def test_methods_can_be_limited_to_what_is_at_hand(client):
    nothing = client.get("/api/v1/methods/?have=").json()
    assert nothing["routers"] == []
    assert {method["name"] for method in nothing["prototypes"]} == {"arrow", "delta_sketch", "spectral"}
    some = client.get("/api/v1/methods/?have=samples,labels").json()
    assert {"lora_retriever", "adapter_soup"} <= {method["name"] for method in some["routers"]}


def test_prototypes_are_served_as_safetensors(client):
    expert = make_expert("ada/sums", SUMS)
    store_modules(expert.head, "arrow", {"model.q": np.ones(4)})
    at = "/api/v1/adapters/ada/sums/prototypes/"
    assert load(client.get(f"{at}centroid/").content)["centroid"].shape == (1, 384)
    assert load(client.get(f"{at}samples/?revision={expert.head.commit}").content)["samples"].shape == (2, 384)
    assert load(client.get(f"{at}arrow/").content)["model.q"].shape == (4,)
    for missing in ("gates", "no-such-kind", "centroid/x"):
        assert client.get(f"{at}{missing}/").status_code == 404
    assert client.get(f"{at}arrow/?revision=none").status_code == 404
    lexical = client.get(f"{at}lexical/").content
    assert load(lexical)["lexical"].shape == (1, 2048 + 1024 + 44)
    assert b"lexical-" in lexical[:300]
    make_expert("ada/silent")
    for missing in ("lexical", "delta_sketch"):
        assert client.get(f"/api/v1/adapters/ada/silent/prototypes/{missing}/").status_code == 404


def test_prototypes_follow_the_visibility_of_adapter_and_samples(client, ada):
    expert = make_expert("ada/sums", SUMS, samples_public=False)
    at = "/api/v1/adapters/ada/sums/prototypes"
    for kind in ("samples", "lexical"):
        assert client.get(f"{at}/{kind}/").status_code == 404
        assert ada.get(f"{at}/{kind}/").status_code == 200
    assert client.get(f"{at}/centroid/").status_code == 200
    publish(expert, visibility="private")
    assert client.get(f"{at}/centroid/").status_code == 404
    assert ada.get(f"{at}/centroid/").status_code == 200


def test_similar_by_samples(client, ada):
    make_expert("ada/sums", SUMS)
    make_expert("bo/sums", SUMS)
    make_expert("bo/capitals", CAPITALS)
    make_expert("ada/secret", SUMS, visibility="private")
    make_expert("ada/silent")
    at = "/api/v1/adapters/ada/sums/similar/"
    found = client.get(f"{at}?by=samples").json()
    assert [match["adapter"] for match in found] == ["bo/sums", "bo/capitals"]
    assert found[0]["score"] == pytest.approx(1, abs=1e-5)
    assert [match["adapter"] for match in client.get(f"{at}?by=samples&k=1").json()] == ["bo/sums"]
    assert "ada/secret" in [match["adapter"] for match in ada.get(at).json()]
    assert client.get("/api/v1/adapters/ada/silent/similar/").json() == []
    assert client.get("/api/v1/adapters/ada/secret/similar/").status_code == 404


def test_similar_by_prototype_stays_within_a_base(client):
    vectors = {"same": [1.0, 0.0], "near": [1.0, 1.0], "opposite": [-1.0, 0.0], "foreign": [1.0, 0.0]}
    for name, vector in vectors.items():
        expert = make_expert(f"ada/{name}", base_model="org/other" if name == "foreign" else "org/base")
        store_modules(expert.head, "arrow", {"q": np.array(vector)})
    make_expert("ada/none", base_model="org/base")
    found = client.get("/api/v1/adapters/ada/same/similar/?by=prototype").json()
    assert found == [{"adapter": "ada/opposite", "score": 1.0}, {"adapter": "ada/near", "score": 0.707107}]
    assert client.get("/api/v1/adapters/ada/none/similar/?by=prototype").json() == []


def test_similar_by_prototype_reads_no_more_files_than_it_says(client, monkeypatch):
    monkeypatch.setattr("retrieval.similar.MAX_COMPARED", 1)
    for name in ("one", "older", "newer"):
        store_modules(make_expert(f"ada/{name}", base_model="org/base").head, "arrow", {"q": np.array([1.0, 0.0])})
    found = client.get("/api/v1/adapters/ada/one/similar/?by=prototype").json()
    assert found == [{"adapter": "ada/newer", "score": 1.0}]


@pytest.mark.parametrize("query", ["by=", "by=nothing", "k=0", "k=101", "k=x", "k=²", "k=1e9"])
def test_similar_refuses(client, query):
    make_expert("ada/sums")
    answer = client.get(f"/api/v1/adapters/ada/sums/similar/?{query}")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
