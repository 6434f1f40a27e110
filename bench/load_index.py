"""How long an index of 1,000,000 vectors takes to load from its file (bar: 10 s), the memory it takes, and a search.

The file is read as every web process reads it: its digest is checked, then it is mapped into memory. The vectors are
scattered around 2,000 places. Building the graph takes most of an hour on two cores; without --graph search is exact.
"""

import argparse
import hashlib
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from retrieval.index import VectorIndex

DIM = 384
PART = 10_000
QUERIES = 20


def scattered(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and unit rows, in parts."""
    places = np.random.default_rng(0).normal(size=(2000, DIM)).astype(np.float32)
    draw = np.random.default_rng(seed)
    for start in range(0, count, PART):
        ids = np.arange(start, min(start + PART, count))
        rows = places[draw.integers(0, len(places), len(ids))] + 0.7 * draw.normal(size=(len(ids), DIM))
        yield ids, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def own_memory() -> float:
    """MB that belong to this process alone: what is mapped from files is shared."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))) / 1024


def search_ms(index: VectorIndex, queries: np.ndarray, share: float) -> float:
    """Median of a search for the 22 best, as `/retrieve/` with k = 3 asks for, among a share of all."""
    selected = index.select(np.flatnonzero(np.random.default_rng(1).random(len(index)) < share))
    times = []
    for query in queries:
        started = time.perf_counter()
        index.search(query, 22, selected)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000


def build(path: Path, count: int, *, graph: bool) -> int | None:
    """Write the file in a process of its own. Returns: the candidates that its graph needs."""
    started = time.perf_counter()
    index = VectorIndex.build(scattered(count, 1), graph=graph)
    if graph:
        [(_, queries)] = scattered(256, 2)
        print(f"recall@10 {index.tune(queries):.4f} with {index.candidates} candidates")
    index.write(path)
    print(f"built and written in {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1e9:.2f} GB", flush=True)
    return index.candidates


def load(path: Path, candidates: int | None) -> None:
    before = own_memory()
    started, cpu = time.perf_counter(), time.process_time()
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256")
    checked = time.perf_counter()
    index = VectorIndex.read(path, candidates)
    loaded, cpu = time.perf_counter(), time.process_time() - cpu
    print(
        f"{len(index)} vectors of {index.dim} in {loaded - started:.2f} s, {cpu:.2f} s of CPU: "
        f"digest {checked - started:.2f} s, mapping {loaded - checked:.2f} s"
    )
    [(_, queries)] = scattered(QUERIES, 2)
    found = {share: search_ms(index, queries, share) for share in (1.0, 0.1, 0.01)}
    print(", ".join(f"search of {share:.0%} {ms:.2f} ms" for share, ms in found.items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"own memory grew by {own_memory() - before:.0f} MB; peak with what is mapped {peak:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--graph", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            found = build(path, options.vectors, graph=options.graph)
            os.write(write, str(found or "").encode())
            os._exit(0)
        os.close(write)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("building failed")
        told = os.read(read, 20).decode()
        load(path, int(told) if told else None)


if __name__ == "__main__":
    main()
