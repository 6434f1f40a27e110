"""The page that comes with a bundle: what is in it, and how it is run."""

from collections.abc import Mapping
from typing import Any

_PAGE = """# {count} experts of {base}, routed by {kind}

{what} goes to at most {top_k} of these experts, by the score `{score}`; their outputs are mixed by
softmax(score / {temperature:g}).

| place | expert | revision | folder |
|---|---|---|---|
{rows}

## Run it

`bundle.py` needs torch and safetensors. Load the base model as you always do, without these adapters, tokenize as you
always do (`inputs` is what `tokenizer(…, return_tensors="pt", padding=True)` returns), and say

```python
import sys
from pathlib import Path

sys.path.insert(0, "PATH/OF/THIS/FOLDER")
from bundle import Bundle

bundle = Bundle.load(Path("PATH/OF/THIS/FOLDER"))
with bundle.on({on}):
    model.generate(...)
```

Within the block the model routes; outside it is the plain base. Loading compares every file with its digest in
`manifest.json`.
{peft}
## What is in it

- `manifest.json`: base model, router, experts in order, the scaling of every module, digests.
- `prototypes.safetensors`: module path → what the router compares with, a place per expert; zeros where one has none.
{more}- `adapters/`: a PEFT folder per expert{how}.
"""

_PEFT = """
PEFT runs it, too. It finds vectors of its own, by a power iteration from a random start; `integrations/peft_arrow.py`
of Loradex gives it the exact ones of this archive. PEFT lets an expert without a module keep its share of a token's
weight there; `bundle.py` gives it to the others.
"""

_ARROW = """- `spectra.safetensors`: module path → singular values of ΔW.
"""
_BASELINES = """- `baselines.safetensors`: module path → mean and deviation of what every vector gives on generic texts.
"""


def readme(manifest: Mapping[str, Any], *, has_baselines: bool) -> str:
    """Return the page of a manifest, in Markdown.

    Args:
        has_baselines: whether `baselines.safetensors` is there.
    """
    router, experts = manifest["router"], manifest["experts"]
    rows = (f"| {i} | {one['name']} | {one['revision'][:12]} | `{one['folder']}` |" for i, one in enumerate(experts))
    has_spectra = router["kind"].startswith("arrow")
    is_whole = router["score"].startswith("mean_")
    is_rewritten = not all(one["is_kept"] for one in experts)
    return _PAGE.format(
        count=len(experts),
        base=manifest["base_model"]["id"],
        kind=router["kind"],
        what="Every prompt" if is_whole else "Every token in every module",
        on="model, prompt=inputs" if is_whole else "model",
        top_k=router["top_k"],
        score=router["score"],
        temperature=router["temperature"],
        rows="\n".join(rows),
        peft=_PEFT if router["score"] == "abs_dot" else "",
        more=(_ARROW if has_spectra else "") + (_BASELINES if has_baselines else ""),
        how=", some of them written anew with the same ΔW (`is_kept` in the manifest)" if is_rewritten else "",
    )
