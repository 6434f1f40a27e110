"""The picture of how an adapter sits on its base: every module of the base, by layer and kind."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from lora.binding import names_in_base
from lora.config import LoraConfig
from lora.targets import targeted_in_base
from registry.models import BaseModel
from registry.views.charts import MAX_CELLS, NO_LAYER, layer_order, split_path

BOUND, MISSING, UNTOUCHED = "bound", "missing", "untouched"
WORDS = {BOUND: "bound", MISSING: "targeted, but without tensors", UNTOUCHED: "untouched"}


def binding_grid(paths: Iterable[str], config: LoraConfig | None, base: BaseModel) -> dict[str, Any] | None:
    """What becomes of each module of the base: bound, targeted by the config but without tensors, or untouched.

    Modules that share layer and kind (experts of a mixture) share a cell, which shows the worst of them.

    Returns: `{layers, rows: [{kind, cells: [{state, words}], bound, missing, total}], counts}`; None where the
        base is too large to be drawn.
    """
    shapes = {path: (shape[0], shape[1]) for path, shape in base.modules.items()}
    bound = set(names_in_base(list(paths), shapes).values())
    targeted = targeted_in_base(shapes, config) if config else set()
    cells: dict[tuple[str, str], Counter[str]] = {}
    for path in shapes:
        state = BOUND if path in bound else MISSING if path in targeted else UNTOUCHED
        cells.setdefault(split_path(path), Counter())[state] += 1
    if len(cells) > MAX_CELLS:
        return None
    columns = sorted({layer for layer, _ in cells}, key=layer_order)
    rows = [_row(kind, columns, cells) for kind in dict.fromkeys(kind for _, kind in cells)]
    counts = sum(cells.values(), Counter())
    return {"layers": _layers(columns), "rows": rows, "counts": {state: counts[state] for state in WORDS}}


def _layers(columns: list[str]) -> str:
    numbered = [layer for layer in columns if layer != NO_LAYER]
    if not numbered:
        return "no module is in a layer"
    rest = "; the last: modules outside the layers" if NO_LAYER in columns else ""
    return f"columns: layers {numbered[0]} to {numbered[-1]}{rest}"


def _row(kind: str, columns: list[str], cells: dict[tuple[str, str], Counter[str]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    drawn: list[dict[str, str] | None] = []
    for layer in columns:
        found = cells.get((layer, kind))
        drawn.append(_cell(layer, kind, found) if found else None)
        total += found or Counter()
    return {
        "kind": kind,
        "short": kind.rsplit(".", 1)[-1],
        "cells": drawn,
        "bound": total[BOUND],
        "missing": total[MISSING],
        "total": total.total(),
    }


def _cell(layer: str, kind: str, found: Counter[str]) -> dict[str, str]:
    state = next(state for state in (MISSING, BOUND, UNTOUCHED) if found[state])
    place = kind if layer == NO_LAYER else f"layer {layer}, {kind}"
    counted = ", ".join(f"{count} {WORDS[state]}" for state, count in found.items())
    return {"state": state, "words": f"{place}: {WORDS[state] if found.total() == 1 else counted}"}
