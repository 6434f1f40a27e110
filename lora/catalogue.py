"""Plug-in registry: one file in a package is one method, found by name, with a schema of its parameters."""

from __future__ import annotations

import importlib
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, TypeVar, Union

from lora.errors import InvalidParams, UnknownMethod

Run = TypeVar("Run", bound=Callable[..., Any])

_JSON_TYPES = {float: "number", int: "integer", bool: "boolean", str: "string", type(None): "null"}


def param(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> Any:
    """Declare one parameter of a params dataclass.

    Args:
        default: its value when the request leaves it out.
        description: one phrase with the unit, shown in forms and docs.
        minimum, maximum: inclusive bounds of a number; `above` is an exclusive lower bound.
    """
    bounds = {"minimum": minimum, "maximum": maximum, "exclusiveMinimum": above}
    schema = {"description": description} | {key: bound for key, bound in bounds.items() if bound is not None}
    return field(default=default, metadata={"schema": schema})


@dataclass(frozen=True)
class NoParams:
    """Parameters of a method that has none."""


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: its file's name and the string of the API.
        run: the decorated function or class.
        params: frozen dataclass whose fields are made by `param`.
        source: paper and section, or the code it follows.
        needs: what must be at hand beyond weights and text: "samples", "labels", …
        traits: what the catalogue's users ask of every method, such as `weights` of a merge.
    """

    name: str
    run: Callable[..., Any]
    params: type
    title: str
    source: str
    summary: str
    needs: tuple[str, ...]
    traits: Mapping[str, Any]

    def describe(self) -> dict[str, Any]:
        """Return `{name, title, summary, source, needs, params}` and the traits, ready for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "source": self.source,
            "needs": list(self.needs),
            "params": _schema(self.params),
            **self.traits,
        }


class Catalogue:
    """Methods of one kind, one per module of a package; the modules are imported at the first look-up.

    Args:
        kind: the noun in messages, such as "merge method".
        package: name of the package that holds the methods.
        unknown: the error for a name that is not there.
    """

    def __init__(self, kind: str, package: str, unknown: type[UnknownMethod] = UnknownMethod) -> None:
        self.kind = kind
        self._package = package
        self._unknown = unknown
        self._methods: dict[str, Method] = {}
        self._loaded = False

    def register(
        self,
        name: str,
        *,
        params: type = NoParams,
        title: str,
        source: str,
        summary: str,
        needs: Sequence[str] = (),
        **traits: Any,
    ) -> Callable[[Run], Run]:
        """Decorate the function or class that is the method `name`.

        Raises: ValueError: the name is taken.
        """

        def decorate(run: Run) -> Run:
            if name in self._methods:
                raise ValueError(f"The {self.kind} {name!r} is registered twice.")
            self._methods[name] = Method(name, run, params, title, source, summary, tuple(needs), traits)
            return run

        return decorate

    def names(self) -> list[str]:
        """Return every name, sorted."""
        return sorted(self._load())

    def get(self, name: str) -> Method:
        """Return the method `name`.

        Raises: UnknownMethod: there is none; the error lists the known ones.
        """
        methods = self._load()
        if name not in methods:
            raise self._unknown(name, self.names())
        return methods[name]

    def parse(self, name: str, values: Mapping[str, Any]) -> Any:
        """Return the params dataclass of method `name`, filled from a request.

        Raises:
            UnknownMethod: there is no such method.
            InvalidParams: a parameter is unknown, ill-typed, not finite or out of range.
        """
        params = self.get(name).params
        if not isinstance(values, Mapping):
            raise InvalidParams(f"The parameters of {name!r} must be an object, not {_show(values)}.")
        known = {item.name: item for item in fields(params)}
        for key in values:
            if key not in known:
                expected = f"Known: {', '.join(known)}." if known else "It has none."
                raise InvalidParams(f"{name!r} has no parameter {key!r}. {expected}", known)
        hints = typing.get_type_hints(params)
        checked = {key: _checked(known[key], hints[key], value) for key, value in values.items()}
        try:
            return params(**checked)
        except ValueError as error:  # __post_init__: bounds between fields
            raise InvalidParams(str(error)) from error

    def schema(self, name: str) -> dict[str, Any]:
        """Return the JSON Schema of the parameters of method `name`."""
        return _schema(self.get(name).params)

    def describe(self) -> list[dict[str, Any]]:
        """Return the description of every method, by name."""
        return [self.get(name).describe() for name in self.names()]

    def _load(self) -> dict[str, Method]:
        if not self._loaded:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._loaded = True
        return self._methods


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Split `X | None` into its members; anything else is its own only one."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _checked(item: Field[Any], hint: Any, value: Any) -> Any:
    for option in _alternatives(hint):
        if typing.get_origin(option) is Literal:
            if isinstance(value, str) and value in typing.get_args(option):
                return value
        elif option is float and type(value) in (int, float):
            return _within(item, float(value))
        elif option is int and type(value) is int:
            return int(_within(item, value))
        elif option in (bool, str, type(None)) and type(value) is option:
            return value
        elif typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            return _items(item.name, typing.get_args(option)[0], value)
    raise InvalidParams(f"{item.name} must be {_expected(hint)}, not {_show(value)}.")


def _items(name: str, kind: Any, values: Sequence[Any]) -> tuple[Any, ...]:
    """Read a list, whose items are of a class that has `schema`, `max_items` and `from_json`, as `Example` has."""
    if len(values) > kind.max_items:
        raise InvalidParams(f"{name} has {len(values)} items; at most {kind.max_items}.")
    items = []
    for index, value in enumerate(values):
        try:
            items.append(kind.from_json(value))
        except ValueError as error:
            raise InvalidParams(f"{name}[{index}] {error}.") from error
    return tuple(items)


def _within(item: Field[Any], value: float) -> float:
    if not math.isfinite(value):
        raise InvalidParams(f"{item.name} must be a finite number, not {_show(value)}.")
    schema = item.metadata["schema"]
    if value < schema.get("minimum", -math.inf):
        raise InvalidParams(f"{item.name} must be at least {schema['minimum']}, not {_show(value)}.")
    if value > schema.get("maximum", math.inf):
        raise InvalidParams(f"{item.name} must be at most {schema['maximum']}, not {_show(value)}.")
    if value <= schema.get("exclusiveMinimum", -math.inf):
        raise InvalidParams(f"{item.name} must be above {schema['exclusiveMinimum']}, not {_show(value)}.")
    return value


def _expected(hint: Any) -> str:
    words = []
    for option in _alternatives(hint):
        if typing.get_origin(option) is tuple:
            words.append("a list")
        elif typing.get_origin(option) is Literal:
            words += [repr(choice) for choice in typing.get_args(option)]
        else:
            words.append(_JSON_TYPES[option])
    return " or ".join(words)


def _show(value: Any) -> str:
    """Render a refused value, cut so that a hostile one cannot fill a log."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _schema(params: type) -> dict[str, Any]:
    hints = typing.get_type_hints(params)
    properties = {item.name: _property(item, hints[item.name]) for item in fields(params)}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(item: Field[Any], hint: Any) -> dict[str, Any]:
    options = _alternatives(hint)
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        shape = {"type": "array", "maxItems": kind.max_items, "items": kind.schema, "default": []}
        return {**shape, **item.metadata["schema"]}
    choices = [choice for option in options for choice in typing.get_args(option)]
    kinds = ["string" if typing.get_origin(option) is Literal else _JSON_TYPES[option] for option in options]
    schema: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    if choices:
        schema["enum"] = choices
    if item.default is not MISSING:
        schema["default"] = item.default
    schema.update(item.metadata["schema"])
    return schema
