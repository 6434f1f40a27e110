"""The page that compares routers, and its numbers as a file."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from lora.evaluation import DEPTHS
from retrieval.evaluation_tables import FORMS, PICKED
from retrieval.evaluations import VARIANTS, method_of
from retrieval.leaderboard import Board, as_csv, boards, hardest_first
from retrieval.models import Evaluation

SHADES = 5


@require_safe
def leaderboard(request: HttpRequest) -> HttpResponse:
    found = boards()
    suites: dict[str, dict[str, Any]] = {}
    for board in found:
        suite = suites.setdefault(board["digest"], {"name": board["suite"], "digest": board["digest"], "boards": []})
        shown = SHOWN[board["measure"]](board)
        shown["rows"] = [row | {"router": method_of(row["subject"])} for row in shown["rows"]]
        suite["boards"].append(shown | {"id": f"{len(suites)}-{len(suite['boards'])}-{board['digest'][:8]}"})
    return render(request, "retrieval/leaderboard.html", {"section": "leaderboard", "suites": list(suites.values())})


@require_safe
def leaderboard_file(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        as_csv(boards(request.GET.get("suite", ""))),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="leaderboard.csv"'},
    )


def _retrieval(board: Board) -> dict[str, Any]:
    """What the template writes: heads, and rows of cells; tasks with their shades."""
    has_bare = any(VARIANTS[1] in row["figures"] for row in board["rows"])
    has_category = any(row["figures"].get("category") for row in board["rows"])
    heads = [*(f"top-{depth}" for depth in DEPTHS), "MRR"]
    heads += ["top-1 without instruction"] * has_bare + ["category, own masked"] * has_category + ["ms"]
    rows = []
    for row in board["rows"]:
        figures = row["figures"]
        plain, bare, category = (figures.get(name) or {} for name in (VARIANTS[0], VARIANTS[1], "category"))
        cells = [_cell(plain["top"][str(depth)]) for depth in DEPTHS] + [_cell(plain["mrr"], 1, 3)]
        cells += [_cell(bare.get("top", {}).get("1"))] * has_bare
        cells += [_cell(category.get("top", {}).get("1"))] * has_category
        cells.append({"text": f"{figures['took_ms']['route']:.2f}", "value": figures["took_ms"]["route"]})
        rows.append(row | {"cells": cells})
    tasks = [{"task": task["task"], "rates": list(map(_shaded, task["rates"]))} for task in hardest_first(board)]
    return board | {"heads": heads, "rows": rows, "tasks": tasks}


def _answers(board: Board) -> dict[str, Any]:
    shown = [
        (variant, form)
        for variant in VARIANTS
        for form in FORMS
        if any(form in row["figures"].get(variant, {}) for row in board["rows"])
    ]
    heads = [FORMS[form] + ("" if variant == VARIANTS[0] else ", no instruction") for variant, form in shown]
    rows = [
        row | {"cells": [_cell(row["figures"].get(variant, {}).get(form)) for variant, form in shown]}
        for row in board["rows"]
    ]
    return board | {"heads": heads, "rows": rows}


def _outcomes(board: Board) -> dict[str, Any]:
    has_cost = any("cost" in row["figures"][VARIANTS[0]] for row in board["rows"])
    heads = [PICKED["share"], PICKED["score"]] + [PICKED["cost"]] * has_cost + ["ms"]
    rows = []
    for row in board["rows"]:
        plain, took = row["figures"][VARIANTS[0]], row["figures"].get("took_ms")
        cells = [_cell(plain["share"]), _cell(plain["score"])] + [_plain(plain.get("cost"))] * has_cost
        cells.append({"text": f"{took['route']:.2f}", "value": took["route"]} if took else {"text": "–", "value": -1})
        rows.append(row | {"cells": cells})
    known = max(row["figures"]["known"] for row in board["rows"])
    return board | {"heads": heads, "rows": rows, "known": known}


SHOWN = {
    Evaluation.Measure.RETRIEVAL: _retrieval,
    Evaluation.Measure.ANSWERS: _answers,
    Evaluation.Measure.OUTCOMES: _outcomes,
}


def _plain(number: dict[str, float] | None) -> dict[str, Any]:
    """A number of any unit, with its interval in words."""
    if number is None:
        return {"text": "–", "value": -1}
    text = f"{number['value']:.4g} ({number['low']:.4g} to {number['high']:.4g})"
    return {"text": text, "value": number["value"]}


def _cell(share: dict[str, float] | None, scale: int = 100, digits: int = 1) -> dict[str, Any]:
    """A share, and its interval in percent of the width of a bar."""
    if share is None:
        return {"text": "–", "value": -1}
    low, high = 100 * share["low"], 100 * share["high"]
    bounds = f"{scale * share['low']:.{digits}f} to {scale * share['high']:.{digits}f}"
    return {
        "text": f"{scale * share['value']:.{digits}f}",
        "value": share["value"],
        "bounds": bounds,
        "bar": {"x": f"{low:.1f}", "width": f"{max(high - low, 0.5):.1f}", "at": f"{100 * share['value'] - 1:.1f}"},
    }


def _shaded(rate: float | None) -> dict[str, Any]:
    if rate is None:
        return {"text": "–", "shade": ""}
    return {"text": f"{100 * rate:.0f}", "shade": f"shade-{min(int(rate * SHADES), SHADES - 1)}"}
