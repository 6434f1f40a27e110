"""Exact match of merged example experts: every merge method on 3 pairs, 2 fours and all 12 of examples/zoo.

Each merge is a file written by the engine; its ΔW is added to a copy of the base's weights, and the first test lines of
every merged expert's task are answered greedily, all in one go. What a method gives is tried at several strengths
(factors on ΔW), for scale often matters more than the method. Results are kept in a JSON file after every step: run it
again to go on, with --minutes to go on for so long only; --table prints what there is.
"""

import argparse
import copy
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bench.exact_match import Line, exactly_answered
from bench.quality_tables import print_details, print_table
from bench.shapes import read_folder
from examples.smollm2 import load_base
from lora.examples import Example
from lora.merges import MERGES
from lora.merging import MergeInput, OutputSpec, merge
from lora.runtime.loading import as_running_base
from lora.runtime.probe import ExampleParams, RunningBase
from lora.weights import AdapterFile

ZOO = Path(__file__).resolve().parents[1] / "examples" / "zoo"
RESULTS = Path("bench/merge_quality.json")
LINES = 25
GROUPS = {
    "words": ("antonym", "pluralise"),
    "formats": ("date-format", "record-to-json"),
    "mixed": ("addition-2digit", "language-id"),
    "four A": ("number-to-words", "review-sentiment", "title-case", "utterance-topic"),
    "four B": ("addition-2digit", "date-format", "language-id", "pluralise"),
    "twelve": tuple(sorted(folder.name for folder in ZOO.iterdir() if folder.is_dir())),
}
STRENGTHS = (0.25, 0.5, 1.0, 2.0)
SEARCHED = 48  # examples that a search looks at, of all inputs together; at most the method's own default of each
RANKS = ("sum", "max_input")  # of the output: Σr, where low-rank methods lose nothing, or the form's default


@dataclass(frozen=True)
class Case:
    """One merge of one group."""

    group: str
    method: str
    rank: str

    @property
    def experts(self) -> tuple[str, ...]:
        return GROUPS[self.group]

    @property
    def strengths(self) -> tuple[float, ...]:
        """Factors on what the method gives; a mean times n is the sum."""
        n = len(self.experts)
        is_mean = MERGES.get(self.method).traits["weights"] == "absolute"
        return (*STRENGTHS, float(n)) if is_mean and n > max(STRENGTHS) else STRENGTHS

    @property
    def params(self) -> dict[str, Any]:
        """Fewer samples of each where there are many inputs, for methods that ask again and again."""
        params = MERGES.get(self.method).params
        most = SEARCHED // len(self.experts)
        return {"samples": most} if issubclass(params, ExampleParams) and most < params().samples else {}

    @property
    def output(self) -> OutputSpec:
        if "rank_mode" in MERGES.get(self.method).traits:
            return OutputSpec(MERGES.get(self.method).traits["rank_mode"])
        if self.rank == "max_input":
            return OutputSpec()
        ranks = [read_folder(ZOO / name)[2].r for name in self.experts]
        return OutputSpec("fixed", sum(ranks))

    def key(self, strength: float) -> str:
        return f"{self.group}, {self.method}, rank {self.rank}, x{strength:g}"


class Bench:
    """The base in memory, twice: in float32 for methods that run it, and as a copy that is changed and asked."""

    def __init__(self, lines: int, dtype: torch.dtype) -> None:
        self.lines, self.dtype = lines, dtype

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        model, tokenizer = load_base()
        return model.requires_grad_(False), tokenizer

    @cached_property
    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.clone() for name, weight in self._loaded[0].state_dict().items()}

    @cached_property
    def _asked(self) -> Any:
        return copy.deepcopy(self._loaded[0]).to(self.dtype)

    @property
    def running(self) -> RunningBase:
        if self.dtype == torch.bfloat16:
            torch.set_float32_matmul_precision("medium")  # products in the same matrix units, 2.4x as fast
        return as_running_base(*self._loaded)

    def scores(self, adapter: Path | None, strength: float, tasks: Sequence[str]) -> dict[str, float]:
        """Return the exact match of every task under the base with strength·ΔW of an adapter on its weights."""
        lines = [line for task in tasks for line in test_lines(task, self.lines)]
        with torch.no_grad():  # what is loaded in inference mode has no gradients, which some methods want
            changed = self._fold(adapter, strength) if adapter else []
            right = exactly_answered(self._asked, self._loaded[1], lines)
            for path in changed:
                self._asked.get_submodule(path).weight.copy_(self._weights[f"{path}.weight"])
        hits: dict[str, list[bool]] = {task: [] for task in tasks}
        for line, hit in zip(lines, right, strict=True):
            hits[line.task].append(hit)
        return {task: sum(found) / len(found) for task, found in hits.items()}

    def _fold(self, adapter: Path, strength: float) -> list[str]:
        weights, layout, _ = read_folder(adapter)
        with AdapterFile(weights, layout) as file:
            for path in file.paths:
                delta = file.factors(path, torch.float32)
                change = strength * delta.scaling * delta.B @ delta.A
                self._asked.get_submodule(path).weight.copy_(self._weights[f"{path}.weight"] + change)
            return list(file.paths)


