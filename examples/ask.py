"""Ask the base model and adapters the same test lines, and count the exact answers.

    python examples/ask.py --task examples/zoo/date-format/test.jsonl examples/zoo/date-format

`--task TEST.jsonl [FOLDER …]` may be repeated; each folder holds a PEFT adapter of SmolLM2-135M-Instruct.
`--lines N` asks the first N lines (default 10), `--json` prints one JSON array for programs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from peft import PeftModel
from smollm2 import answer, load_base


def read_lines(path: Path, count: int) -> tuple[list[str], list[str]]:
    """The first `count` inputs and outputs of a JSONL file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    return [row["input"] for row in rows], [row["output"] for row in rows]


def ask(tasks: list[list[Path]], count: int) -> list[dict[str, Any]]:
    """For each (test file, *adapter folders): what the base and each adapter answer. One batch each."""
    base, tokenizer = load_base()
    results = []
    for test, *_ in tasks:
        inputs, outputs = read_lines(test, count)
        results.append({"test": str(test), "inputs": inputs, "expected": outputs, "answers": {}})
        results[-1]["answers"]["base"] = answer(base, tokenizer, inputs)
    for folder in dict.fromkeys(folder for _, *folders in tasks for folder in folders):
        model = PeftModel.from_pretrained(base, folder)
        for result, (_, *folders) in zip(results, tasks, strict=True):
            if folder in folders:
                result["answers"][str(folder)] = answer(model, tokenizer, result["inputs"])
        base = model.unload()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, nargs="+", action="append", required=True, metavar=("TEST", "FOLDER"))
    parser.add_argument("--lines", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = ask(options.task, options.lines)
    if options.json:
        json.dump(results, sys.stdout)
        return
    for result in results:
        print(result["test"])
        for name, answers in result["answers"].items():
            right = sum(given == wanted for given, wanted in zip(answers, result["expected"], strict=True))
            print(f"  {right:3}/{len(answers)}  {name}: {answers[0]!r} (expected {result['expected'][0]!r})")


if __name__ == "__main__":
    main()
