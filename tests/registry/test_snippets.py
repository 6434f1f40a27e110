"""Code to copy, put together from what strangers named."""

import ast
import json
import shlex
from dataclasses import asdict
from typing import Any

import pytest

from lora.config import LoraConfig
from lora.layout import Layout, ModuleLayout
from lora.serving import judge
from registry.models import Adapter, Blob, Namespace, Revision, RevisionFile
from registry.views.snippets import UNKNOWN_BASE, Tab, tabs

pytestmark = pytest.mark.django_db
TABS = ("peft", "vllm", "sglang", "lorax", "transformers", "curl")


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


def tabs_of(revision: Revision, rank: int = 16, **config: Any) -> dict[str, Tab]:
    parsed = LoraConfig(r=rank, lora_alpha=24, **config)
    names = [f"base_model.model.m.0.q.lora_{factor}.weight" for factor in "AB"]
    layout = Layout({"m.0.q": ModuleLayout("m.0.q", "linear", *names, rank, 64, 64, 24 / rank)}, {})
    serving = {engine: asdict(verdict) for engine, verdict in judge(parsed, layout, {"m.0.q": (64, 64)}).items()}
    return {tab.id: tab for tab in tabs(revision.adapter, revision, parsed, serving)}


def codes(revision: Revision, tab: str, **config: Any) -> dict[str, str]:
    return dict(tabs_of(revision, **config)[tab].blocks)


def test_every_tab_fetches_this_revision(revision: Revision) -> None:
    for tab in TABS:
        code = codes(revision, tab)["Fetch the folder"]
        assert f"/api/v1/adapters/ada/sql.v2/archive/?revision={'a' * 40}" in code
        assert "LORADEX_TOKEN" not in code


def test_a_private_adapter_needs_the_token_everywhere(revision: Revision) -> None:
    revision.adapter.visibility = "private"
    for tab in TABS:
        assert '-H "Authorization: Bearer $LORADEX_TOKEN"' in codes(revision, tab)["Fetch the folder"]
    assert "Bearer" in codes(revision, "curl")["One file"]


def test_vllm_gets_a_rank_that_it_takes(revision: Revision) -> None:
    words = shlex.split(codes(revision, "vllm")["Serve it"].replace("\\\n", " "))
    assert words[:3] == ["vllm", "serve", "acme/base"]
    assert words[words.index("--max-lora-rank") + 1] == "16"
    assert words[words.index("--lora-modules") + 1] == "sql.v2=./sql.v2"


def test_what_vllm_cannot_serve_has_reasons_and_no_command(revision: Revision) -> None:
    vllm = tabs_of(revision, use_dora=True)["vllm"]
    assert vllm.blocks == ()
    assert vllm.export == ""
    assert "DoRA" in vllm.obstacles[0]


def test_what_needs_the_export_fetches_it(revision: Revision) -> None:
    found = tabs_of(revision, rank=12)
    assert found["lorax"].export == "lorax"
    assert "&for=lorax" in dict(found["lorax"].blocks)["Fetch the export"]
    assert any("multiple of 16" in note for note in found["lorax"].notes)
    assert "&for=" not in dict(found["vllm"].blocks)["Fetch the folder"]


def test_every_engine_has_a_command_and_a_question(revision: Revision) -> None:
    for tab in ("vllm", "sglang", "lorax"):
        code = codes(revision, tab)
        assert "acme/base" in shlex.split(code["Serve it"].replace("\\\n", " "))
        assert json.loads(shlex.split(code["Ask it"].replace("\\\n", " "))[-1])


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
    assert [tab.id for tab in tabs(revision.adapter, revision, None, None)] == ["peft", "transformers", "curl"]
