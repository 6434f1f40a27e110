"""YAML as a safer JSON: maps, lists, text, numbers, booleans and null, each key once, nothing that expands."""

from typing import Any

import yaml

from registry.errors import Invalid

MAX_BYTES = 256 * 1024
MAX_DEPTH = 50
_PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, of which a few lines can expand to gigabytes, tags, dates and repeated keys."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not accepted here", problem_mark=mark)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node.tag not in _PLAIN:
            raise yaml.MarkedYAMLError(problem=f"{node.tag} is not accepted here", problem_mark=mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem="this key is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# Dates stay the text that they are.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(raw: bytes) -> Any:
    """The value of a document. Raises: Invalid with line and column of what is not plain YAML."""
    if len(raw) > MAX_BYTES:
        raise Invalid(f"The YAML has {len(raw)} bytes; at most {MAX_BYTES}.")
    try:
        return yaml.load(raw.decode("utf-8"), Loader=_PlainLoader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError as error:
        raise Invalid("The YAML is not UTF-8 text.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = {"line": mark.line + 1, "column": mark.column + 1} if mark else {}
        where = f" in line {place['line']}, column {place['column']}" if place else ""
        raise Invalid(f"This is not plain YAML{where}: {error.problem}.", detail=place) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Invalid("This is not plain YAML: it has characters or numbers that cannot be read.") from error


def dump(value: Any) -> str:
    """A document that `load` reads back, in the order of the keys."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
