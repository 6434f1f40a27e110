"""The results of bench.merge_quality as markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def print_table(results: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> None:
    """One row per method and rank, at the strength that is best for it; columns are means over a group's tasks."""
    known: dict[tuple[str, str], dict[float, dict[str, float]]] = {}
    for row in _merges(results):
        strengths = known.setdefault((row["method"], row["rank"]), {})
        strengths.setdefault(row["strength"], {})[row["group"]] = _mean(row["scores"])
    print(f"| method | strength | rank | {' | '.join(groups)} | mean |")
    print("|---|---|---|" + "---|" * (len(groups) + 1))
    for name, title in (("base", "the base alone"), ("experts", "each expert on its own task")):
        alone = [_mean({task: results[name][task] for task in tasks}) for tasks in groups.values()]
        print(f"| {title} | – | – | {_cells(alone)} |")
    best = {key: max(strengths.items(), key=lambda item: _order(item[1])) for key, strengths in known.items()}
    for (method, rank), (strength, means) in sorted(best.items(), key=lambda item: _order(item[1][1]), reverse=True):
        print(f"| `{method}` | {strength:g} | {rank} | {_cells([means.get(group) for group in groups])} |")


def print_details(results: Mapping[str, Any], group: str) -> None:
    """One row per rank, method and strength of a group; one column per task."""
    rows = sorted((row for row in _merges(results) if row["group"] == group), key=lambda row: -_mean(row["scores"]))
    tasks = list(rows[0]["scores"])
    print(f"| method | strength | rank | {' | '.join(tasks)} | mean |")
    print("|---|---|---|" + "---|" * (len(tasks) + 1))
    for name in ("base", "experts"):
        print(f"| {name} | – | – | {_cells([results[name][task] for task in tasks])} |")
    for row in rows:
        cells = _cells([row["scores"][task] for task in tasks])
        print(f"| `{row['method']}` | {row['strength']:g} | {row['rank']} | {cells} |")


def _merges(results: Mapping[str, Any]) -> list[Row]:
    return [row for row in results.values() if "method" in row]


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def _order(means: Mapping[str, float]) -> tuple[int, float]:
    """More groups first, then better ones."""
    return len(means), _mean(means)


def _cells(scores: Sequence[float | None]) -> str:
    """Per cent; the mean of all at the end, where none is missing."""
    shown = ["–" if score is None else f"{100 * score:.0f}" for score in scores]
    known = [score for score in scores if score is not None]
    shown.append(f"**{100 * sum(known) / len(known):.0f}**" if len(known) == len(scores) else "–")
    return " | ".join(shown)
