"""Which method for what is at hand: the survey's table with what is served here and what was measured."""

from collections.abc import Iterable, Sequence
from typing import Any

from lora.compositions import COMPOSITIONS
from lora.merges import MERGES
from lora.module_routers import MODULE_ROUTERS
from lora.routers import ROUTERS
from lora.trial_routers import TRIAL_ROUTERS
from retrieval.leaderboard import measured
from retrieval.survey import FACETS, OURS, SURVEY, Entry

Words = frozenset[str] | set[str]


def routers() -> list[dict[str, Any]]:
    """Every router, by name, with how it answers, and what was measured of it last, or None."""
    known = measured()
    methods = [method | {"answers": "at_once"} for method in ROUTERS.describe()]
    methods += [method | {"answers": "job"} for method in MODULE_ROUTERS.describe()]
    job_with = {}
    for method in TRIAL_ROUTERS.describe():
        # One that only some parameters make run the base has its entry already.
        if only := method.pop("only"):
            job_with[method["name"]] = only
        else:
            methods.append(method | {"answers": "job"})
    methods = [method | {"job_with": job_with.get(method["name"], {})} for method in methods]
    return [method | {"measured": known.get(method["name"])} for method in sorted(methods, key=lambda m: m["name"])]


def usable(methods: Iterable[dict[str, Any]], have: Words | None) -> list[dict[str, Any]]:
    """What needs nothing else than what is at hand; None: everything."""
    return [method for method in methods if have is None or set(method["needs"]) <= have]


def best_first(methods: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By what was measured; what was not comes after, in its order."""
    return sorted(methods, key=lambda method: -(method["measured"] or {"top_1": -1})["top_1"])


def survey(have: Words | None = None) -> list[dict[str, Any]]:
    """The survey's methods that apply: what is served and measured first, then what is served, then the rest."""
    known = measured()
    rows = usable((_row(entry, known) for entry in SURVEY), have)
    return best_first(sorted(rows, key=lambda row: not row["served"]))


def ours(have: Words | None = None) -> list[dict[str, Any]]:
    """The routers that no method of the survey is, best first."""
    return best_first(usable((method for method in routers() if method["name"] in OURS), have))


def _row(entry: Entry, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    here = [name for name in entry.routers if _is_here(name)]
    merges = [name for name in entry.merges if name in MERGES.names()]
    composed = [name for name in entry.compositions if name in COMPOSITIONS.names()]
    results = [known[name] for name in here if name in known]
    served = bool(here or merges or composed)
    return {
        "section": entry.section,
        "name": entry.name,
        "facets": dict(zip(FACETS, entry.facets, strict=True)),
        "needs": list(entry.needs),
        "keeps": entry.keeps,
        "served": served,
        "routers": here,
        "merges": merges,
        "compositions": composed,
        "call": entry.call if served else "",
        "back": entry.back if served else "",
        "measured": max(results, key=lambda result: result["top_1"], default=None),
    }


def markdown() -> str:
    """The survey's table, and what to do for each method, in the order of the survey."""
    rows = [_row(entry, {}) for entry in SURVEY]
    facets = [["§", "method", *FACETS.values(), "here"]]
    facets += [[row["section"], row["name"], *row["facets"].values(), _names(row)] for row in rows]
    use = [["method", "needs", "what is kept for it", "call", "what comes back"]]
    use += [[row["name"], ", ".join(row["needs"]), row["keeps"], row["call"], row["back"]] for row in rows]
    own = [["router", "what it is"], *([f"`{name}`", text] for name, text in OURS.items() if _is_here(name))]
    return "\n\n".join(map(_table, (facets, use, own)))


def _is_here(name: str) -> bool:
    return any(name in catalogue.names() for catalogue in (ROUTERS, MODULE_ROUTERS, TRIAL_ROUTERS))


def _names(row: dict[str, Any]) -> str:
    # A router and a merge may have one name.
    names = dict.fromkeys((*row["routers"], *row["merges"], *row["compositions"]))
    return ", ".join(f"`{name}`" for name in names) or "–"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cell or '–' for cell in cells)} |" for cells in lines)
