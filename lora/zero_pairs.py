"""Which zero pairs an engine needs beside an adapter's own modules, so that it does not leave those out.

SGLang fuses q, k and v, and gate and up: of an incomplete group it refuses or skips what is there
(sglang/srt/lora/lora.py, `normalize_qkv_proj`). LoRAX stacks a kind of module over all layers, and leaves out the
kind as a whole where one layer lacks it (lorax_server/adapters/lora.py, `LoraWeights.load`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lora.binding import BaseModules, names_in_base
from lora.layout import ModuleLayout

Shapes = dict[str, tuple[int, int] | None]
"""Module path → (d_out, d_in); None where the shape cannot be known without the base."""

LAYER = re.compile(r"(^|.*\.)(\d+)(?=\.)")
"""The innermost number in a path: the layer, in all the architectures that the engines serve."""


def incomplete_groups(modules: Mapping[str, ModuleLayout], base: BaseModules | None) -> Shapes:
    """Return the modules that complete the groups which SGLang cannot fuse as they are.

    k without q and v, and up without gate, are such groups; q and v without k, and gate without up, are none.

    Args:
        modules: of the adapter.
        base: path → (d_out, d_in) of the base's modules; None where it is not known.
    """
    known, needed = _known_shapes(modules, base), dict[str, tuple[int, int] | None]()
    for parent in dict.fromkeys(_parents(modules)):
        q, k, v, gate, up = (f"{parent}{part}_proj" for part in ("q", "k", "v", "gate", "up"))
        attention = [path for path in (q, k, v) if path in modules]
        if attention and not (q in modules and v in modules):
            siblings = {k: known.get(v), v: known.get(k)}  # k and v have one shape, grouped or not
            needed |= {path: known.get(path) or siblings.get(path) for path in (q, k, v) if path not in modules}
        if up in modules and gate not in modules:
            needed[gate] = known.get(gate) or known[up]
    return needed


def missing_layers(modules: Mapping[str, ModuleLayout], base: BaseModules | None) -> Shapes:
    """Return the modules of the kinds that the adapter has, in the layers where it has none of them.

    Without the base the layers are those up to the last one that the adapter adapts.

    Args: as for `incomplete_groups`.
    """
    known = _known_shapes(modules, base)
    layers: dict[str, set[str]] = {}
    for path in known:
        if match := LAYER.match(path):
            layers.setdefault(_kind(path), set()).add(match[2])
    if base is None:
        highest = max((int(layer) for found in layers.values() for layer in found), default=-1)
        layers = {kind: {str(layer) for layer in range(highest + 1)} for kind in layers}
    kinds = {_kind(path): module for path, module in modules.items() if LAYER.match(path)}
    return {
        path: known.get(path, (module.d_out, module.d_in))
        for kind, module in kinds.items()
        for layer in sorted(layers[kind], key=int)
        if (path := kind.replace("*", layer)) not in modules
    }


def _kind(path: str) -> str:
    return LAYER.sub(r"\1*", path, count=1)


def _parents(modules: Mapping[str, ModuleLayout]) -> Iterator[str]:
    for path in modules:
        parent, dot, leaf = path.rpartition(".")
        if leaf in ("q_proj", "k_proj", "v_proj", "up_proj"):
            yield parent + dot


def _known_shapes(modules: Mapping[str, ModuleLayout], base: BaseModules | None) -> dict[str, tuple[int, int]]:
    """Return the shapes of the adapter's modules, and of all others of the base under the adapter's names for them."""
    shapes = {path: (module.d_out, module.d_in) for path, module in modules.items()}
    bound = names_in_base(list(modules), base) if base else {}
    if not base or not bound:
        return shapes
    ours, theirs = next(iter(bound.items()))
    added = ours.removesuffix(theirs) if ours.endswith(theirs) else ""
    removed = theirs.removesuffix(ours) if theirs.endswith(ours) else ""
    renamed = {
        added + name.removeprefix(removed): (shape[0], shape[1])
        for name, shape in base.items()
        if name.startswith(removed)
    }
    return renamed | shapes
