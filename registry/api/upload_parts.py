"""The parts of a multipart upload: which there are, and what is wrong with them as parts."""

from typing import Any

from django.utils.datastructures import MultiValueDict
from rest_framework.request import Request

from lora.errors import InvalidAdapter, Problem
from lora.formats import PICKLE, PICKLE_SUFFIXES
from registry.errors import Invalid
from registry.intake import CONFIG, FILES, WEIGHTS, NewFile

FIELDS = ("name", "visibility", "base_model", "description", "license", "tags", "sha256")


def uploaded_files(request: Request) -> dict[str, NewFile]:
    """The file parts by name, config and weights among them. Raises: InvalidAdapter for a pickle, Invalid."""
    for part in request.FILES:
        if part.lower().endswith(PICKLE_SUFFIXES):
            raise InvalidAdapter([Problem("pickle", part, PICKLE)])
    refuse_unknown(request.FILES, FILES, "file")
    missing = [name for name in (CONFIG, WEIGHTS) if name not in request.FILES]
    if missing:
        hint = " It was sent as text: send it as a file." if missing[0] in request.data else ""
        raise Invalid(f"The file {missing[0]} is missing.{hint}", detail=dict.fromkeys(missing, "missing"))
    return {name: NewFile(file.path, file.sha256) for name, file in request.FILES.items()}


def form_fields(request: Request, known: tuple[str, ...]) -> dict[str, Any]:
    """The text parts by name; `tags` is a list. Raises: Invalid."""
    refuse_unknown(request.POST, known, "field", repeatable="tags")
    tags = {"tags": [tag for tag in request.POST.getlist("tags") if tag]} if "tags" in request.POST else {}
    return request.POST.dict() | tags


def refuse_unknown(parts: MultiValueDict, known: tuple[str, ...], what: str, repeatable: str = "") -> None:
    """Raises: Invalid for a part that is not known, or sent more than once."""
    for part, values in parts.lists():
        shown = part[:100]
        if part not in known:
            message = f"The {what} {shown!r} is not known. Known: {', '.join(known)}."
            raise Invalid(message, detail={shown: "unknown part"})
        if len(values) > 1 and part != repeatable:
            raise Invalid(f"The part {part!r} was sent more than once.", detail={part: "repeated"})
