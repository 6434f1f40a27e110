"""Dashboard and alerts ask for metrics that the code has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

from config import metrics, request_log  # noqa: F401 - they define metrics
from config.metrics import StateCollector
from retrieval import metrics as retrieval_metrics  # noqa: F401
from retrieval.live import current_view

DOCKER = Path(__file__).resolve().parents[2] / "docker"
OTHERS = {"up"}


def dashboard() -> dict[str, Any]:
    return json.loads((DOCKER / "grafana" / "loradex.json").read_text())


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def existing(collectors: list[Any]) -> dict[str, set[str]]:
    """Name of each series → its labels."""
    found = {}
    for metric in REGISTRY._collector_to_names:
        labels = set(getattr(metric, "_labelnames", ()))
        found |= {name: labels | {"le"} for name in REGISTRY._collector_to_names[metric]}
    for family in collectors:
        found[family.name] = {name for sample in family.samples for name in sample.labels}
    return found


def asked(expression: str) -> dict[str, set[str]]:
    """Name of each metric in a PromQL expression → the labels that its braces name."""
    found: dict[str, set[str]] = {}
    for name, braces in re.findall(r"\b(loradex_\w+|up)(?:\{([^}]*)\})?", expression):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*[=!]~?", braces))
    return found


@pytest.mark.django_db
def test_every_query_names_metrics_and_labels_that_exist() -> None:
    current_view()
    known = existing(list(StateCollector().collect()))
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    queries += [rule["expr"] for rule in alerts()]
    assert len(queries) > 25
    for query in queries:
        found = asked(query)
        assert found, query
        for name, labels in found.items():
            assert name in known or name in OTHERS, query
            assert labels <= known.get(name, labels), query
        by = {name for group in re.findall(r"by \(([^)]*)\)", query) for name in re.split(r"\s*,\s*", group)}
        of = set().union(*(known.get(name, set()) for name in found)) | {"instance"}
        assert by <= of, query


def test_the_dashboard_is_one_grafana_can_load() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["type"] == "row" or panel["targets"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


def test_alerts_say_what_is_wrong() -> None:
    for rule in alerts():
        assert rule["annotations"]["summary"]
    prometheus = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    for name in prometheus["rule_files"]:
        assert (DOCKER / "prometheus" / name).exists()
    services = yaml.safe_load((DOCKER / "compose.yml").read_text())["services"]
    for job in prometheus["scrape_configs"]:
        assert set(job["dns_sd_configs"][0]["names"]) <= set(services)
