"""What an expert costs: bytes in the database, in every web process and in the index, and CPU to read and to find it.

docs/howto/scale-out.md multiplies these. CPU time, so that a busy machine gives the same figures.
"""

import argparse
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

DIM = 384
GRAPH = 1000


def cpu_s(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def prepare(folder: str) -> None:
    os.environ |= {"DATA_DIR": folder, "DJANGO_SETTINGS_MODULE": "config.settings"}
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def database_bytes() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        return pages * cursor.execute("PRAGMA page_size").fetchone()[0]


def pool_costs(space: str) -> tuple[float, float]:
    """Bytes, and CPU seconds of reading it, of a pool."""
    from retrieval.pool import Pool

    seconds = cpu_s(lambda: Pool(space).refreshed())
    tracemalloc.start()
    pool = Pool(space).refreshed()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(pool)
    return held, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=20_000)
    count = parser.parse_args().experts
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        from bench.retrieve import load_texts, write_experts
        from retrieval.encoders import current_encoder
        from retrieval.index import VectorIndex

        vectors = np.random.default_rng(0).normal(size=(count, DIM)).astype("<f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        before = database_bytes()
        write_experts(vectors, {"encoder": "bench", "revision": "0" * 64, "dim": DIM, "max_tokens": 256})
        print(f"{count} experts with one tag and a vector of {DIM}, without samples, on SQLite")
        print(f"database {(database_bytes() - before) / count:.0f} bytes per expert")
        held, reading = pool_costs(current_encoder().space_id)
        print(f"web process {held / count:.0f} bytes per expert, {reading / count * 1e6:.0f} µs CPU to read it")
        path = Path(folder) / "it.faiss"
        for graph in (False, True):
            VectorIndex.build([(np.arange(GRAPH), vectors[:GRAPH])], graph=graph).write(path)
            print(f"index {path.stat().st_size / GRAPH:.0f} bytes per vector, {'with' if graph else 'without'} a graph")
        texts = load_texts(200, 120)
        current_encoder().encode(texts)
        alone = cpu_s(lambda: [current_encoder().encode([text]) for text in texts]) / len(texts)
        together = cpu_s(lambda: current_encoder().encode(texts)) / len(texts)
    print(f"encoder {alone * 1e3:.1f} ms CPU per text alone, {together * 1e3:.1f} ms among others")


if __name__ == "__main__":
    main()
