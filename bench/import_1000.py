"""1,000 small adapters through `manage.py import_folder` and a real worker: time per adapter, beside a plain copy."""

import argparse
import hashlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.journeys.server import ROOT, Site, running_site, wait_for
from tests.lora.factories import write_adapter_files

SAMPLES = 10
WORKER_WAIT_S = 60


def write_tree(root: Path, count: int) -> int:
    """`count` folders with an adapter and samples each. Returns: their size in bytes."""
    for number in range(count):
        folder = write_adapter_files(root / f"adapter-{number:04}", seed=number)
        lines = [f'{{"input": "Question {number} of kind {sample}?"}}\n' for sample in range(SAMPLES)]
        (folder / "samples.jsonl").write_text("".join(lines))
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def floor(root: Path, target: Path) -> float:
    """Seconds to copy every file and hash the copy: what importing cannot do without."""
    started = time.perf_counter()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            with copy.open("rb") as file:
                hashlib.file_digest(file, "sha256")
    return time.perf_counter() - started


def heard_from(site: Site) -> bool:
    with closing(sqlite3.connect(site.data_dir / "db.sqlite3")) as database:
        return database.execute("SELECT count(*) FROM registry_workerheartbeat").fetchone() > (0,)


def timed_import(site: Site, root: Path) -> tuple[float, float]:
    """Seconds until every folder was taken in, and until every job was done."""
    started = time.perf_counter()
    taken_in = 0.0
    command = [sys.executable, "manage.py", "import_folder", str(root), "--owner", "bench", "--wait"]
    with subprocess.Popen(command, cwd=ROOT, env=site.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("importing"):
                taken_in = time.perf_counter() - started
        last = line
    print(last.strip())
    assert process.returncode == 0
    assert ", 0 checking, 0 refused" in last
    return taken_in, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapters", type=int, default=1000)
    count = parser.parse_args().adapters
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder) / "data") as site:
        root = Path(folder) / "tree"
        size = write_tree(root, count)
        copied = floor(root, Path(folder) / "copy")
        wait_for(lambda: heard_from(site), WORKER_WAIT_S, "a worker")
        taken_in, whole = timed_import(site, root)
    print(f"{count} adapters, {size / 1e6:.1f} MB, {SAMPLES} samples each")
    print(f"floor, copy and sha256:  {copied:7.1f} s  {copied / count * 1000:8.1f} ms per adapter")
    print(f"import_folder:           {taken_in:7.1f} s  {taken_in / count * 1000:8.1f} ms per adapter")
    print(f"until all are ready:     {whole:7.1f} s  {whole / count * 1000:8.1f} ms per adapter")


if __name__ == "__main__":
    main()
