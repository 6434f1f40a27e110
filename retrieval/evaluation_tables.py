"""Results of evaluations as markdown."""

from collections.abc import Sequence
from typing import Any

from lora.evaluation import DEPTHS
from retrieval.evaluations import VARIANTS, Result

FORMS = {
    "all": "exact match",
    "top_1": "top-1",
    "top_3": "top-3 merged",
    "top_1_told": "top-1, below its instruction",
    "top_3_told": "top-3 merged, below the first’s instruction",
    "masked": "own expert masked",
    "top_1_masked": "top-1, own masked",
    "top_3_masked": "top-3 merged, own masked",
    "top_1_told_masked": "top-1, below its instruction, own masked",
    "top_3_told_masked": "top-3 merged, below the first’s instruction, own masked",
}
PICKED = {"share": "of the best possible", "score": "mean score", "cost": "mean cost"}


def tables(results: Sequence[Result]) -> str:
    """A table of what routers find, one of what is answered, and one of what is picked, as far as there are any."""
    kinds = {"retrieval": _found, "answers": _answers, "outcomes": _picked}
    measured = {kind: [result for result in results if result.measure == kind] for kind in kinds}
    return "\n\n".join(kinds[kind](some) for kind, some in measured.items() if some)


def _found(results: Sequence[Result]) -> str:
    heads = ["router", *(f"top-{depth}" for depth in DEPTHS), "MRR", "top-1, 95 %", "route ms"]
    has_bare = any(VARIANTS[1] in result.figures for result in results)
    has_category = any(result.figures["category"] for result in results)
    heads += ["no instruction, top-1 / 3 / 8"] * has_bare + ["own masked: category, top-1 / 3 / 8"] * has_category
    rows = []
    for result in sorted(results, key=lambda result: -result.figures[VARIANTS[0]]["top"]["1"]["value"]):
        plain = result.figures[VARIANTS[0]]
        cells = [f"`{result.subject}`", *_rates(plain), f"{plain['mrr']['value']:.3f}", span(plain["top"]["1"])]
        cells.append(f"{result.figures['took_ms']['route']:.2f}")
        for name, is_there in ((VARIANTS[1], has_bare), ("category", has_category)):
            cells += [" / ".join(_rates(result.figures.get(name)))] * is_there
        rows.append(cells)
    return _table(heads, rows)


def _rates(figures: dict[str, Any] | None) -> list[str]:
    return [percent(figures["top"][str(depth)]) if figures else "–" for depth in DEPTHS]


def _answers(results: Sequence[Result]) -> str:
    parts = []
    for variant in VARIANTS:
        here = [result for result in results if variant in result.figures]
        forms = [form for form in FORMS if any(form in result.figures[variant] for result in here)]
        rows = [[f"`{result.subject}`", *(_share(result.figures[variant], form) for form in forms)] for result in here]
        if rows:
            table = _table(["answers", *(FORMS[form] for form in forms)], rows)
            parts.append(f"Exact match, {variant.replace('_', ' ')}:\n\n{table}")
    return "\n\n".join(parts)


def _picked(results: Sequence[Result]) -> str:
    forms = [form for form in PICKED if any(form in result.figures[VARIANTS[0]] for result in results)]
    rows = []
    for result in sorted(results, key=lambda result: -result.figures[VARIANTS[0]]["share"]["value"]):
        plain = result.figures[VARIANTS[0]]
        costs = [f"{plain['cost']['value']:.4g}"] if "cost" in plain else []
        took = result.figures.get("took_ms", {}).get("route")
        name = result.subject if result.is_reference else f"`{result.subject}`"
        rows.append([name, *(_share(plain, form) for form in forms[:2]), *costs, "" if took is None else f"{took:.2f}"])
    return _table(["picked by", *(PICKED[form] for form in forms), "route ms"], rows)


def _share(figures: dict[str, Any], form: str) -> str:
    return f"{percent(figures[form])} ({span(figures[form])})" if form in figures else ""


def percent(interval: dict[str, float]) -> str:
    """A share as a number of percent."""
    return f"{100 * interval['value']:.1f}"


def span(interval: dict[str, float]) -> str:
    """The interval in percent."""
    return f"{100 * interval['low']:.1f}–{100 * interval['high']:.1f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
