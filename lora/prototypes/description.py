"""Description: what is said about an adapter, as the one text that an encoder embeds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lora.prototypes import PROTOTYPES

# More than encoders read.
MAX_CHARS = 4000


@PROTOTYPES.register(
    "description",
    title="Description",
    summary="The embedding of an adapter's name, description and tags.",
    source="LlamaIndex's and airoboros' selection by what tools and experts say they are for",
    needs=("descriptions",),
    space="text",
)
def description_text(name: str, description: str, tags: Sequence[str]) -> str:
    """Return the text that stands for an adapter: its name as words, its description, its tags.

    Args:
        name: `owner/name`, of which the owner says nothing about the task.
        description: what it is for; without one there is nothing to embed.
    """
    title = " ".join(re.split(r"[\W_]+", name.partition("/")[2] or name)).strip()
    parts = [f"{title}.", " ".join(description.split()), ", ".join(tags)]
    return "\n".join(part for part in parts if part)[:MAX_CHARS]
