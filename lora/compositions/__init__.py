"""Trained gates over a set of experts, as files for whoever runs the model: one file per type.

Each is a function from its params to the shapes of its tensors at one place of the model, registered with the traits

- `reads`: what its weights follow from: `token` (x of every token), `outputs` (and what every expert adds to it),
  `example` (x, averaged over a prompt), `preference` (numbers that the user gives), `task` (nothing but the gate);
- `place`: `module` (a gate for each adapted module), `any` (or for a part of the model and all modules in it), or
  `model` (one gate, named after the module whose input it reads, for all modules);
- `runs`: whether `lora.runtime.composed` runs it; `when`: one sentence.

Shapes are of sizes and names: `n` experts, `d` values of x, `o` values of what comes out of a module, products of
these; any other name is a size that the type leaves open, the same wherever it stands at one place.
`lora.composing` checks gates against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lora.catalogue import Catalogue, Method, param
from lora.errors import UnknownMethod

Shapes: TypeAlias = Mapping[str, tuple[str | int, ...]]

TRAINED_ON = ("labels", "base_model")


class UnknownComposition(UnknownMethod):
    """No type of composition has this name."""

    noun = "type of composition"


COMPOSITIONS = Catalogue("type of composition", __name__, unknown=UnknownComposition)


@dataclass(frozen=True)
class SparseParams:
    """Parameters of gates that choose some of the experts."""

    top_k: int = param(2, "how many experts share a token; fewer where there are fewer", minimum=1, maximum=100)


def two_layers(width: str, experts: str = "n") -> Shapes:
    """Return the shapes of a gate with one hidden layer, of any size."""
    return {"hidden_weight": ("h", width), "hidden_bias": ("h",), "weight": (experts, "h"), "bias": (experts,)}


def formula_of(method: Method) -> str:
    """Return the formula of a type's weights, with what its letters stand for."""
    return " ".join((method.run.__doc__ or "").split())


def is_open(method: Method) -> bool:
    """Return whether the tensors of a type are for no experts in particular, so that any of them may be left out."""
    sizes = {str(size) for shape in method.run(method.params()).values() for size in shape}
    return method.traits["runs"] and sizes.isdisjoint(("n", "n-1", "n*o"))


def describe_types() -> list[dict[str, Any]]:
    """Return the description of every type with its `tensors`: name → shape."""
    known = (COMPOSITIONS.get(name) for name in COMPOSITIONS.names())
    return [
        method.describe() | {"tensors": {part: list(shape) for part, shape in method.run(method.params()).items()}}
        for method in known
    ]
