"""The body of `POST /outcomes/`: every field checked, nothing ignored."""

from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID

from lora.strict_json import is_storable
from registry.errors import Invalid

FIELDS = frozenset({"adapter", "revision", "text", "probe", "score", "cost"})
MAX_BATCH = 256
MAX_CHARS = 10_000
MAX_COST = 1e15
EXAMPLE = '{"adapter": "ada/capitals", "text": "Name the capital of Peru.", "score": 1}'


@dataclass(frozen=True)
class Report:
    """How well an adapter did on a text, as it was sent.

    Attributes:
        where: what messages call it, such as `outcomes[3].`; "" where it came alone.
        ref: of the revision. text, probe: one of them; the other is None.
        cost: None where it was not said.
    """

    where: str
    adapter: str
    ref: str
    text: str | None
    probe: UUID | None
    score: float
    cost: float | None


def parse_reports(payload: Any) -> list[Report]:
    """One report, or those of a batch. Raises: Invalid, naming the field."""
    if not isinstance(payload, dict):
        _refuse("request", f'The request must be a JSON object such as {EXAMPLE}, or {{"outcomes": [...]}} of such.')
    if "outcomes" not in payload:
        return [_report(payload, "")]
    items = payload["outcomes"]
    if set(payload) != {"outcomes"} or not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
        _refuse(
            "outcomes", f"A batch has the one field outcomes, a list of 1 to {MAX_BATCH} objects such as {EXAMPLE}."
        )
    return [_report(item, f"outcomes[{place}].") for place, item in enumerate(items)]


def is_batch(payload: Any) -> bool:
    return isinstance(payload, dict) and "outcomes" in payload


def _refuse(field: str, message: str) -> NoReturn:
    raise Invalid(message, detail={field: message})


def _report(item: Any, where: str) -> Report:
    if not isinstance(item, dict):
        _refuse(where.rstrip("."), f"{where.rstrip('.')} must be an object such as {EXAMPLE}.")
    given = {name: value for name, value in item.items() if value is not None}
    if unknown := sorted(set(given) - FIELDS):
        _refuse(f"{where}{_shown(unknown[0])}", f"An outcome has {', '.join(sorted(FIELDS))}, and nothing else.")
    if ("text" in given) == ("probe" in given):
        _refuse(f"{where}text", f"Send one of {where}text, what the expert was asked, and {where}probe, its id.")
    return Report(
        where=where,
        adapter=_name(given.get("adapter"), f"{where}adapter"),
        ref=_ref(given.get("revision", "main"), f"{where}revision"),
        text=_text(given["text"], f"{where}text") if "text" in given else None,
        probe=read_id(given["probe"], f"{where}probe") if "probe" in given else None,
        score=_number(given.get("score"), f"{where}score", 1, "a number from 0, all wrong, to 1, all right"),
        cost=_number(given["cost"], f"{where}cost", MAX_COST, "a number from 0 on") if "cost" in given else None,
    )


def _shown(text: str) -> str:
    return text[:100].encode("utf-8", "replace").decode()


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or value.count("/") != 1 or not is_storable(value):
        _refuse(where, f"{where} must be a string such as 'ada/capitals'.")
    return value


def _ref(value: Any, where: str) -> str:
    if not isinstance(value, str) or not is_storable(value):
        _refuse(where, f"{where} must be 'main', a tag or 40 hex digits.")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or not is_storable(value):
        _refuse(where, f"{where} must be text that is not blank, without NUL and lone surrogates.")
    if len(value) > MAX_CHARS:
        _refuse(where, f"{where} has {len(value)} characters; at most {MAX_CHARS}.")
    return value


def read_id(value: Any, where: str) -> UUID:
    """Raises: Invalid."""
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError):
        _refuse(where, f"{where} must be the id of a probe, a UUID that an earlier answer held.")


def _number(value: Any, where: str, maximum: float, expected: str) -> float:
    if type(value) not in (int, float) or not 0 <= value <= maximum:
        _refuse(where, f"{where} must be {expected}.")
    return float(value)
