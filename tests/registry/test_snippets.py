"""Code to copy, put together from what strangers named."""

import ast
import shlex
from typing import Any

import pytest

from lora.config import LoraConfig
from registry.models import Adapter, Blob, Namespace, Revision, RevisionFile
from registry.views.snippets import UNKNOWN_BASE, tabs

pytestmark = pytest.mark.django_db


@pytest.fixture
def revision(django_user_model: Any) -> Revision:
    owner = django_user_model.objects.create_user("ada")
    namespace = Namespace.objects.create(name="ada", key="ada", owner=owner)
    adapter = Adapter.objects.create(namespace=namespace, name="sql.v2", full_name="ada/sql.v2", key="ada/sql.v2")
    revision = Revision.objects.create(adapter=adapter, commit="a" * 40, state="ready", base_model="acme/base")
    revision.modules = [{"path": "m.0.q", "rank": 12}]
    blob = Blob.objects.create(sha256="b" * 64, size_bytes=1)
    RevisionFile.objects.create(revision=revision, path="adapter_model.safetensors", blob=blob)
    return revision


def codes(revision: Revision, tab: str, **config: Any) -> dict[str, str]:
    found = tabs(revision.adapter, revision, LoraConfig(r=12, lora_alpha=24, **config))
    return dict(next(each for each in found if each.id == tab).blocks)


def test_every_tab_fetches_this_revision(revision: Revision) -> None:
    for tab in ("peft", "vllm", "transformers", "curl"):
        code = codes(revision, tab)["Fetch the folder"]
        assert f"/api/v1/adapters/ada/sql.v2/archive/?revision={'a' * 40}" in code
        assert "LORADEX_TOKEN" not in code


def test_a_private_adapter_needs_the_token_everywhere(revision: Revision) -> None:
    revision.adapter.visibility = "private"
    for tab in ("peft", "vllm", "transformers", "curl"):
        assert '-H "Authorization: Bearer $LORADEX_TOKEN"' in codes(revision, tab)["Fetch the folder"]
    assert "Bearer" in codes(revision, "curl")["One file"]


def test_vllm_gets_a_rank_that_it_takes(revision: Revision) -> None:
    words = shlex.split(codes(revision, "vllm")["Serve it"].replace("\\\n", " "))
    assert words[:3] == ["vllm", "serve", "acme/base"]
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[words.index("--lora-modules") + 1] == "sql.v2=./sql.v2"


def test_what_vllm_cannot_serve_has_reasons_and_no_command(revision: Revision) -> None:
    found = tabs(revision.adapter, revision, LoraConfig(r=12, lora_alpha=24, use_dora=True))
    vllm = next(tab for tab in found if tab.id == "vllm")
    assert vllm.blocks == ()
    assert "DoRA" in vllm.obstacles[0]


@pytest.mark.parametrize(
    ("task", "auto"),
    [
        ("CAUSAL_LM", "AutoModelForCausalLM"),
        ("SEQ_CLS", "AutoModelForSequenceClassification"),
        ("SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM"),
        ("FEATURE_EXTRACTION", "AutoModel"),
        (None, "AutoModelForCausalLM"),
    ],
)
def test_the_class_fits_the_task(revision: Revision, task: str | None, auto: str) -> None:
    assert f"{auto}.from_pretrained('acme/base')" in codes(revision, "peft", task_type=task)["Load it"]


@pytest.mark.parametrize("base", ["it's; rm -rf ~", "a'); import os #", "", "$(id)"])
def test_a_hostile_base_stays_a_string(revision: Revision, base: str) -> None:
    revision.base_model = base
    for tab, block in (("peft", "Load it"), ("transformers", "Fold it into the base")):
        strings = [
            node.value for node in ast.walk(ast.parse(codes(revision, tab)[block])) if isinstance(node, ast.Constant)
        ]
        assert (base or UNKNOWN_BASE) in strings
    words = shlex.split(codes(revision, "vllm")["Serve it"].replace("\\\n", " "))
    assert words[2] == (base or UNKNOWN_BASE)


def test_an_unreadable_config_leaves_the_rest(revision: Revision) -> None:
    assert [tab.id for tab in tabs(revision.adapter, revision, None)] == ["peft", "transformers", "curl"]
