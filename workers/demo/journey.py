"""The steps of the demo, in the order a contributor and a user would take them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings

from workers.demo.client import Client, DemoError

EXAMPLES = settings.ROOT / "examples"
ZOO = EXAMPLES / "zoo"
TASKS = ("record-to-json", "language-id", "date-format")
MERGED = ("record-to-json", "language-id")
LINES = 10
MIN_EXPERT = 8
MAX_BASE = 1
ASK_TIMEOUT_S = 600

# One task of `ask`: the test file, and the folder of each adapter by what it is called in the report.
Folders = dict[str, dict[str, Path]]


def test_file(task: str) -> Path:
    return ZOO / task / "test.jsonl"


def prompt(task: str) -> str:
    """The first line of the task's test file, which no expert was trained on."""
    with test_file(task).open(encoding="utf-8") as lines:
        return json.loads(lines.readline())["input"]


def item_of(line: str) -> str:
    """A line without the instruction that comes first."""
    return line.split("\n", 1)[-1]


def upload_experts(client: Client, owner: str) -> list[dict[str, Any] | None]:
    """Upload every folder of the zoo. Returns: their jobs; none where the registry has the same files already."""
    folders = sorted(folder for folder in ZOO.iterdir() if folder.is_dir())
    return [client.upload(f"{owner}/{folder.name}", folder)[1]["job"] for folder in folders]


def retrieve(client: Client, owner: str, task: str) -> list[dict[str, Any]]:
    """The three best of the owner's experts for the task's prompt. Raises: DemoError unless its own comes first."""
    request = {"text": prompt(task), "k": 3, "filters": {"owner": [owner]}}
    matches = client.call("POST", "/retrieve/", json=request)[1]["results"][0]["matches"]
    if not matches or matches[0]["adapter"] != f"{owner}/{task}":
        raise DemoError(f"The best expert for {prompt(task)!r} should be {owner}/{task}, but the answer is {matches}.")
    return matches


def soup(client: Client, owner: str) -> list[dict[str, Any]]:
    """The two best experts for one line of each of the MERGED tasks, weighted. Raises: DemoError for any others."""
    request = {
        "router": "adapter_soup",
        "examples": [{"input": prompt(task)} for task in MERGED],
        "k": len(MERGED),
        "filters": {"owner": [owner], "tag": ["example"]},
    }
    matches = client.call("POST", "/retrieve/", json=request)[1]["results"][0]["matches"]
    if {match["adapter"] for match in matches} != {f"{owner}/{task}" for task in MERGED}:
        raise DemoError(f"The best experts for lines of {' and '.join(MERGED)} should be those two, not {matches}.")
    return matches


def merge(client: Client, owner: str, matches: list[dict[str, Any]]) -> dict[str, Any]:
    """The exact weighted sum of the matches' ΔW, as a new adapter. Returns: the finished merge."""
    experts = sorted(matches, key=lambda match: match["adapter"], reverse=True)
    recipe = {
        "method": "weighted_sum",
        "inputs": [{"adapter": expert["adapter"], "weight": expert["weight"]} for expert in experts],
        "output": {
            "name": f"{owner}/" + "-and-".join(expert["adapter"].split("/")[1] for expert in experts),
            "rank": {"mode": "exact"},
        },
    }
    answer = client.call("POST", "/merges/", json=recipe)[1]
    client.wait(answer["job"])
    return client.call("GET", f"/merges/{answer['merge']['id']}/")[1]


def download(
    client: Client, experts: dict[str, str], merge: dict[str, Any], folder: Path
) -> tuple[Folders, dict[str, str]]:
    """Fetch and unpack the archives. Returns: the adapter folders to ask per task, and the sha256 of all weights."""
    archives = {name: f"/api/v1/adapters/{name}/archive/" for name in experts.values()}
    archives[merge["adapter"]] = f"/api/v1/merges/{merge['id']}/archive/"
    digests = {}
    for name, archive in archives.items():
        adapter = client.call("GET", f"/adapters/{name}/")[1]
        digests[name] = client.download(adapter, archive, folder / name)
    folders = {task: {"expert": folder / name} for task, name in experts.items()}
    for task in MERGED:
        folders[task]["merge"] = folder / merge["adapter"]
    return folders, digests


def ask(folders: Folders, digests: dict[str, str], record: Path) -> tuple[list[dict[str, Any]], str | None]:
    """What base, experts and merge answer, by `examples/ask.py`: PEFT on the base model.

    Answers are recorded in `record` with the digests of all weights, and given again for exactly the same weights.

    Returns: one result per task, and when they were recorded; None if they are new.
    """
    if record.exists():
        kept = json.loads(record.read_text(encoding="utf-8"))
        if kept["weights"] == digests:
            return kept["results"], kept["at"]
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "ask.py"), "--json", "--lines", str(LINES)]
    for task, adapters in folders.items():
        command += ["--task", str(test_file(task)), *map(str, adapters.values())]
    done = subprocess.run(
        command,
        cwd=settings.ROOT,
        # Threads that wait sleep: spinning would take the cores from whatever else this machine does.
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        check=False,
        capture_output=True,
        text=True,
        timeout=ASK_TIMEOUT_S,
    )
    if done.returncode:
        raise DemoError("PEFT could not be asked:\n" + "\n".join(done.stderr.splitlines()[-15:]))
    answered = zip(folders, json.loads(done.stdout), strict=True)
    results = [_named(result, task, folders[task]) for task, result in answered]
    kept = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "weights": digests, "results": results}
    record.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
    return results, None


def _named(result: dict[str, Any], task: str, adapters: dict[str, Path]) -> dict[str, Any]:
    """A result of `examples/ask.py` with the names of the models instead of their folders, and their right answers."""
    expected = result["expected"]
    keys = {"base": "base"} | {name: str(folder) for name, folder in adapters.items()}
    answers = {name: result["answers"][key] for name, key in keys.items()}
    right = {
        name: sum(text == wanted for text, wanted in zip(given, expected, strict=True))
        for name, given in answers.items()
    }
    return {"task": task, "inputs": result["inputs"], "expected": expected, "answers": answers, "right": right}


def side_by_side(result: dict[str, Any]) -> list[str]:
    """A task's first line and what each model answers it, with how many of all lines each has right."""
    rows = [("asked", "", item_of(result["inputs"][0])), ("expected", "", result["expected"][0])]
    for name, given in result["answers"].items():
        rows.append((name, f"{result['right'][name]}/{len(given)}", given[0] or "(nothing)"))
    return [result["task"], *(f"  {name:8} {count:>5}  {text}" for name, count, text in rows)]


def shortcomings(results: list[dict[str, Any]]) -> list[str]:
    """What the answers fail to show: experts that know their task, a base that does not, a merge that beats it."""
    found = []
    for result in results:
        task, right = result["task"], result["right"]
        if right["expert"] < MIN_EXPERT:
            found.append(f"the expert {task} answers {right['expert']} of {LINES}, not {MIN_EXPERT}")
        if right["base"] > MAX_BASE:
            found.append(f"the base model answers {right['base']} of {LINES} on {task}, more than {MAX_BASE}")
        if task in MERGED and right["merge"] <= right["base"]:
            found.append(f"the merge answers {right['merge']} of {LINES} on {task}, no more than the base model")
    return found
