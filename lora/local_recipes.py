"""Recipes over folders of this machine: read, checked, merged into another folder, without a server."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora.base import open_base
from lora.config import CONFIG_NAME, parse_config
from lora.errors import LoraError
from lora.folder import check_folder, find_adapter
from lora.header import WEIGHTS_NAME
from lora.merge_report import MergeReport
from lora.mergeable import runs_base
from lora.merging import ENGINE_VERSION
from lora.nested import merge_recipe
from lora.recipe import MergeInput, OutputSpec
from lora.recipe_documents import request_of
from lora.recipe_reader import Flaw, InvalidRecipe, RecipeReader
from lora.recipe_tree import Step
from lora.runtime.loading import load_running_base
from lora.runtime.probe import BaseNotHere
from lora.samples import SAMPLES_NAME, InvalidSamples, as_examples, parse_samples

RUNNING = 0.7  # the part of a merge's progress that running the base is
FIELDS = frozenset({"method", "inputs", "params", "output", "base_model"})


class RecipeRefused(LoraError):
    """A recipe has flaws; `str(error)` is one line for each."""

    def __init__(self, flaws: list[Flaw]) -> None:
        self.flaws = flaws
        super().__init__("\n".join(f"{flaw.where}: {flaw.error}" for flaw in flaws))


class FolderReader(RecipeReader[MergeInput]):
    """Reads recipes whose inputs are `{path, weight}`.

    Args:
        root: what relative paths start from.
    """

    source_fields = frozenset({"path"})

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root
        self._found: dict[Path, MergeInput] = {}

    def name_of(self, source: MergeInput) -> str:
        """Return its folder."""
        return str(source.weights_path)

    def find_source(self, where: str, item: Mapping[str, Any]) -> MergeInput | None:
        """Return the adapter in a folder, judged with all its values as an upload is."""
        return self.attempt(where, self._read, where, item.get("path"))

    def _read(self, where: str, path: Any) -> MergeInput:
        if not isinstance(path, str):
            raise InvalidRecipe(f"{where} needs path: the folder of an adapter.")
        folder = (self._root / path).resolve()
        if folder not in self._found:
            if not folder.is_dir():
                raise InvalidRecipe(f"{path} is not a folder.")
            found = find_adapter(folder)
            layout, config = check_folder(found).layout, parse_config(found.config.read_bytes())
            with found.weights.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            self._found[folder] = MergeInput(found.weights, layout, config, weight=None, name=path, digest=digest)
        return self._found[folder]

    def check_bases(self, stated: Any) -> None:
        """Refuse adapters that name different bases, or another one than the recipe. Raises: InvalidRecipe."""
        bases = {item.name: item.config.base_model for item in self._found.values() if item.config.base_model}
        wanted = next(iter(bases.values()), None) if stated is None else stated
        for name, base in bases.items():
            if base != wanted:
                raise InvalidRecipe(f"{name} was trained on {base}, not on {wanted}. Bases must be the same.")


def read_recipe(document: Any, root: Path) -> tuple[Step[MergeInput], OutputSpec]:
    """Read a document whose inputs are folders.

    Args:
        document: `loradex/v1` or mergekit's, as JSON or YAML yields it.
        root: what relative paths start from.
    Raises: RecipeRefused.
    """
    reader = FolderReader(root)
    request = reader.attempt("recipe", request_of, document, "path")
    fields = None if reader.flaws else reader.object_at("", request, FIELDS)
    if fields is not None:
        draft = reader.read_step(fields)
        reader.attempt("base_model", reader.check_bases, fields.get("base_model"))
        output = reader.object_at("output", fields.get("output", {}), frozenset({"rank", "dtype"})) or {}
        spec = reader.read_spec(output, draft.method)
        if spec is not None and not reader.flaws:
            return draft.step, spec
    raise RecipeRefused(reader.flaws)


def merge_folders(
    document: Any,
    root: Path,
    out: Path,
    *,
    base: Path | None = None,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda fraction: None,
) -> MergeReport:
    """Merge as a recipe says, into a PEFT folder that is there only if it is whole.

    Args:
        document, root: as for `read_recipe`.
        out: new, or empty.
        base: what `save_pretrained` wrote of the base model, for DoRA adapters and biases; and of its tokenizer, for
            methods that run it, which look at the adapters' samples.jsonl.
        device: where torch computes.
        progress: called with a fraction in [0, 1].
    Raises: RecipeRefused, NotMergeable, BaseNotHere, LoraError; OSError.
    """
    step, spec = read_recipe(document, root)
    if out.exists() and any(out.iterdir()):
        raise LoraError(f"{out} is not empty. Name a new folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"device": device, "base": open_base(base) if base else None}
    if runs_base(step):
        if base is None:
            raise BaseNotHere("The recipe runs the base model: give what save_pretrained wrote of it by --base.")
        step = _with_samples(step)
        options["running"] = load_running_base(base, device=device, progress=lambda done: progress(RUNNING * done))
    recipe = json.dumps(step.identity(lambda item: item.digest) | {"engine": ENGINE_VERSION}, sort_keys=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        report = merge_recipe(
            step,
            spec,
            Path(scratch),
            metadata={"loradex.recipe": json.dumps(recipe, sort_keys=True)},
            progress=_after(RUNNING, progress) if "running" in options else progress,
            **options,
        )
        out.mkdir(exist_ok=True)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            os.replace(Path(scratch) / name, out / name)
    return report


def _after(start: float, progress: Callable[[float], None]) -> Callable[[float], None]:
    return lambda done: progress(start + (1 - start) * done)


def _with_samples(step: Step[MergeInput]) -> Step[MergeInput]:
    """Return a recipe whose adapters have the samples that lie in their folders. Raises: InvalidSamples."""
    known: dict[Path, MergeInput] = {}

    def read(item: MergeInput) -> MergeInput:
        file = item.weights_path.parent / SAMPLES_NAME
        if file not in known:
            try:
                samples = parse_samples(file.read_bytes()) if file.is_file() else []
            except InvalidSamples as error:
                raise InvalidSamples(f"{item.name}: {error}") from error
            known[file] = replace(item, samples=as_examples(samples))
        return known[file]

    return step.map(read)


def summary(report: MergeReport, out: Path) -> str:
    """Return the main figures of a merge, as lines for a terminal."""
    modules = report["per_module"]
    least = min(modules, key=lambda module: module["energy_kept"])
    rows = {
        "modules": len(modules),
        "rank": max(module["rank"] for module in modules),
        "energy kept": f"{report['energy_kept']:.4f}, least {least['energy_kept']:.4f} in {least['path']}",
        "relative error": f"{report['relative_error']:.3g}",
        "bytes": (out / WEIGHTS_NAME).stat().st_size,
    }
    cosines = [c for i, row in enumerate(report["interference"]["cosine"]) for c in row[:i]]
    if cosines:
        rows["cosine"] = f"{min(cosines):.3f} to {max(cosines):.3f} between the inputs"
    lines = [f"Merged into {out}.", *(f"  {key:<14} {value}" for key, value in rows.items())]
    return "\n".join([*lines, *(f"warning {item['code']}: {item['message']}" for item in report["warnings"])])
