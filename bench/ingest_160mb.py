"""Ingest of a 160 MB adapter (7B shapes, rank 16, float32) end to end, and the memory that web and worker need for it.

A real site and a real worker, on files and SQLite unless the environment names services. Both are warm: each has its
encoder loaded. The floor, measured in the same run, is what nobody can avoid: read the file, hash it, write a copy.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.shapes import write_adapter_7b
from tests.journeys.server import Client, Site, running_site
from tests.lora.factories import write_adapter_files

MB = 1e6
SAMPLE_S = 0.02
WARM = "the text that warms both encoders"


class PeakMemory:
    """The largest sum of resident memory of a process and all below it, sampled."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.before = self._now()
        self.peak = self.before

    def _now(self) -> int:
        total = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def sample(self) -> None:
        self.peak = max(self.peak, self._now())

    def __str__(self) -> str:
        return f"{self.before / MB:.0f} → {self.peak / MB:.0f} MB (+{(self.peak - self.before) / MB:.0f})"


@contextmanager
def watched(memories: list[PeakMemory]) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            for memory in memories:
                memory.sample()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def floor_s(path: Path, copy: Path) -> float:
    """Read, hash and write the file once, in chunks."""
    started = time.perf_counter()
    digest = hashlib.sha256()
    with path.open("rb") as source, copy.open("wb") as target:
        while chunk := source.read(1024 * 1024):
            digest.update(chunk)
            target.write(chunk)
    return time.perf_counter() - started


def ingest(client: Client, name: str, folder: Path, text: str) -> dict[str, float]:
    """Seconds per phase, on the client's clock but for what the job's row says about itself."""
    (folder / "samples.jsonl").write_text(json.dumps({"input": text}) + "\n")
    files = {path.name: (path.name, path.read_bytes()) for path in folder.iterdir()}
    url = client.base + "/adapters/"
    # Encoded before the clock starts: a client streams.
    request = client.session.prepare_request(requests.Request("POST", url, files=files, data={"name": name}))
    started = time.perf_counter()
    answer = client.session.send(request, timeout=600)
    uploaded = time.perf_counter()
    assert answer.status_code == 202, answer.text
    job = client.finished(answer.json()["job"], 600)
    succeeded = time.perf_counter()
    assert job["status"] == "succeeded", job
    while name not in found(client, text):
        assert time.perf_counter() - succeeded < 60
    retrievable = time.perf_counter()
    return {
        "upload": uploaded - started,
        "wait": between(job, "queued_at", "started_at"),
        "job": between(job, "started_at", "finished_at"),
        "retrievable": retrievable - succeeded,
        "all": retrievable - started,
    }


def between(job: dict[str, str], first: str, second: str) -> float:
    start, end = (datetime.fromisoformat(job[name]) for name in (first, second))
    return (end - start).total_seconds()


def found(client: Client, text: str) -> list[str]:
    [result] = client.post("/retrieve/", json={"text": text, "k": 1}).json()["results"]
    return [match["adapter"] for match in result["matches"]]


def measure(site: Site, scratch: Path, rounds: int, layers: int) -> None:
    client = site.client(site.create_token("ada"))
    client.upload_ready("ada/warm", write_adapter_files(scratch / "warm", seed=1), samples=[WARM])
    found(client, WARM)
    worker, web = (PeakMemory(process.pid) for process in site.processes)
    phases, floors = [], []
    for number in range(rounds):
        folder = write_adapter_7b(scratch / f"adapter-{number}", layers=layers, seed=number)
        weights = folder / "adapter_model.safetensors"
        size_mb = weights.stat().st_size / MB
        floors.append(floor_s(weights, scratch / "copy"))
        with watched([worker, web]):
            phases.append(ingest(client, f"ada/large-{number}", folder, f"question {number}"))
    print(f"{size_mb:.0f} MB, {rounds} rounds, medians")
    for name in phases[0]:
        print(f"  {name:12} {statistics.median(phase[name] for phase in phases):7.2f} s")
    floor, whole = statistics.median(floors), statistics.median(phase["all"] for phase in phases)
    print(f"  floor        {floor:7.2f} s (read, sha256, copy); end to end is {whole / floor:.1f} times that")
    print(f"  web          {web}\n  worker       {worker}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=32, help="32 make 160 MB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, running_site(Path(scratch) / "data") as site:
        measure(site, Path(scratch), options.rounds, options.layers)


if __name__ == "__main__":
    main()
