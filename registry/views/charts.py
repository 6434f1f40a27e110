"""Numbers for the pictures of an adapter, of a merge and of a training."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from lora.losses import MEAN_OF, ends

Modules = list[dict[str, Any]]
NO_LAYER = "none"
# More than this is no picture any more, and makes the page heavy.
MAX_CELLS = 4000
MAX_LINES = 60


def split_path(path: str) -> tuple[str, str]:
    """Layer and kind of a module: `model.layers.3.self_attn.q_proj` → ("3", "self_attn.q_proj").

    The first number is the layer; further numbers (experts of a mixture) become `*`, so that they share a row.
    A path without a number has no layer and is its own kind.
    """
    parts = path.split(".")
    position = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if position is None:
        return NO_LAYER, path
    kind = ".".join("*" if part.isdigit() else part for part in parts[position + 1 :])
    return parts[position], kind or parts[position - 1 if position else 0]


def layer_order(layer: str) -> tuple[bool, int]:
    """Sorts layers by number, what has none last."""
    return not layer.isdigit(), int(layer) if layer.isdigit() else 0


def heatmap(modules: Modules, key: str, label: str) -> dict[str, Any] | None:
    """Layer x kind grid of the root sum of squares of `key`: the norm of what shares a cell.

    None without values, and where they are too many to be drawn.
    """
    squares: dict[tuple[str, str], float] = {}
    for module in modules:
        value = module.get(key)
        if value is not None and math.isfinite(value):
            cell = split_path(module["path"])
            squares[cell] = squares.get(cell, 0.0) + value**2
    if not squares or len(squares) > MAX_CELLS:
        return None
    columns = sorted({layer for layer, _ in squares}, key=layer_order)
    rows = list(dict.fromkeys(kind for _, kind in squares))
    cells = [[columns.index(layer), rows.index(kind), math.sqrt(total)] for (layer, kind), total in squares.items()]
    return {"columns": columns, "rows": rows, "cells": cells, "label": label}


def spectrum(modules: Modules) -> dict[str, Any] | None:
    """One line per kind: the median over its modules of the i-th singular value of ΔW. None as for `heatmap`."""
    by_kind: dict[str, list[list[float]]] = {}
    for module in modules:
        if module.get("sigma"):
            by_kind.setdefault(split_path(module["path"])[1], []).append(module["sigma"])
    if not by_kind or sum(map(len, by_kind.values())) > MAX_CELLS or len(by_kind) > MAX_LINES:
        return None
    return {"lines": [{"name": kind, "sigma": _medians(rows)} for kind, rows in by_kind.items()]}


def _medians(rows: list[list[float]]) -> list[float]:
    length = max(map(len, rows))
    return [median(row[index] for row in rows if index < len(row)) for index in range(length)]


def findings(modules: Modules) -> list[str]:
    """Sentences that say what the pictures show."""
    normed = [module for module in modules if module.get("norm") is not None]
    sentences = []
    if normed:
        top = max(normed, key=lambda module: module["norm"])
        sentences.append(f"The largest change is in {top['path']} (‖ΔW‖ = {top['norm']:.3g}).")
        if idle := sum(module["norm"] == 0 for module in normed):
            sentences.append(f"{idle} of {len(normed)} modules change nothing.")
    ranked = [module for module in normed if module.get("stable_rank") and module.get("rank")]
    if ranked:
        used = median(module["stable_rank"] for module in ranked)
        rank = median(module["rank"] for module in ranked)
        sentences.append(f"The median stable rank is {used:.2g} of {rank:g}.")
    return sentences


def training(losses: Sequence[float] | None) -> dict[str, Any]:
    """The loss of every step of a training, and the means of the first and last of them. Nothing without losses."""
    if not losses:
        return {}
    first, last = ends(losses)
    return {"losses": {"steps": losses, "mean_of": MEAN_OF}, "first_loss": first, "last_loss": last}
