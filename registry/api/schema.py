"""Shapes of answers for the OpenAPI page. They document; `registry.describe` writes the JSON."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, inline_serializer
from rest_framework import serializers

from lora.serving import ENGINES

OBJECT = OpenApiTypes.OBJECT
BINARY = OpenApiTypes.BINARY
REF = OpenApiParameter("revision", str, description="main (default), a tag, or 40 hex digits")
ENGINE = OpenApiParameter(
    "for", str, enum=list(ENGINES), description="the serving engine to export for; 409 where no export helps it"
)

ERROR = inline_serializer(
    "Error",
    {"code": serializers.CharField(), "message": serializers.CharField(), "detail": serializers.JSONField()},
)
JOB = inline_serializer(
    "Job",
    {
        "id": serializers.UUIDField(),
        "kind": serializers.CharField(),
        "status": serializers.ChoiceField(["queued", "running", "succeeded", "failed", "cancelled"]),
        "progress": serializers.FloatField(help_text="0..1"),
        "attempts": serializers.IntegerField(),
        "queued_at": serializers.DateTimeField(),
        "started_at": serializers.DateTimeField(allow_null=True),
        "finished_at": serializers.DateTimeField(allow_null=True),
        "error": serializers.JSONField(allow_null=True, help_text="{code, message, detail}"),
        "result": serializers.JSONField(allow_null=True),
        "log": serializers.ListField(child=serializers.JSONField(), help_text="[{at, message}]"),
    },
)


def page_of(name: str, item: serializers.Serializer) -> serializers.Serializer:
    """The shape of a list of `item`."""
    return inline_serializer(
        f"{name}Page",
        {
            "count": serializers.IntegerField(),
            "next": serializers.URLField(allow_null=True),
            "previous": serializers.URLField(allow_null=True),
            "results": serializers.ListField(child=item),
        },
    )


class BearerScheme(OpenApiAuthenticationExtension):
    """How `registry.tokens.BearerAuthentication` appears in the schema; found by being defined."""

    target_class = "registry.tokens.BearerAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}
