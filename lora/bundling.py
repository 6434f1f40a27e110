"""A bundle on disk: experts of one base model with the vectors that a router inside the model compares with.

| file | what it holds |
|---|---|
| `manifest.json` | base, router, experts in order, digest of every other file |
| `prototypes.safetensors` | module path → (n, d_in), or (n, r, d_in) for SpectR; zeros where an expert has none |
| `spectra.safetensors` | module path → (n, r): singular values of ΔW (Arrow) |
| `baselines.safetensors` | module path → (n, 2): μ and σ on generic texts (Arrow); σ = 0 where unknown |
| `adapters/NN-owner--name/` | PEFT folders |
| `README.md`, `bundle.py` | how to run it, and what runs it |
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora.array_file import array_file
from lora.binding import BaseModules
from lora.bundle_readme import readme
from lora.bundled_adapters import Shape, all_modules, is_uniform, reads_alike, write_uniform
from lora.bundled_vectors import stack_numbers, stack_vectors
from lora.bundles import BUNDLES, BundleParams
from lora.composing import folder_of
from lora.config import CONFIG_NAME
from lora.header import WEIGHTS_NAME
from lora.module_routers import Baselines
from lora.recipe import MergeInput

FORMAT = "loradex/bundle/v1"
MANIFEST = "manifest.json"
PROTOTYPES = "prototypes.safetensors"
SPECTRA = "spectra.safetensors"
BASELINES = "baselines.safetensors"


@dataclass(frozen=True)
class BundledExpert:
    """An expert of a bundle.

    Attributes:
        item: its verified files. config: its `adapter_config.json`. revision: 40 hex.
        vectors: a safetensors file: module path → (d_in,) or (r, d_in).
        sigma: path → singular values of ΔW, where they are shipped.
        baselines: what its vectors give on generic texts, where that is known.
    """

    item: MergeInput
    config: Path
    revision: str
    vectors: Path
    sigma: Mapping[str, Sequence[float]]
    baselines: Baselines | None = None


@dataclass(frozen=True)
class BundleBase:
    """The base model of a bundle; `modules` are path → (d_out, d_in), None where it is not known here."""

    id: str
    revision: str = ""
    modules: BaseModules | None = None


def write_bundle(
    folder: Path,
    router: str,
    params: BundleParams,
    experts: Sequence[BundledExpert],
    base: BundleBase,
    runtime: Path,
    progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Any]:
    """Write all files of a bundle; equal inputs give equal bytes. Returns: the manifest.

    Args:
        folder: existing and empty.
        router: a name of `BUNDLES`.
        experts: of one base, that `problems_of` has nothing against.
        runtime: the file that runs bundles; it comes along.
    Raises: LoraError: a scaled value does not fit an adapter's dtype.
    """
    method, items = BUNDLES.get(router), [one.item for one in experts]
    is_padded = params.uniform and not is_uniform(items, base.modules)
    modules = all_modules(items, base.modules if is_padded else None)
    common = Shape(modules, max(map(_rank, items))) if is_padded else None
    described = []
    for position, one in enumerate(experts):
        progress(position / len(experts))
        described.append(_write_adapter(folder, position, one, base, common))
    stack_vectors([one.vectors for one in experts], {p: d_in for p, (_, d_in) in modules.items()}, folder / PROTOTYPES)
    if method.traits["prototype"] == "arrow":
        (folder / SPECTRA).write_bytes(array_file(stack_numbers([one.sigma for one in experts], modules)))
        if all(one.baselines for one in experts):
            figures = [one.baselines.modules for one in experts if one.baselines]
            (folder / BASELINES).write_bytes(array_file(stack_numbers(figures, modules)))
    shutil.copyfile(runtime, folder / "bundle.py")
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "base_model": {"id": base.id, "revision": base.revision or None},
        "router": {"kind": router, "mix": "output"} | method.run(params) | _settings(params, len(experts)),
        "experts": described,
    }
    (folder / "README.md").write_text(readme(manifest, has_baselines=(folder / BASELINES).exists()), encoding="utf-8")
    manifest["files"] = files_of(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return manifest


def files_of(folder: Path) -> dict[str, str]:
    """Return path in the archive → sha256 of every file."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _settings(params: BundleParams, count: int) -> dict[str, Any]:
    return asdict(params) | {"top_k": min(params.top_k, count)}


def _rank(item: MergeInput) -> int:
    return max(module.rank for module in item.layout.modules.values())


def _write_adapter(
    folder: Path, position: int, one: BundledExpert, base: BundleBase, common: Shape | None
) -> dict[str, Any]:
    """Write an expert's PEFT folder: its files as they are, or its ΔW in a form that PEFT reads, in `common` if given.

    Returns: what the manifest says of it.
    """
    place = folder_of(position, one.item.name)
    modules = one.item.layout.modules
    (folder / place).mkdir(parents=True)
    is_kept = common is None and reads_alike(one.item, base.modules)
    if is_kept:
        shutil.copyfile(one.item.weights_path, folder / place / WEIGHTS_NAME)
        shutil.copyfile(one.config, folder / place / CONFIG_NAME)
    else:
        shape = common or Shape({m.path: (m.d_out, m.d_in) for m in modules.values()}, _rank(one.item))
        metadata = {"loradex.source": f"{one.item.name}@{one.revision}", "loradex.sha256": one.item.digest}
        write_uniform(one.item, folder / place, shape, metadata)
    return {
        "name": one.item.name,
        "revision": one.revision,
        "folder": place,
        "source_sha256": one.item.digest,
        "spread": one.baselines.spread if one.baselines else None,
        "is_kept": is_kept,
        "rank": common.rank if common else _rank(one.item),
        "scaling": {path: module.scaling if is_kept else 1.0 for path, module in sorted(modules.items())},
    }
