"""The server's verdict and its merges on this machine, without a server.

`python -m lora check DIR`, `python -m lora merge recipe.json --out DIR`.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora.binding import BaseModules
from lora.errors import InvalidAdapter, LoraError
from lora.folder import check_folder, find_adapter
from lora.progress_line import progress_line
from lora.strict_json import parse_object, plain

USABLE, REFUSED, USAGE = 0, 1, 2

_SHOWN = ("rank", "alpha", "scaling", "dtype", "parameters", "size_bytes", "tensor_digest")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0 usable or merged, 1 refused, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m lora", description="Check and merge LoRA adapters of this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="judge one PEFT folder")
    check.add_argument("folder", type=Path, metavar="DIR", help="folder with adapter_config.json and its weights")
    check.add_argument("--base", type=Path, metavar="FILE", help="JSON of the base's modules: {path: [d_out, d_in]}")
    check.add_argument("--json", action="store_true", help="print the verdict as JSON")
    merge = commands.add_parser("merge", help="merge PEFT folders as a recipe says")
    merge.add_argument("recipe", type=Path, help="JSON whose inputs are {path, weight}, relative to it")
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write, new or empty")
    merge.add_argument(
        "--base", type=Path, metavar="DIR", help="the base model, for what needs it: DoRA, biases, methods with data"
    )
    merge.add_argument("--json", action="store_true", help="print the whole report as JSON")
    options = parser.parse_args(arguments)
    return _check(parser, options) if options.command == "check" else _merge(parser, options)


def _merge(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from lora.local_recipes import merge_folders, summary  # noqa: PLC0415 - `check` does without safetensors

    try:
        document = parse_object(options.recipe.read_bytes(), str(options.recipe))
    except (OSError, InvalidAdapter) as error:
        parser.error(str(error))
    try:
        with progress_line(sys.stderr, "Merging") as progress:
            report = merge_folders(document, options.recipe.parent, options.out, base=options.base, progress=progress)
    except LoraError as error:
        print(error, file=sys.stderr)
        return REFUSED
    _say(json.dumps(report, indent=2) if options.json else summary(report, options.out))
    return USABLE


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is not a folder")
    try:
        base = read_base(options.base) if options.base else None
    except (OSError, ValueError) as error:
        parser.error(f"--base {options.base}: {error}")
    report = judge(options.folder, base)
    _say(json.dumps(report, indent=2) if options.json else as_text(report))
    return USABLE if report["usable"] else REFUSED


def _say(text: str) -> None:
    """Print, and let a reader such as `head` leave before the end: the exit status says the verdict all the same."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is still buffered would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_base(path: Path) -> BaseModules:
    """Read a base's module shapes, bare or as `GET /api/v1/base-models/{id}/` answers them.

    Raises: OSError: no such file. ValueError: not of this form.
    """
    modules = json.loads(path.read_text())
    if isinstance(modules, dict):
        modules = modules.get("modules", modules)
    if not isinstance(modules, dict) or not all(_is_shape(shape) for shape in modules.values()):
        raise ValueError("expected {path: [d_out, d_in]}")
    return {name: (shape[0], shape[1]) for name, shape in modules.items()}


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)


def judge(folder: Path, base: BaseModules | None = None) -> dict[str, Any]:
    """Return `{usable, facts, warnings, problems, left_out}` for a folder."""
    report: dict[str, Any] = {"usable": False, "facts": None, "warnings": [], "problems": [], "left_out": []}
    try:
        found = find_adapter(folder)
        report["left_out"] = found.left_out
        verdict = check_folder(found, base)
    except InvalidAdapter as error:
        return report | {"problems": [problem.as_json() for problem in error.problems]}
    return report | {"usable": True, "facts": verdict.facts, "warnings": verdict.warnings}


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report as lines for a terminal."""
    facts = report["facts"]
    lines = ["This is a usable LoRA adapter." if report["usable"] else "This is not a usable LoRA adapter."]
    if facts:
        in_base = facts["modules_in_base"]
        of = "base not compared" if in_base is None else f"of the {in_base} that the config targets in the base"
        rows = [("modules", f"{facts['modules_bound']} ({of})"), *((key, facts[key]) for key in _SHOWN)]
        lines += [f"  {key:<14} {value}" for key, value in rows]
        lines += [f"  {'ignored':<14} {', '.join(facts['ignored'])}"] if facts["ignored"] else []
    lines += [f"warning {item['code']}: {item['message']}" for item in report["warnings"]]
    lines += [f"problem {item['code']} in {item['where']}: {item['message']}" for item in report["problems"]]
    if report["left_out"]:
        lines.append(f"not part of an adapter, not sent: {', '.join(map(plain, report['left_out']))}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
