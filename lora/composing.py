"""Whether gates fit the experts that they are for: decided by headers, then by values, and written as a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lora.binding import BaseModules, listed
from lora.catalogue import Method
from lora.compositions import Shapes
from lora.config import CONFIG_NAME
from lora.errors import Problem
from lora.float_arrays import DTYPES, float_arrays
from lora.header import WEIGHTS_NAME, Header, TensorInfo

if TYPE_CHECKING:
    from lora.recipe import MergeInput

FORMAT = "loradex/composition/v1"
GATES = "gates.safetensors"
MANIFEST = "manifest.json"
README = "README.md"
RUNTIME = "composition.py"
MAX_BYTES = 256 * 1024**2  # of gates

# Divided by; what is zero or below would turn the choice around.
POSITIVE = frozenset({"temperature"})


@dataclass(frozen=True)
class Modules:
    """Where gates may be.

    Attributes:
        adapted: path → (d_out, d_in) of what experts adapt.
        inside: place → the adapted modules that it is or contains.
        widths: place → how many values may enter it: for a part of the model, what enters any module in it.
        base: path → (d_out, d_in) of the base's modules, None where they are not known.
    """

    adapted: Mapping[str, tuple[int, int]]
    inside: Mapping[str, list[str]]
    widths: Mapping[str, set[int]]
    base: BaseModules | None

    @classmethod
    def of(cls, items: Sequence[MergeInput], base: BaseModules | None) -> Modules:
        """Of experts of one base."""
        adapted = {m.path: (m.d_out, m.d_in) for item in items for m in item.layout.modules.values()}
        inside: dict[str, list[str]] = {}
        widths: dict[str, set[int]] = {}
        for path, (_, d_in) in sorted({**(base or {}), **adapted}.items()):
            for place in _places(path):
                widths.setdefault(place, set()).add(d_in)
                if path in adapted:
                    inside.setdefault(place, []).append(path)
        return cls(adapted, inside, widths, base)


def _places(path: str) -> Iterator[str]:
    """Yield a module's path and those of the parts that it is in."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def check_gates(
    method: Method, shapes: Shapes, header: Header, n: int, modules: Modules
) -> tuple[dict[str, list[str]], list[Problem]]:
    """Compare the tensors of gates with the experts.

    Args:
        method: of `COMPOSITIONS`; shapes: what it gives for its params.
        header: of the file: `<place>.<tensor>` for every tensor of every place.
        n: how many experts.
    Returns: place → the adapted modules that follow it, and what is wrong with which tensor, place or module.
    """
    problems: list[Problem] = []
    gates: dict[str, dict[str, TensorInfo]] = {}
    for name, info in header.tensors.items():
        place, _, part = name.rpartition(".")
        if part not in shapes or not place:
            text = (
                f"Of {method.name} a place has {', '.join(shapes)}: call it like model.layers.0.{next(iter(shapes))}."
            )
            problems.append(Problem("unknown_tensor", name, text))
        elif info.dtype not in DTYPES:
            problems.append(Problem("gate_dtype", name, f"It must be of floats, not {info.dtype}."))
        else:
            gates.setdefault(place, {})[part] = info
    for place, tensors in sorted(gates.items()):
        problems += _tensor_problems(place, tensors, shapes, n, modules)
    whole = method.traits["place"] == "model"
    places = {place: sorted(modules.adapted) if whole else modules.inside.get(place, []) for place in sorted(gates)}
    return places, [*problems, *_place_problems(method, places, modules)]


def _tensor_problems(
    place: str, tensors: Mapping[str, TensorInfo], shapes: Shapes, n: int, modules: Modules
) -> Iterator[Problem]:
    sizes: dict[str, int] = {"n": n, "n-1": n - 1}
    if place in modules.adapted:
        d_out, d_in = modules.adapted[place]
        sizes |= {"o": d_out, "d": d_in, "n*o": n * d_out}
    for part, shape in shapes.items():
        name = f"{place}.{part}"
        if part not in tensors:
            yield Problem("missing_tensor", name, "The gate of this place lacks it.")
            continue
        found = tensors[part].shape
        if len(found) == len(shape):
            # A size that the type leaves open is what the first tensor says.
            for size, own in zip(shape, found, strict=True):
                if isinstance(size, str):
                    sizes.setdefault(size, own)
        wanted = tuple(size if isinstance(size, int) else sizes.get(size, 0) for size in shape)
        if found != wanted:
            meant = f"({', '.join(map(str, shape))})"
            yield Problem("gate_shape", name, f"It is {list(found)}, and must be {meant} = {list(wanted)}.")
    widths = modules.widths.get(place, set())
    if widths and "d" in sizes and sizes["d"] not in widths:
        known = ", ".join(map(str, sorted(widths)))
        yield Problem("gate_shape", place, f"It reads {sizes['d']} values, and what enters there has {known}.")


