"""The survey's table: whole, true to the catalogues, and ordered by what was measured."""

from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone

from lora.compositions import COMPOSITIONS
from lora.merges import MERGES
from lora.module_routers import MODULE_ROUTERS
from lora.routers import ROUTERS
from lora.trial_routers import TRIAL_ROUTERS
from retrieval.models import Evaluation
from retrieval.picker import best_first, markdown, ours, routers, survey
from retrieval.survey import FACETS, HAVE, OURS, SURVEY
from tests.pages.html import check_html

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parents[2]
VALUES = {
    "expert_training": {"Standard", "Custom", "Multiple"},
    "expert_data": {"Private", "Shared", "Multiple"},
    "routing_dataset": {"None", "Expert", "Target", "General", "Multiple"},
    "input_granularity": {"Step", "Example", "Task", "N/A"},
    "depth_granularity": {"Module", "Model", "N/A"},
    "expert_selection": {"Sparse", "Dense", "None"},
    "expert_aggregation": {"Output", "Parameter", "None", "Multiple"},
    "generalization": {"In-Distribution", "Out-of-Distribution", "Multiple"},
    "user_dataset": {"Zero-Shot", "Few-Shot", "Full", "Multiple"},
}


def keep(router: str, value: float) -> None:
    share = {"value": value, "low": value, "high": value}
    figures = {
        "experts": 2,
        "as_given": {"queries": 1, "mrr": share, "top": {"1": share, "3": share, "8": share}},
        "took_ms": {"encode": 1.0, "route": 1.0},
    }
    Evaluation.objects.create(
        key=router.rjust(64), suite="mine", digest="a" * 64, measure="retrieval", subject=router, setting={},
        figures=figures, created_at=timezone.now(),
    )  # fmt: skip


def test_all_methods_of_the_survey_have_all_facets() -> None:
    assert [entry.section for entry in SURVEY] == [f"4.{number}" for number in range(1, 30)]
    for entry in SURVEY:
        assert len(entry.facets) == len(FACETS) == 9
        for facet, value in zip(FACETS, entry.facets, strict=True):
            assert value in VALUES[facet], (entry.name, facet)
        assert set(entry.needs) <= set(HAVE)
        assert entry.keeps
        assert bool(entry.call) == bool(entry.back) == bool(entry.routers or entry.merges or entry.compositions)


def test_every_router_is_in_the_survey_or_ours() -> None:
    named = {name for entry in SURVEY for name in entry.routers} | set(OURS)
    assert {*ROUTERS.names(), *MODULE_ROUTERS.names(), *TRIAL_ROUTERS.names()} <= named
    assert {name for entry in SURVEY for name in entry.merges} <= set(MERGES.names())
    assert {name for entry in SURVEY for name in entry.compositions} == set(COMPOSITIONS.names())
    assert {"lora_retriever", "adapter_soup", "retrieval_of_experts"} <= {
        name for row in survey() for name in row["routers"]
    }


def test_the_table_of_the_docs_is_this_one() -> None:
    text = (ROOT / "docs" / "howto" / "methods.md").read_text(encoding="utf-8")
    assert markdown() in text, "print it again: the end of docs/howto/methods.md says how"


def test_what_applies_is_what_needs_nothing_else() -> None:
    names = {row["name"] for row in survey({"samples"})}
    assert {"LoraRetriever", "AdapterSoup", "PWE MoE"} <= names
    assert not {"LoraHub", "Arrow", "Zooter"} & names
    assert {"LoraHub", "AdapterFusion"} <= {row["name"] for row in survey({"labels", "base_model"})}
    assert len(survey(set(HAVE))) == 29


def test_what_did_best_comes_first_and_what_is_not_served_last() -> None:
    keep("retrieval_of_experts", 0.5)
    keep("adapter_soup", 0.75)
    rows = survey()
    assert [row["name"] for row in rows[:2]] == ["AdapterSoup", "Retrieval of Experts"]
    served = [row["served"] for row in rows]
    assert served == sorted(served, reverse=True)
    assert rows[0]["measured"]["top_1"] == 0.75
    assert [method["name"] for method in best_first(routers())][:2] == ["adapter_soup", "retrieval_of_experts"]
    assert {method["name"] for method in ours()} <= set(OURS)


def test_the_page_lists_what_applies(client: Client) -> None:
    html = client.get("/methods/").content.decode()
    check_html(html)
    assert "29 of the 29 methods" in html
    html = client.get("/methods/?have=samples&pick=1").content.decode()
    check_html(html)
    assert 'value="samples" checked' in html
    assert "LoraRetriever" in html
    assert "AdapterFusion" not in html
    assert client.get("/methods/?have=nonsense&pick=1").context["served"] != []


def test_the_same_over_rest(client: Client) -> None:
    keep("adapter_soup", 0.75)
    body = client.get("/api/v1/methods/?have=samples").json()
    assert body["routers"][0]["name"] == "adapter_soup"
    assert body["routers"][0]["measured"] == {"suite": "mine", "top_1": 0.75, "mrr": 0.75}
    assert body["survey"][0]["facets"]["input_granularity"] == "Task"
    everything = client.get("/api/v1/methods/").json()
    assert [method["name"] for method in everything["routers"]] == sorted(m["name"] for m in everything["routers"])
    assert len(everything["survey"]) == 29
