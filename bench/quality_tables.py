"""The results of bench.merge_quality as markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def print_table(results: Mapping[str, Any], groups: Mapping[str, Sequence[str]]) -> None:
    """One row per rank, method and strength; one column per group with the mean exact match over its tasks."""
    kept = {tuple(row[key] for key in ("rank", "method", "strength")): {} for row in _merges(results)}
    for row in _merges(results):
        kept[row["rank"], row["method"], row["strength"]][row["group"]] = _mean(row["scores"])
    print(f"| method | strength | rank | {' | '.join(groups)} | mean |")
    print("|---|---|---|" + "---|" * (len(groups) + 1))
    for name in ("base", "experts"):
        known = [_mean({task: results[name][task] for task in tasks}) for tasks in groups.values()]
        print(f"| {'the base alone' if name == 'base' else 'each expert on its own task'} | – | – | {_cells(known)} |")
    for (rank, method, strength), means in sorted(kept.items(), key=lambda item: -_order(item[1], groups)):
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


def _order(means: Mapping[str, float], groups: Mapping[str, Sequence[str]]) -> tuple[int, float]:
    return len(means) and sum(means.values()) / len(groups)


def _cells(scores: Sequence[float | None]) -> str:
    """Per cent; the mean of all at the end, where none is missing."""
    shown = ["–" if score is None else f"{100 * score:.0f}" for score in scores]
    known = [score for score in scores if score is not None]
    shown.append(f"**{100 * sum(known) / len(known):.0f}**" if len(known) == len(scores) else "–")
    return " | ".join(shown)
