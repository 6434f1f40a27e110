"""A PEFT folder on this machine: which of its files make the adapter."""

from dataclasses import dataclass
from pathlib import Path

from lora.binding import BaseModules
from lora.check import NO_SAMPLES, TEMPLATE_CARD, Verdict, check_files, check_values, is_template_card, read_pair
from lora.config import CONFIG_NAME
from lora.errors import InvalidAdapter, Problem
from lora.formats import PICKLE, PICKLE_SUFFIXES
from lora.header import WEIGHTS_NAME

# What an upload may hold beside config and weights.
COMPANIONS = ("README.md", "samples.jsonl", "gates.safetensors")


@dataclass(frozen=True)
class AdapterFolder:
    """The two files that make the adapter, and the names of those that would not be sent."""

    config: Path
    weights: Path
    left_out: list[str]


def find_adapter(folder: Path) -> AdapterFolder:
    """Find the adapter in a folder.

    Raises: InvalidAdapter: `missing_config`, `missing_weights`, `pickle`, `two_weights_files`.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    problems = []
    if CONFIG_NAME not in names:
        message = "It is missing. Send the folder that PEFT's save_pretrained wrote."
        problems.append(Problem("missing_config", CONFIG_NAME, message))
    problems += _weights_problems(names)
    if problems:
        raise InvalidAdapter(problems)
    left_out = [name for name in names if name not in (CONFIG_NAME, WEIGHTS_NAME, *COMPANIONS)]
    return AdapterFolder(folder / CONFIG_NAME, folder / WEIGHTS_NAME, left_out)


def check_folder(found: AdapterFolder, base_modules: BaseModules | None = None) -> Verdict:
    """Judge a local adapter as the server does: files first, then values; facts get `tensor_digest`.

    Raises: InvalidAdapter: problems of config and header together, or of the values.
    """
    size_bytes = found.weights.stat().st_size
    with open(found.weights, "rb") as stream:
        config, header = read_pair(found.config.read_bytes(), stream, size_bytes)
    verdict = check_files(config, header, size_bytes, base_modules)
    report = check_values(found.weights, header, verdict.layout)
    facts = verdict.facts | {"tensor_digest": report.tensor_digest}
    return Verdict(verdict.layout, facts, verdict.warnings + report.warnings + _companion_warnings(found.config.parent))


def _companion_warnings(folder: Path) -> list[dict[str, str]]:
    warnings = [] if (folder / "samples.jsonl").is_file() else [NO_SAMPLES]
    card = folder / "README.md"
    if card.is_file() and is_template_card(card.read_text(encoding="utf-8", errors="replace")):
        warnings.append(TEMPLATE_CARD)
    return warnings


def _weights_problems(names: list[str]) -> list[Problem]:
    others = [
        name
        for name in names
        if name.endswith((*PICKLE_SUFFIXES, ".safetensors")) and name not in (WEIGHTS_NAME, *COMPANIONS)
    ]
    if WEIGHTS_NAME in names:
        twins = [name for name in others if name.startswith("adapter_model")]
        message = f"It stands beside {', '.join(twins)}. Keep the file that is the adapter."
        return [Problem("two_weights_files", WEIGHTS_NAME, message)] if twins else []
    tensors = [name for name in others if name.endswith(".safetensors")]
    if tensors:
        message = f"It is missing, but {', '.join(tensors)} is there. Rename the file if it is the adapter."
        return [Problem("missing_weights", WEIGHTS_NAME, message)]
    pickles = [name for name in others if name.startswith(("adapter_model", "pytorch_model", "model", "lora"))]
    if pickles:
        return [Problem("pickle", pickles[0], PICKLE.replace("adapter_model.bin", pickles[0]))]
    message = "It is missing. Send the folder that PEFT's save_pretrained wrote."
    return [Problem("missing_weights", WEIGHTS_NAME, message)]
