"""Routers that decide inside the forward pass, as files for whoever runs the model: one file per router.

Each is a function from its params to the router block of a bundle's manifest, registered with the traits `prototype`
(the vectors that it compares with) and `when`. `lora.bundling` writes the files; whoever has the base model runs them
(`integrations/bundle.py`).
"""

from dataclasses import dataclass

from lora.catalogue import Catalogue, param
from lora.errors import UnknownRouter

# Scores that compare with what generic texts give.
CALIBRATED = frozenset({"calibrated_abs_cosine", "mean_calibrated_abs_cosine"})

BUNDLES = Catalogue("router", __name__, unknown=UnknownRouter)


@dataclass(frozen=True)
class BundleParams:
    """Parameters of every bundled router."""

    top_k: int = param(2, "how many experts share a token; fewer where there are fewer", minimum=1, maximum=100)
    temperature: float = param(1.0, "softmax temperature of a token's choice", above=0)
    uniform: bool = param(False, "write all adapters with one rank and the same targets, which PEFT's Arrow asks for")
