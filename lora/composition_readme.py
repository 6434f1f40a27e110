"""The page that comes with a composition: what is in it, and how it is run."""

from collections.abc import Mapping, Sequence

from lora.catalogue import Method
from lora.compositions import formula_of, is_open

_PAGE = """# {title} over {count} experts of {base}

{summary} {formula}

| place | expert | revision | folder |
|---|---|---|---|
{rows}

{run}
## What is in it

- `manifest.json`: type and parameters, base model, experts in order with the names and scalings of their factors, which
  modules follow which gate, digests.
- `gates.safetensors`: `<place>.<tensor>`, a place being a module or a part of the model.
- `adapters/`: a PEFT folder per expert, as it was uploaded.
- `composition.py`: what runs it.
"""

_RUN = """## Run it

`composition.py` needs torch and safetensors. Load the base model as you always do, without these adapters, tokenize as
you always do (`inputs` is what `tokenizer(…, return_tensors="pt", padding=True)` returns), and say

```python
import sys
from pathlib import Path

sys.path.insert(0, "PATH/OF/THIS/FOLDER")
from composition import Composition

composition = Composition.load(Path("PATH/OF/THIS/FOLDER"))
with composition.on({on}):
    model.generate(**inputs)
```

Within the block the gates mix the experts; outside it is the plain base. Loading compares every file with its digest in
`manifest.json`.{more}
"""
_AMONG = """

`on(…, among=["owner/name", …])` lets some of the experts take part, such as a retrieval has found for a prompt.
"""
_KEPT = """## Running it

`composition.py` does not run this type. {when}
"""


def arguments_of(method: Method, preference: str = "[…]") -> str:
    """Return what `Composition.on` is called with."""
    given = {"example": "model, prompt=inputs", "preference": f"model, preference={preference}"}
    return given.get(method.traits["reads"], "model")


def readme(method: Method, base: str, experts: Sequence[Mapping[str, str]]) -> str:
    """Return the page in Markdown. Args: experts: `{name, revision, folder}` in order."""
    rows = (f"| {i} | {one['name']} | {one['revision'][:12]} | `{one['folder']}` |" for i, one in enumerate(experts))
    return _PAGE.format(
        title=method.title,
        count=len(experts),
        base=base,
        summary=method.summary,
        formula=formula_of(method),
        rows="\n".join(rows),
        run=_RUN.format(on=arguments_of(method), more=_AMONG * is_open(method))
        if method.traits["runs"]
        else _KEPT.format(when=method.traits["when"]),
    )
