"""The results of evaluations side by side: what was measured in one way on one suite is one board."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from lora.evaluation import DEPTHS
from lora.module_routers import MODULE_ROUTERS
from lora.routers import ROUTERS
from lora.trial_routers import TRIAL_ROUTERS, trial_entries
from registry.views.modules import FORMULA
from retrieval.evaluation_tables import FORMS, PICKED
from retrieval.evaluations import VARIANTS
from retrieval.models import Evaluation

Board = dict[str, Any]
REFERENCES = {
    "base_0_shot": "Base model alone",
    "base_5_shot": "Base model with 5 examples",
    "best_single": "Always the expert that is best on average",
    "oracle": "The best expert for every text",
    "own_expert": "The task's own expert",
    "random_expert": "A random expert",
    "uniform_merge": "All experts merged in equal parts",
}


def boards(suite: str = "") -> list[Board]:
    """The boards of a suite, by its name or digest, or of all; the newest first, retrieval before others.

    Returns: `{suite, digest, measure, setting, experts, queries, evaluated_at, rows}`; rows are best first, each
        `{subject, title, kind, is_reference, params, figures}`, of kind `router`, `composition` or `reference`.
    """
    found: dict[str, Board] = {}
    for row in Evaluation.objects.order_by("-created_at", "pk"):
        if suite and suite not in (row.suite, row.digest):
            continue
        key = json.dumps([row.digest, row.measure, row.setting], sort_keys=True)
        board = found.setdefault(key, _empty(row))
        board["rows"].append(
            {
                "subject": row.subject,
                "title": _title(row),
                "kind": _kind(row),
                "is_reference": row.is_reference,
                "params": row.params,
                "figures": row.figures,
            }
        )
    for board in found.values():
        board["rows"].sort(key=lambda row: (-_leading(row["figures"]), row["subject"]))
    return sorted(found.values(), key=lambda board: board["measure"] != Evaluation.Measure.RETRIEVAL)


def _empty(row: Evaluation) -> Board:
    counted = row.figures.get(VARIANTS[0], row.figures)
    return {
        "suite": row.suite,
        "digest": row.digest,
        "measure": row.measure,
        "setting": row.setting,
        "experts": row.figures.get("experts"),
        "queries": counted.get("queries", row.figures.get("queries")),
        "evaluated_at": row.created_at,
        "rows": [],
    }


def _kind(row: Evaluation) -> str:
    """Of the subjects, owner/name alone has a slash."""
    return "reference" if row.is_reference else "composition" if "/" in row.subject else "router"


def _title(row: Evaluation) -> str:
    if row.is_reference:
        return REFERENCES.get(row.subject, row.subject)
    if row.subject in trial_entries():
        method, params = trial_entries()[row.subject]
        return ", ".join([TRIAL_ROUTERS.get(method).title, *params.values()])
    known = next((routers for routers in (ROUTERS, MODULE_ROUTERS) if row.subject in routers.names()), None)
    return known.get(row.subject).title if known else row.subject


def _leading(figures: dict[str, Any]) -> float:
    """What a board is ordered by: top-1, the exact match of the first form there is, or the share of the best."""
    plain = figures[VARIANTS[0]]
    shares = plain.get("top", plain)
    return next(iter(shares.values()))["value"]


def measured() -> dict[str, dict[str, Any]]:
    """By router, its top-1 and MRR on the board that was made last, with the suite's name."""
    board = next((board for board in boards() if board["measure"] == Evaluation.Measure.RETRIEVAL), None)
    if board is None:
        return {}
    return {
        row["subject"]: {
            "suite": board["suite"],
            "top_1": row["figures"][VARIANTS[0]]["top"]["1"]["value"],
            "mrr": row["figures"][VARIANTS[0]]["mrr"]["value"],
        }
        for row in board["rows"]
    }


def hardest_first(board: Board) -> list[dict[str, Any]]:
    """The tasks of a board of retrieval: `{task, rates}` with each row's top-1, those that are found least first."""
    rates: dict[str, list[float | None]] = {}
    for place, row in enumerate(board["rows"]):
        for task in row["figures"].get("tasks", ()):
            rates.setdefault(task["task"], [None] * len(board["rows"]))[place] = task["top"]["1"]
    tasks = [{"task": task, "rates": values} for task, values in rates.items()]
    return sorted(tasks, key=lambda task: (_mean(task["rates"]), task["task"]))


def _mean(rates: list[float | None]) -> float:
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known)


def as_csv(found: list[Board]) -> str:
    """A header, and a line per share: suite, what was measured and how, subject, and the interval."""
    text = io.StringIO()
    writer = csv.writer(text)
    heads = ("suite", "digest", "measure", "space", "samples", "queries", "base_model", "subject", "variant", "figure")
    writer.writerow([*heads, "value", "low", "high"])
    for board in found:
        setting = board["setting"]
        about = [board["suite"], board["digest"], board["measure"], setting.get("space"), setting.get("samples")]
        about += [board["queries"], setting.get("base_model")]
        about = [f"'{cell}" if str(cell).startswith(FORMULA) else cell for cell in about]
        for row in board["rows"]:
            for variant, figure, share in _shares(row["figures"]):
                numbers = [share["value"], share["low"], share["high"]]
                writer.writerow([*about, row["subject"], variant, figure, *numbers])
    return text.getvalue()


def _shares(figures: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, float]]]:
    for variant in (*VARIANTS, "category"):
        told = figures.get(variant) or {}
        for depth in DEPTHS:
            if "top" in told:
                yield variant, f"top_{depth}", told["top"][str(depth)]
        if "mrr" in told:
            yield variant, "mrr", told["mrr"]
        for form in (*FORMS, *PICKED):
            if form in told:
                yield variant, form, told[form]
