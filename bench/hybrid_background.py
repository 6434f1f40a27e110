"""Writes lora/hybrid/background.jsonl.gz and BACKGROUND.md: `python -m bench.hybrid_background`.

Taken are tasks of tests/data/retrieval_dev whose licence asks for no more than attribution and that carry no
BIG-bench canary, 20 samples each.
"""

import gzip
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tests" / "data" / "retrieval_dev"
TARGET = ROOT / "lora" / "hybrid" / "background.jsonl.gz"
LICENCES = ROOT / "lora" / "hybrid" / "BACKGROUND.md"
SAMPLES = 20
# What a licence column may hold after "instances:".
PERMISSIVE = ("MIT", "Apache 2.0", "Apache-2.0", "CC BY 4.0", "CC-BY-4.0", "CDLA Permissive 2.0", "Public Domain")

HEADER = """# Background texts of the hybrid space

Twenty inputs of each task below, as they stand in `tests/data/retrieval_dev`; texts were selected, cut to a length and
(multiple choice) extended by their options, nothing else was changed. `python -m bench.hybrid_background` writes this
file and `background.jsonl.gz`. CC BY asks for the attribution that the source column gives.

| task | source | licence |
|---|---|---|
"""


def permissive(task: dict) -> bool:
    """Whether the texts of a row of tasks.jsonl may be handed on with attribution alone."""
    licence = task["license"].rsplit("instances: ", 1)[-1].removeprefix("LibriVox: ")
    named = any(licence == name or licence.startswith(f"{name} (") for name in PERMISSIVE)
    return named and not task["bigbench_canary"]


def selected() -> list[dict]:
    """The rows of the background file: {task, license, source, texts}, in the order of tasks.jsonl."""
    with (SOURCE / "tasks.jsonl").open(encoding="utf-8") as lines:
        tasks = [task for task in map(json.loads, lines) if permissive(task)]
    texts: dict[str, list[str]] = {task["task"]: [] for task in tasks}
    with gzip.open(SOURCE / "examples.jsonl.gz", "rt", encoding="utf-8") as lines:
        for example in map(json.loads, lines):
            found = texts.get(example["task"])
            if found is not None and example["split"] == "sample" and len(found) < SAMPLES:
                found.append(example["input"])
    return [
        {"task": task["task"], "license": task["license"], "source": task["source"], "texts": texts[task["task"]]}
        for task in tasks
    ]


def licences(rows: list[dict]) -> str:
    """The text of BACKGROUND.md."""
    return HEADER + "".join(f"| {row['task']} | {row['source']} | {row['license']} |\n" for row in rows)


def main() -> None:
    rows = selected()
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    TARGET.write_bytes(gzip.compress(content.encode(), mtime=0))
    LICENCES.write_text(licences(rows), encoding="utf-8")
    print(f"{len(rows)} tasks, {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
