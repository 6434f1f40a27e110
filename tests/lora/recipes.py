"""Recipes over folders that hold an adapter, run as a worker would."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora.base import Base
from lora.config import parse_config
from lora.examples import Example
from lora.header import read_header
from lora.layout import read_layout
from lora.merging import MergeInput, OutputSpec, merge
from lora.runtime.probe import RunningBase


def merge_input(folder: Path, weight: float | None = None, name: str | None = None) -> MergeInput:
    """Read config, header and samples, if there are any, of a folder into an input."""
    weights = folder / "adapter_model.safetensors"
    config = parse_config((folder / "adapter_config.json").read_bytes())
    with weights.open("rb") as stream:
        header = read_header(stream, weights.stat().st_size)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    lines = folder / "samples.jsonl"
    samples = [Example.from_json(json.loads(line)) for line in lines.read_text().splitlines()] if lines.exists() else []
    layout = read_layout(header, config)
    return MergeInput(weights, layout, config, weight, name or f"ada/{folder.name}", digest, tuple(samples))


def run_merge(
    out: Path,
    folders: Sequence[Path],
    method: str = "weighted_sum",
    params: dict[str, Any] | None = None,
    weights: Sequence[float] | None = None,
    output: OutputSpec | None = None,
    base: Base | None = None,
    running: RunningBase | None = None,
) -> dict[str, Any]:
    """Merge the adapters in `folders` into `out`, which is created; return the report."""
    out.mkdir(parents=True)
    inputs = [
        merge_input(folder, weight) for folder, weight in zip(folders, weights or [None] * len(folders), strict=True)
    ]
    spec = output or OutputSpec()
    return merge(method, params or {}, inputs, spec, out, metadata={"recipe": "test"}, base=base, running=running)
