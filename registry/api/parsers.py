"""Bodies of bounded size and depth: JSON everywhere, YAML for recipes."""

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser, JSONParser

from registry import plain_yaml


class BoundedJSONParser(JSONParser):
    """DRF's parser, which would read a body of any size and fail on one that is nested without end."""

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        context: Mapping[str, Any] = parser_context or {}
        if "request" in context:
            # Reading it here applies DATA_UPLOAD_MAX_MEMORY_SIZE; the parser reads what is kept of it.
            context["request"]._request.body  # noqa: B018
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError as error:
            raise ParseError("The JSON is nested too deeply.") from error


class YAMLParser(BaseParser):
    """`application/yaml` (RFC 9512), as plain as JSON."""

    media_type = "application/yaml"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """Raises: Invalid."""
        return plain_yaml.load(stream.read(plain_yaml.MAX_BYTES + 1))
