"""The page of a merge: its recipe, and what came of it."""

import json
import math
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from django.views.decorators.vary import vary_on_headers

from lora.merges.add_skill import borne_loss
from lora.recipe import resolve_weights
from lora.serving_rules import MAX_LORA_RANKS
from registry.describe import merge_json
from registry.models import Job
from registry.queries import find_merge
from registry.views import charts
from registry.views.pages import page
from registry.views.progress import failure_of

SHOWN_MODULES = 2000
# With more parents than this, a column for each is no table any more.
SHOWN_PARENTS = 4
SHOWN_COSINES = 12
COLOURS = 8


@require_safe
@vary_on_headers("HX-Request")
@login_required
@page
def merge(request: HttpRequest, merge_id: UUID) -> HttpResponse:
    """The merge. While it is open, htmx asks for its progress, and for the whole page once it has finished."""
    row = find_merge(request.user, merge_id)
    job = row.jobs.first()
    is_open = job is not None and job.status not in Job.FINAL
    if "HX-Request" in request.headers and not is_open:
        return HttpResponse(headers={"HX-Refresh": "true"})
    described = merge_json(row)
    shown = described | {"inputs": [_named(item) for item in described["inputs"]]}
    context = {
        "section": "merge",
        "merge": shown,
        "job": job,
        "is_open": is_open,
        "last_line": job.log.last() if is_open else None,
        "recipe": {name: described[name] for name in ("method", "inputs", "params", "output")},
        "form_query": form_query(described),
        **(failure_of(job) if job else {}),
        **(_report(shown) if described["report"] else {}),
    }
    return render(request, "merges/progress.html" if "HX-Request" in request.headers else "merges/page.html", context)


def form_query(merge: dict[str, Any]) -> str:
    """The address of the merge form, behind its `?`, that shows this recipe again."""
    output, rank = merge["output"], merge["output"]["rank"]
    fields = [("input", _address(item)) for item in merge["inputs"]]
    fields.append(("method", merge["method"]))
    fields += [(f"param.{name}", _shown(value)) for name, value in merge["params"].items()]
    fields.append(("rank", ":".join(str(part) for part in rank.values())))
    if output["dtype"]:
        fields.append(("dtype", output["dtype"]))
    fields += [("name", output["name"])] if output.get("name") else [("publish", "no")]
    fields.append(("visibility", output["visibility"]))
    return urlencode(fields, safe="/@:")


def _named(item: dict[str, Any]) -> dict[str, Any]:
    """An input with something to call it: its adapter, or what its recipe does."""
    if "adapter" in item:
        return item
    names = [_named(inner)["adapter"] for inner in item["recipe"]["inputs"]]
    return item | {"adapter": f"{item['recipe']['method']} of {', '.join(names)}"}


def _address(item: dict[str, Any]) -> str:
    """An input as the form's address has it."""
    return json.dumps(item) if "recipe" in item else f"{item['adapter']}@{item['revision']}:{item['weight']:g}"


def _shown(value: Any) -> str:
    """A parameter as its form field has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _report(merge: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of a report."""
    report, inputs = merge["report"], merge["inputs"]
    modules = sorted(report["per_module"], key=lambda module: _natural(module["path"]))
    found = report.get("found", {})
    # What a method found out by running the base takes the place of the weights that it began with.
    weights = found.get("weights") or resolve_weights(merge["method"], [item["weight"] for item in inputs])
    cosine = report.get("interference", {}).get("cosine", [])
    return {
        "energy_kept": f"{report['energy_kept']:.2%}",
        "relative_error": f"{report['relative_error']:.2%}",
        "contributions": _contributions(inputs, weights, report),
        "norm_out": report.get("norms", {}).get("out"),
        "layers": _layers(inputs, report.get("by_layer", [])),
        "tradeoff": _tradeoff(inputs, found, merge["params"]),
        "curve": _curve(report.get("energy"), merge["output"]["rank"], modules),
        "matrix": {"names": [item["adapter"] for item in inputs], "measures": report.get("interference", {})},
        "heatmap": charts.heatmap(modules, "norm_out", "‖ΔW‖"),
        "modules": [_module(module, inputs, weights) for module in modules[:SHOWN_MODULES]],
        "more_modules": max(0, len(modules) - SHOWN_MODULES),
        "columns": inputs if len(inputs) <= SHOWN_PARENTS else [],
        "cosine": _cosine_rows(inputs, cosine) if 2 <= len(cosine) <= SHOWN_COSINES else None,
    }


