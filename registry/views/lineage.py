"""The lineage as a drawing: boxes in rows, oldest on top, and the lines between them."""

from typing import Any
from urllib.parse import quote

from registry.lineage import Edge, Lineage, Node

# In units of the drawing, which are CSS pixels at its natural size.
BOX_WIDTH, BOX_HEIGHT = 148, 46
GAP_X, GAP_Y = 10, 44
MARGIN = 6
CHARS_PER_LINE = 19
PER_ROW = 4


def draw_lineage(graph: Lineage, base_model: str) -> dict[str, Any]:
    """Where each box and line goes.

    Returns: `{width, height, boxes: [{x, y, owner, name, title, href, kind, note}], lines: [{path, label, x, y}]}`.
    """
    rows = _rows(graph, base_model)
    widest = max(len(row) for row in rows)
    width = 2 * MARGIN + widest * (BOX_WIDTH + GAP_X) - GAP_X
    boxes: dict[str, dict[str, Any]] = {}
    for index, row in enumerate(rows):
        left = (width - len(row) * (BOX_WIDTH + GAP_X) + GAP_X) / 2
        for place, (key, box) in enumerate(row):
            at = {"x": round(left + place * (BOX_WIDTH + GAP_X)), "y": MARGIN + index * (BOX_HEIGHT + GAP_Y)}
            boxes[key] = box | at
    lines = [_line(boxes[edge.source], boxes[edge.target], f"{edge.weight:.3g}") for edge in graph.edges]
    lines += [_line(boxes["base"], boxes[key]) for key in _roots(graph) if "base" in boxes]
    height = 2 * MARGIN + len(rows) * (BOX_HEIGHT + GAP_Y) - GAP_Y
    return {"width": width, "height": height, "boxes": list(boxes.values()), "lines": lines}


def relatives(graph: Lineage, nodes: list[Node]) -> list[dict[str, Any]]:
    """The same as a list: `[{node, weights}]`, with the weights of the lines between a node and the next level."""
    return [
        {"node": node, "weights": [f"{edge.weight:.4g}" for edge in graph.edges if _starts_or_ends(edge, node)]}
        for node in nodes
    ]


def _starts_or_ends(edge: Edge, node: Node) -> bool:
    return node.id == (edge.source if node.level < 0 else edge.target)


def _rows(graph: Lineage, base_model: str) -> list[list[tuple[str, dict[str, Any]]]]:
    rows = [[("base", _base_box(base_model))]] if base_model else []
    for level in sorted({node.level for node in graph.nodes.values()}):
        row = [(node.id, _box(node)) for node in graph.nodes.values() if node.level == level]
        rows += [row[start : start + PER_ROW] for start in range(0, len(row), PER_ROW)]
    return rows


def _roots(graph: Lineage) -> list[str]:
    """What was trained on the base itself, as far as one can see."""
    merged = {edge.target for edge in graph.edges}
    return [node.id for node in graph.nodes.values() if node.id not in merged and node.level <= 0]


def _base_box(base_model: str) -> dict[str, Any]:
    owner, _, name = base_model.rpartition("/")
    href = f"/adapters/?base_model={quote(base_model, safe='')}"
    return {"owner": _cut(owner), "name": _cut(name), "title": f"base model {base_model}", "href": href, "kind": "base"}


def _box(node: Node) -> dict[str, Any]:
    if node.name is None:
        return {"owner": "", "name": "private", "title": "an expert that you may not see", "href": "", "kind": "hidden"}
    owner, _, name = node.name.partition("/")
    href = f"/adapters/{node.name}/" + (f"?revision={node.commit}" if node.level < 0 else "")
    note = "yanked" if node.yanked else node.method
    return {
        "owner": _cut(f"{owner} · {note}" if note else owner),
        "name": _cut(name),
        "title": f"{node.name}{', yanked' if node.yanked else ''}{f', merged by {node.method}' if node.method else ''}",
        "href": href if node.linked and node.level else "",
        "kind": "own" if node.level == 0 else "yanked" if node.yanked else "expert",
    }


def _cut(text: str) -> str:
    return text if len(text) <= CHARS_PER_LINE else f"{text[: CHARS_PER_LINE - 1]}…"


def _line(source: dict[str, Any], target: dict[str, Any], label: str = "") -> dict[str, Any]:
    x1, y1 = source["x"] + BOX_WIDTH // 2, source["y"] + BOX_HEIGHT
    x2, y2 = target["x"] + BOX_WIDTH // 2, target["y"]
    bend = (y1 + y2) // 2
    path = f"M{x1} {y1} C{x1} {bend} {x2} {bend} {x2} {y2}"
    return {"path": path, "label": label, "x": (3 * x1 + x2) // 4, "y": y1 + GAP_Y // 3 + 3}
