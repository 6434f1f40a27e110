"""JSON from strangers: what Python's parser lets through and a registry must not."""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

from lora.errors import InvalidAdapter, Problem

MAX_DIGITS = 20  # 2⁶⁴ has 20

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # NUL and lone surrogates, which no database stores

_Refuse = Callable[[str, str], NoReturn]


def parse_object(raw: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object with unique keys, finite numbers and storable strings.

    Args:
        raw: UTF-8, without byte order mark.
        where: what the problems name.
    Raises: InvalidAdapter: `not_utf8`, `not_json`, `duplicate_key`, `bad_number`, `too_deep`, `bad_text`.
    """

    def refuse(code: str, message: str) -> NoReturn:
        raise InvalidAdapter([Problem(code, where, message)])

    text = _decode(raw, refuse)
    try:
        value = json.loads(
            text,
            object_pairs_hook=lambda pairs: _unique(pairs, refuse),
            parse_int=lambda digits: _integer(digits, refuse),
            parse_float=lambda digits: _real(digits, refuse),
            parse_constant=lambda name: refuse("bad_number", f"{name} is no JSON number. Write a finite one."),
        )
    except json.JSONDecodeError as error:
        refuse("not_json", f"This is not valid JSON: {error.msg} at character {error.pos}.")
    except RecursionError:
        refuse("too_deep", "The JSON is nested too deeply. Nothing of an adapter needs more than a few levels.")
    if not isinstance(value, dict):
        refuse("not_json", "This must be a JSON object, {…}.")
    if "\\u" in text:  # only an escape can bring in what UTF-8 and strict JSON forbid
        _check_texts(value, refuse)
    return value


def is_storable(text: str) -> bool:
    """Return whether a text has neither NUL nor lone surrogates."""
    return _UNSTORABLE.search(text) is None


def _decode(raw: bytes, refuse: _Refuse) -> str:
    if raw.startswith(b"\xef\xbb\xbf"):
        refuse("not_json", "It begins with a byte order mark. Save it as UTF-8 without one.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        refuse("not_utf8", f"It is not UTF-8 text (byte {error.start}). Save it as UTF-8.")


def _unique(pairs: list[tuple[str, Any]], refuse: _Refuse) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        refuse("duplicate_key", f"The key {shown(twice)} appears twice. Keep the right one.")
    return found


def _integer(digits: str, refuse: _Refuse) -> int:
    if len(digits) > MAX_DIGITS:
        refuse("bad_number", f"A number has {len(digits)} digits; at most {MAX_DIGITS} make sense here.")
    return int(digits)


def _real(digits: str, refuse: _Refuse) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        refuse("bad_number", f"The number {shown(digits)} is too large. Write a finite one.")
    return number


def _check_texts(value: object, refuse: _Refuse) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str) and _UNSTORABLE.search(item):
            refuse("bad_text", f"The text {shown(item)} holds a NUL or half a character. Remove it.")


def shown(text: str) -> str:
    """Return a stranger's text as it may stand in a message: quoted, printable ASCII, about 80 characters."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def plain(text: str) -> str:
    """Return `shown(text)` without its quotes, for a name that is usually harmless."""
    return shown(text)[1:-1]