def _natural(path: str) -> list[tuple[bool, int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.split(".")]


def _contributions(inputs: list[dict[str, Any]], weights: list[float], report: dict[str, Any]) -> list[dict[str, Any]]:
    """Per parent |weight as applied| x ‖ΔW‖ as a share of their sum, where its part starts, and what it contributed."""
    norms = _norms(inputs, report)
    sizes = [abs(weight) * norm for weight, norm in zip(weights, norms, strict=True)]
    total = sum(sizes) or 1.0
    # Reports of older versions have none.
    contributed = report.get("contributions") or [None] * len(inputs)
    rows, start = [], 0.0
    for index, (item, size) in enumerate(zip(inputs, sizes, strict=True)):
        percent = 100 * size / total
        shown = {"applied": weights[index], "norm": norms[index], "percent": percent, "start": start}
        own = contributed[index]
        rows.append(item | shown | {"colour": index % COLOURS, "contributed": None if own is None else 100 * own})
        start += percent
    return rows


def _norms(inputs: list[dict[str, Any]], report: dict[str, Any]) -> list[float]:
    """‖ΔW‖ of every parent over all modules."""
    if "norms" in report:
        return report["norms"]["in"]
    return [math.hypot(*(module["norm_in"][index] for module in report["per_module"])) for index in range(len(inputs))]


def _layers(inputs: list[dict[str, Any]], layers: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What each parent put into each layer, for the picture and its table. None where they are too many to draw."""
    if not layers or len(layers) * len(inputs) > charts.MAX_CELLS:
        return None
    shares = [[row["contribution"][index] for row in layers] for index in range(len(inputs))]
    parents = [{"name": item["adapter"], "shares": own} for item, own in zip(inputs, shares, strict=True)]
    return {"layers": [row["layer"] for row in layers], "parents": parents}


def _tradeoff(inputs: list[dict[str, Any]], found: dict[str, Any], params: dict[str, Any]) -> dict[str, Any] | None:
    """What each strength of a skill does to it and to the expert that it was added to; `most` is that one's limit."""
    if "curve" not in found:
        return None
    points, (general, skill) = found["curve"], (item["adapter"] for item in inputs)
    most = None if params["scale"] is not None else borne_loss(points, found["base_loss"], params["tolerance"])
    shown = {"chosen": found["scale"], "most": most, "base": found["base_loss"]}
    return shown | {"points": points, "general": general, "skill": skill}


def _curve(
    points: list[dict[str, Any]] | None, rank: dict[str, Any], modules: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Energy against rank, with the rank of the file."""
    if not points:
        return None
    chosen = rank.get("value") if rank["mode"] == "fixed" else max(module["rank"] for module in modules)
    served = [point["rank"] for point in points if point["rank"] in MAX_LORA_RANKS]
    known = [point["rank"] for point in points]
    return {"points": points, "served": served, "chosen": chosen if chosen in known else None}


def _module(module: dict[str, Any], inputs: list[dict[str, Any]], weights: list[float]) -> dict[str, Any]:
    """A module's row; `most` names the parent with the largest weighted change in it."""
    # A report of very many modules and parents has norms by layer only.
    sizes = [abs(weight) * norm for weight, norm in zip(weights, module["norm_in"], strict=False)]
    return module | {"most": inputs[sizes.index(max(sizes))]["adapter"] if sizes else ""}


def _cosine_rows(inputs: list[dict[str, Any]], cosine: list[list[float]]) -> list[dict[str, Any]]:
    """The matrix with a step 0 (orthogonal) to 4 (parallel) for each cell's shade."""
    shaded = [[{"value": value, "step": round(4 * min(abs(value), 1))} for value in row] for row in cosine]
    return [{"adapter": item["adapter"], "cells": row} for item, row in zip(inputs, shaded, strict=True)]