def _place_problems(method: Method, places: Mapping[str, Sequence[str]], modules: Modules) -> Iterator[Problem]:
    kind = method.traits["place"]
    if kind == "model" and len(places) > 1:
        yield Problem("too_many_gates", listed(sorted(places), 3), "There is one gate for the whole model.")
    owners: dict[str, str] = {}
    for place, paths in places.items():
        if not paths:
            yield Problem("unknown_module", place, "No expert adapts this module, or anything in it.")
        if kind == "module" and place not in modules.adapted:
            yield Problem("not_a_module", place, f"A gate of {method.name} is for one adapted module.")
        if kind == "model" and modules.base is not None and place not in modules.widths:
            yield Problem("unknown_module", place, "The base has no such module.")
        for path in paths if kind != "model" else ():
            if path in owners:
                yield Problem("two_gates", path, f"Gates of {owners[path]} and of {place} are both for this module.")
            owners[path] = place
    lacking = sorted(modules.adapted.keys() - owners.keys()) if kind != "model" else []
    if lacking and places:
        yield Problem("missing_gate", listed(lacking, 3), "Experts adapt these modules, and no gate is for them.")


def value_problems(path: Path, header: Header) -> list[Problem]:
    """Return what is wrong with the values of gates, one tensor at a time in memory: NaN, infinite, or τ ≤ 0."""
    problems = []
    with path.open("rb") as stream:
        for name, info in header.tensors.items():
            values = _values(stream, header, name, info)
            if not np.isfinite(values).all():
                problems.append(Problem("not_finite", name, "It holds NaN or infinite values."))
            elif name.rpartition(".")[2] in POSITIVE and not (values > 0).all():
                problems.append(Problem("not_positive", name, "It must be above 0."))
    return problems


def _values(stream: Any, header: Header, name: str, info: TensorInfo) -> NDArray[np.float32]:
    stream.seek(header.data_offset + info.start)
    size = info.end - info.start
    alone = Header({name: TensorInfo(info.dtype, info.shape, 0, size)}, {}, 0)
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is refused
        return float_arrays(alone, stream.read(size))[name]


def folder_of(position: int, name: str) -> str:
    """Return where an expert is in an archive; `position` counts from 0."""
    return f"adapters/{position:02d}-{name.replace('/', '--')}"


@dataclass(frozen=True)
class ComposedExpert:
    """An expert of a composition: its name, its revision (40 hex) and its files as they are, which hash to these."""

    item: MergeInput
    revision: str
    config_sha256: str

    def described(self, position: int) -> dict[str, Any]:
        """Return what the manifest says of it: how each module's factors are called, and their scaling."""
        modules = self.item.layout.modules.values()
        return {
            "name": self.item.name,
            "revision": self.revision,
            "folder": folder_of(position, self.item.name),
            "modules": {m.path: {"A": m.a_name, "B": m.b_name, "scaling": m.scaling} for m in modules},
        }

    def digests(self, position: int) -> dict[str, str]:
        """Return path in an archive → sha256."""
        place = folder_of(position, self.item.name)
        return {f"{place}/{WEIGHTS_NAME}": self.item.digest, f"{place}/{CONFIG_NAME}": self.config_sha256}


def manifest_of(
    method: Method,
    params: Mapping[str, Any],
    base: tuple[str, str],
    experts: Sequence[ComposedExpert],
    places: Mapping[str, Sequence[str]],
    files: Mapping[str, bytes | str],
) -> bytes:
    """Return `manifest.json`; equal inputs give equal bytes.

    Args:
        base: id and revision of the base model; "" where it has none.
        files: of the archive beside the adapters: contents, or digests in hex.
    """
    digests = {path: hashlib.sha256(own).hexdigest() if isinstance(own, bytes) else own for path, own in files.items()}
    for position, expert in enumerate(experts):
        digests |= expert.digests(position)
    manifest = {
        "format": FORMAT,
        "type": method.name,
        "params": dict(params),
        "reads": method.traits["reads"],
        "mix": "output",
        "base_model": {"id": base[0], "revision": base[1] or None},
        "experts": [expert.described(position) for position, expert in enumerate(experts)],
        "places": {place: list(paths) for place, paths in places.items()},
        "files": dict(sorted(digests.items())),
    }
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()
