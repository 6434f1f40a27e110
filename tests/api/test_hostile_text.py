"""Text that a database cannot hold, wherever a caller may send text: refused or harmless, never a crash."""

import json

import pytest

from tests.api.conftest import run_jobs

pytestmark = pytest.mark.django_db
TEXTS = {"NUL": "a\0b", "lone surrogate": "a\ud800b", "long": "x" * 600}


@pytest.fixture(params=TEXTS.values(), ids=TEXTS.keys())
def text(request):
    return request.param


@pytest.fixture(autouse=True)
def _crashes_are_answers(ada):
    ada.client.raise_request_exception = False


@pytest.mark.parametrize("field", ["description", "license", "base_model", "tags", "visibility"])
def test_in_a_field_of_an_upload(ada, adapter_files, text, field):
    if "\ud800" in text:
        text = text.encode("utf-8", "surrogatepass")
    assert ada.upload("ada/x", adapter_files(), **{field: text}).status_code < 500


@pytest.mark.parametrize("key", ["base_model_name_or_path", "task_type", "target_modules", "revision", "rank_pattern"])
def test_in_the_config(ada, adapter_files, text, key):
    files = adapter_files()
    value = {"target_modules": [text], "rank_pattern": {text: 4}}.get(key, text)
    files["adapter_config.json"] = json.dumps(json.loads(files["adapter_config.json"]) | {key: value}).encode()
    assert ada.upload("ada/x", files).status_code < 500
    run_jobs()


def test_in_the_card_and_the_samples(ada, adapter_files, text):
    head = f"---\nlicense: {json.dumps(text)}\ntags: [{json.dumps(text)}]\nbase_model: {json.dumps(text)}\n---\n"
    card = (head + f"# Title\n\n{text}").encode("utf-8", "surrogatepass")
    for extra in ({"README.md": card}, {"samples.jsonl": json.dumps({"input": text}).encode() + b"\n"}):
        assert ada.upload("ada/x", adapter_files() | extra).status_code < 500
        run_jobs()


@pytest.mark.parametrize("name", ["q", "tag", "base_model", "owner", "license", "ordering", "state", "page"])
def test_in_the_filters_of_a_list(ada, text, name):
    quoted = "a%00b" if "\0" in text else "a%ED%A0%80b" if "\ud800" in text else text
    assert ada.client.get(f"/api/v1/adapters/?{name}={quoted}").status_code < 500


def test_in_a_query_and_in_a_recipe(ada, text):
    queries = [
        {"text": text},
        {"text": "x", "filters": {"tag": [text], "owner": [text]}},
        {"examples": [{"input": text}]},
    ]
    inputs = [{"adapter": text}]
    recipes = [{"method": text, "inputs": inputs}, {"method": "ties", "inputs": inputs, "output": {"name": text}}]
    for path, bodies in (("/retrieve/", queries), ("/merges/", recipes)):
        for body in bodies:
            assert ada.post(path, body).status_code < 500, body