def test_lines(task: str, count: int) -> list[Line]:
    rows = [json.loads(row) for row in (ZOO / task / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Line(task, row["input"], row["output"]) for row in rows[:count]]


def merge_inputs(names: Sequence[str]) -> Iterator[MergeInput]:
    for name in names:
        weights, layout, config = read_folder(ZOO / name)
        rows = (ZOO / name / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        samples = tuple(Example.from_json(json.loads(row)) for row in rows)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        yield MergeInput(weights, layout, config, None, f"zoo/{name}", digest, samples)


def run_case(bench: Bench, case: Case, results: dict[str, Any], save: Callable[[], None]) -> None:
    """Merge once and ask at every strength."""
    wanted = [strength for strength in case.strengths if case.key(strength) not in results]
    if not wanted:
        return
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        running = bench.running if "base_model" in MERGES.get(case.method).needs else None
        inputs = list(merge_inputs(case.experts))
        report = merge(case.method, case.params, inputs, case.output, Path(scratch), metadata={}, running=running)
        took = time.perf_counter() - started
        for strength in wanted:
            started, started_cpu = time.perf_counter(), time.process_time()
            scores = bench.scores(Path(scratch), strength, case.experts)
            results[case.key(strength)] = {
                "group": case.group, "method": case.method, "rank": case.rank, "strength": strength,
                "scores": scores, "energy_kept": report["energy_kept"],
                "merge_s": round(took, 2), "ask_s": round(time.perf_counter() - started, 2),
                "ask_cpu_s": round(time.process_time() - started_cpu, 2),
            }  # fmt: skip
            save()
            mean = sum(scores.values()) / len(scores)
            print(f"{case.key(strength)}: {mean:.3f}  {results[case.key(strength)]['ask_cpu_s']} CPU s", flush=True)


def ask_parents(bench: Bench, results: dict[str, Any], save: Callable[[], None]) -> None:
    """Ask the base on all tasks, and every expert on its own."""
    if "base" not in results:
        results["base"] = bench.scores(None, 1, GROUPS["twelve"])
        save()
    if "experts" not in results:
        alone = [bench.scores(ZOO / task, 1, [task]) for task in GROUPS["twelve"]]
        results["experts"] = {task: score for scores in alone for task, score in scores.items()}
        save()


def cases(options: argparse.Namespace) -> Iterator[Case]:
    for rank in options.rank:
        for group in options.groups:
            for name in options.methods or MERGES.names():
                method = MERGES.get(name)
                if method.needs and not (options.data or options.methods):
                    continue
                if len(GROUPS[group]) > method.traits.get("max_inputs", len(GROUPS[group])):
                    continue
                if "rank_mode" in method.traits and rank != "sum":
                    continue
                yield Case(group, name, rank)


def has_matrix_units() -> bool:
    """Whether bfloat16 is fast here, and not emulated."""
    return torch.cpu._is_amx_tile_supported()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=MERGES.names(), help="only these (data-driven ones included)")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--rank", nargs="+", choices=RANKS, default=list(RANKS), help="of the output (default both)")
    parser.add_argument("--data", action="store_true", help="methods that run the base model as well")
    parser.add_argument("--again", action="store_true", help="forget what is known of --methods in --groups first")
    parser.add_argument("--lines", type=int, default=LINES, help=f"test lines per task (default {LINES})")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no merge after so long")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 where the CPU has AMX")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of what is known, and run nothing")
    parser.add_argument("--details", choices=GROUPS, help="as --table, task by task for one group")
    return parser.parse_args()


def read_results(path: Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known, which must have been measured with this setting."""
    if not path.exists():
        return {"setting": dict(setting)}
    results = json.loads(path.read_text())
    if results["setting"] != setting:
        sys.exit(f"{path} was measured with {results['setting']}, not {dict(setting)}: choose other --results.")
    return results


def main() -> None:
    options = parse_options()
    if options.table or options.details:
        results = json.loads(options.results.read_text())
        print_details(results, options.details) if options.details else print_table(results, GROUPS)
        return
    dtype = options.dtype or ("bfloat16" if has_matrix_units() else "float32")
    results = read_results(options.results, {"lines": options.lines, "dtype": dtype})

    def save() -> None:
        options.results.write_text(json.dumps(results, indent=1) + "\n")

    todo = list(cases(options))
    if options.again:
        for case in todo:
            for strength in case.strengths:
                results.pop(case.key(strength), None)
    bench, started = Bench(options.lines, getattr(torch, dtype)), time.monotonic()
    ask_parents(bench, results, save)
    for case in todo:
        if time.monotonic() - started > 60 * options.minutes:
            print("Time is up; run it again to go on.")
            break
        run_case(bench, case, results, save)


if __name__ == "__main__":
    main()
