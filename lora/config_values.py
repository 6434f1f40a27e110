"""Readers of single values of an `adapter_config.json`. Each refuses with the sentence that repairs the value."""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from lora.pattern_syntax import UnsafePattern, parse_pattern
from lora.patterns import PatternTable
from lora.strict_json import shown

MAX_RANK = 65_535
MAX_ALPHA = 1e6
MAX_ENTRIES = 100_000
MAX_TEXT = 500
MAX_REPLICATIONS = 1_000

_NO_MODELS = sys.stdlib_module_names - {"__main__"}
_INITS = ("gaussian", "eva", "olora", "pissa", "corda", "loftq", "orthogonal", "lora_ga", "mica")
_TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")

_INVISIBLE = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]")
_MODULE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}", re.ASCII)


class RefusedValue(Exception):
    """A value of the config is refused; the caller knows its key."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(message)


def _bad(message: str) -> RefusedValue:
    return RefusedValue("bad_value", message)


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise _bad("It must be true or false.")
    return value


def integer(least: int, most: int) -> Callable[[object], int]:
    """Return a reader of integers in a range; true, 8.0 and "8" are none."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise _bad(f"It must be an integer from {least} to {most}, written without quotes or decimals.")
        return value

    return read


def number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_ALPHA:
        raise _bad(f"It must be a number of size up to {MAX_ALPHA:g}, written without quotes.")
    return float(value)


def alpha(value: object) -> float:
    if number(value) == 0:
        raise _bad("It scales every module to nothing. Write the value used in training.")
    return number(value)


def dropout(value: object) -> float:
    if not 0 <= number(value) <= 1:
        raise _bad("It must be between 0 and 1.")
    return number(value)


def text(value: object) -> str:
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT or _INVISIBLE.search(value):
        raise _bad(f"It must be a text of 1 to {MAX_TEXT} visible characters.")
    return value


def one_of(*known: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in known:
            raise _bad(f"{shown(str(value))} is unknown. Known: {', '.join(known)}.")
        return str(value)

    return read


task_type = one_of(*_TASKS)
bias = one_of("none", "all", "lora_only")


def init(value: object) -> bool | str:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (value in _INITS or re.fullmatch(r"pissa_niter_\d{1,4}", value, re.ASCII)):
        return value
    raise _bad(f"{shown(str(value))} is unknown. Known: true, false, pissa_niter_16, {', '.join(_INITS)}.")


def revision(value: object) -> str | None:
    if value == "":
        return None
    if not isinstance(value, str) or not _REVISION.fullmatch(value) or ".." in value:
        raise _bad("It must be the name of a branch or tag, or a commit.")
    return value


def peft_type(value: object) -> str:
    if value != "LORA":
        raise RefusedValue("not_lora", f'This is {shown(str(value))}. Only "LORA" adapters are accepted.')
    return "LORA"


def _items(value: object, most: int = MAX_ENTRIES) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise _bad(f"It must be a list of at most {most} entries.")
    return value


def texts(value: object) -> tuple[str, ...]:
    return tuple(text(item) for item in _items(value))


def module_names(value: object) -> tuple[str, ...]:
    """PEFT pastes `modules_to_save` into a regex, so only plain names are accepted."""
    names = texts(value)
    for name in names:
        if not _MODULE.fullmatch(name):
            raise _bad(f"{shown(name)} is not the name of a module.")
    return names


def judged_pattern(value: str) -> str:
    try:
        parse_pattern(value)
    except UnsafePattern as error:
        raise RefusedValue(
            "unsafe_pattern", f"The pattern {shown(value)} is refused: {error}. List the names."
        ) from None
    return value


def targets(value: object) -> tuple[str, ...] | str:
    """A list holds names, a text is a regex; it is judged, since other tools will run it, and not evaluated."""
    return judged_pattern(value) if isinstance(value, str) else texts(value)


def layer_patterns(value: object) -> tuple[str, ...]:
    names = ((value,) if value else ()) if isinstance(value, str) else texts(value)
    return tuple(judged_pattern(name) for name in names)


def layer_indices(value: object) -> tuple[int, ...]:
    read = integer(0, MAX_ENTRIES)
    return tuple(read(item) for item in (_items(value) if isinstance(value, list) else [value]))


def replications(value: object) -> tuple[tuple[int, int], ...]:
    read = integer(0, MAX_ENTRIES)
    pairs = [_items(pair, 2) for pair in _items(value, MAX_REPLICATIONS)]
    if any(len(pair) != 2 for pair in pairs):
        raise _bad("It must be a list of [first, last] pairs of layers.")
    return tuple((read(first), read(last)) for first, last in pairs)


def token_ids(value: object) -> Mapping[str, tuple[int, ...]]:
    """Return layer → ids of the tokens of `trainable_token_indices`; a bare list is that of the layer ""."""
    read = integer(0, 2**31)
    by_layer = value if isinstance(value, dict) else {"": value}
    found = {layer: tuple(read(item) for item in _items(items)) for layer, items in by_layer.items()}
    return {layer: ids for layer, ids in found.items() if ids}


def pattern_of(read: Callable[[object], Any]) -> Callable[[object], Mapping[str, Any]]:
    """Return a reader of `{regex over module paths: value}`."""

    def read_pattern(value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict) or len(value) > MAX_ENTRIES or "" in value:
            raise _bad(f"It must be an object of at most {MAX_ENTRIES} module names or patterns.")
        try:
            PatternTable(list(value))
        except UnsafePattern as error:
            raise RefusedValue("unsafe_pattern", f"A key is refused: {error}. Use plain module names.") from None
        return {key: read(item) for key, item in value.items()}

    return read_pattern


def auto_mapping(value: object) -> None:
    """PEFT writes where the base's class is defined; versions before 0.20 imported that module when asked to.

    A model's own module is harmless to whoever has it. One of the standard library holds no model: it is an attack.
    """
    library = value.get("parent_library") if isinstance(value, dict) else value
    if library is None:
        return
    if not isinstance(library, str) or not _MODULE.fullmatch(library) or library.split(".")[0] in _NO_MODELS:
        raise RefusedValue("imports_code", "parent_library makes PEFT import a module. Set auto_mapping to null.")


def megatron_core(value: object) -> None:
    if value != "megatron.core":
        raise RefusedValue("imports_code", 'It makes PEFT import a module. Only "megatron.core" is accepted.')


def training_options(value: object) -> None:
    """Options of an initialisation do not change trained weights, but PEFT would open the files that they name."""
    if not isinstance(value, dict):
        raise _bad("It must be an object or null.")
    for key, item in value.items():
        if key.endswith(("_file", "_path")) and item is not None:
            raise RefusedValue("opens_file", f"{shown(key)} names a file that PEFT would open. Set it to null.")


def base_model(value: object) -> str | None:
    """Return the base's id, or None for a folder on the contributor's machine, which nobody else can resolve."""
    if value == "":
        return None
    name = text(value)
    if "://" in name or name.startswith(("\\\\", "//")) or ".." in re.split(r"[/\\]", name):
        raise RefusedValue("bad_base_model", "It must be the id of a model, such as owner/name, not an address.")
    if _HUB_ID.fullmatch(name):
        return name
    if name.startswith(("/", "~", "./", ".\\")) or re.match(r"[A-Za-z]:[/\\]", name) or name.count("/") > 1:
        return None
    raise RefusedValue("bad_base_model", f"{shown(name)} is not a model's id: letters, digits, . _ - and one slash.")
