"""1,000 small adapters through `manage.py import_folder` and a real worker, per adapter, beside a plain copy.

On files and SQLite unless the environment names services. The worker is warm: it has its encoder loaded. The floor,
measured in the same run, is what nobody can avoid: copy every file, hash it, make it durable. CPU time is given too,
because the command and the worker share the machine.
"""

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.journeys.server import ROOT, Site, running_site
from tests.lora.factories import write_adapter_files

SAMPLES = 10


@dataclass(frozen=True)
class Seconds:
    """Of an import.

    Attributes:
        taken_in: until every folder was taken in.
        ready: until every job was done.
        command_cpu: processor time of the command.
        worker_cpu: processor time of the worker.
    """

    taken_in: float
    ready: float
    command_cpu: float
    worker_cpu: float


def write_tree(root: Path, count: int) -> int:
    """`count` folders with an adapter and samples each. Returns: their size in bytes."""
    for number in range(count):
        folder = write_adapter_files(root / f"adapter-{number:04}", seed=number)
        lines = [f'{{"input": "Question {number} of kind {sample}?"}}\n' for sample in range(SAMPLES)]
        (folder / "samples.jsonl").write_text("".join(lines))
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def floor(root: Path, target: Path) -> float:
    """Seconds to copy every file, hash the copy and have it on disk: what importing cannot do without."""
    started = time.perf_counter()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            with copy.open("rb") as file:
                hashlib.file_digest(file, "sha256")
                os.fsync(file.fileno())
    return time.perf_counter() - started


def cpu_s(process: psutil.Process) -> float:
    """Processor time of a process and those it has started, so far."""
    return sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])


def ended_cpu_s() -> float:
    """Processor time of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed_import(site: Site, root: Path, owner: str) -> Seconds:
    worker = psutil.Process(site.processes[0].pid)
    worker_before, ended_before = cpu_s(worker), ended_cpu_s()
    started = time.perf_counter()
    command = [sys.executable, "manage.py", "import_folder", str(root), "--owner", owner, "--wait"]
    with subprocess.Popen(command, cwd=ROOT, env=site.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("importing"):
                taken_in = time.perf_counter() - started
            last = line
    ready = time.perf_counter() - started
    assert process.returncode == 0
    assert ", 0 checking, 0 refused" in last, last
    return Seconds(taken_in, ready, ended_cpu_s() - ended_before, cpu_s(worker) - worker_before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=int, default=1000)
    count = parser.parse_args().adapters
    with tempfile.TemporaryDirectory() as scratch, running_site(Path(scratch) / "data") as site:
        tree, warm = Path(scratch) / "tree", Path(scratch) / "warm"
        size = write_tree(tree, count)
        copied = floor(tree, Path(scratch) / "copy")
        write_tree(warm, 1)
        timed_import(site, warm, "warm")
        seconds = timed_import(site, tree, "bench")
    print(f"{count} adapters, {size / 1e6:.1f} MB, {SAMPLES} samples each; load average {os.getloadavg()[0]:.1f}")
    for what, total in (
        ("floor: copy, sha256, fsync", copied),
        ("import_folder", seconds.taken_in),
        ("  its CPU time", seconds.command_cpu),
        ("until all are ready", seconds.ready),
        ("  CPU time of the worker", seconds.worker_cpu),
    ):
        print(f"{what:28} {total:7.1f} s  {total / count * 1000:8.1f} ms per adapter")


if __name__ == "__main__":
    main()
