"""Cards (`README.md`): the front matter we read, template cards we recognise, and the card of a merge."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from lora.check import first_paragraph, is_template_card
from registry import plain_yaml
from registry.errors import Invalid

MAX_BYTES = 1024 * 1024
PATH = "README.md"


@dataclass(frozen=True)
class Card:
    """What a card says. `is_template`: nobody filled it in."""

    text: str = ""
    base_model: str = ""
    license: str = ""
    tags: list[str] = field(default_factory=list)
    is_template: bool = False

    @property
    def first_paragraph(self) -> str:
        """The first prose of the body, for use as a description."""
        return first_paragraph(self.text)


def parse_card(raw: bytes) -> Card:
    """The card. Raises: Invalid for a body that is not text or a front matter that is not YAML."""
    if len(raw) > MAX_BYTES:
        raise Invalid(f"README.md has {len(raw)} bytes; at most {MAX_BYTES}.", detail={PATH: "too long"})
    try:
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Invalid("README.md is not UTF-8 text.", detail={PATH: "not UTF-8"}) from error
    if "\0" in text:
        raise Invalid("README.md contains NUL characters.", detail={PATH: "NUL"})
    matter, body = _split(text)
    tags = matter.get("tags")
    base = matter.get("base_model")
    return Card(
        text=body,
        base_model=_text(base[0] if isinstance(base, list) and len(base) == 1 else base),
        license=_text(matter.get("license")),
        tags=[tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else [],
        is_template=is_template_card(body),
    )


def _split(text: str) -> tuple[dict[str, Any], str]:
    if not text.startswith("---\n"):
        return {}, text
    head, mark, body = text[4:].partition("\n---")
    if not mark:
        return {}, text
    try:
        # Behind an empty line, so that lines are counted as in the file.
        matter = plain_yaml.load(f"\n{head}".encode())
    except Invalid as error:
        text = f"The front matter of README.md cannot be read. {error.message}"
        raise Invalid(text, detail={PATH: "YAML"}) from error
    return (matter if isinstance(matter, dict) else {}), body.lstrip("\n")


def _text(value: Any) -> str:
    return value.strip()[:500] if isinstance(value, str) and "\0" not in value else ""


def merge_card(
    *,
    name: str,
    base_model: str,
    method: str,
    parents: list[dict[str, Any]],
    license_: str,
    warnings: list[str],
    recipe: str,
    report: dict[str, Any],
) -> bytes:
    """The card of a merged adapter: what went in, how, and what it cost.

    `parents`: `{adapter, revision, weight, license}` each. `license_`: what covers theirs; "" where that is not known.
    `warnings`: what to know of the licences. `recipe`: the recipe as YAML.
    """
    matter = {"library_name": "peft", "base_model": base_model, "tags": ["lora", "merge", method]}
    if license_:
        matter["license"] = license_
    rows = "\n".join(
        f"| {p['adapter']} | `{p['revision']}` | {p['weight']:g} | {p['license'] or 'not stated'} |" for p in parents
    )
    notes = "".join(f"\n> {warning}\n" for warning in warnings)
    return f"""---
{yaml.safe_dump(matter, sort_keys=False)}---
# {name}

Merge of {len(parents)} LoRA adapters of {base_model} by `{method}`, computed on ΔW by Loradex.

| parent | revision | weight | licence |
|---|---|---|---|
{rows}
{notes}
Energy kept by the rank of this file: {report["energy_kept"]:.4f}; relative error {report["relative_error"]:.3g}.

```yaml
{recipe}```
""".encode()
