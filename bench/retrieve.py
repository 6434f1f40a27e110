"""POST /retrieve/ at 100, 10,000 and 100,000 experts, 1 and 32 clients, beside encode + matrix product, Chroma, Milvus.

Bars at 10,000 experts: p50 of one client at most 1.3 times that in process, 32 clients at least 3 times as many answers
per second as one. With --peers the same texts are embedded by the same encoder, in a process that then asks a Chroma
server, or Milvus Lite: `make bench-peers`.
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.journeys.server import Site, running_site
from tests.retrieval.dataset import load_tasks

WARM_UP = 20
CLIENTS = 32
K = 3
PEERS = Path(__file__).resolve().parents[1] / ".venv-peers" / "bin" / "python"

Ask = Callable[[str], None]


def load_texts(count: int, max_chars: int) -> list[str]:
    """Queries of real tasks, as many as there are at most."""
    queries = [query for task in load_tasks(core_only=True) for query in task.queries]
    queries = [query for query in queries if len(query) <= max_chars]
    return random.Random(0).sample(queries, min(count, len(queries)))


def expert_vectors(count: int, texts: list[str]) -> np.ndarray:
    """Unit rows (count, dim) scattered around real texts, as far from them as experts of one task are."""
    from retrieval.encoders import current_encoder

    around = current_encoder().encode(texts)
    draw = np.random.default_rng(0)
    rows = around[draw.integers(0, len(around), count)]
    noise = draw.normal(size=rows.shape).astype(np.float32)
    rows = rows + 0.7 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")


def write_experts(vectors: np.ndarray, described: dict[str, Any]) -> None:
    """Rows of experts with these centroids, as if that many uploads had been admitted, and their snapshot.

    Args:
        described: the columns of their space.
    """
    from django.contrib.auth import get_user_model
    from django.db import transaction
    from django.db.models import OuterRef, Subquery

    from registry.changes import next_seq
    from registry.models import Adapter, Namespace, Revision
    from retrieval.encoders import current_encoder
    from retrieval.models import Prototype, Space
    from retrieval.snapshots import build_if_due

    space = Space.objects.create(pk=current_encoder().space_id, **described)
    owner = get_user_model().objects.create_user("bench")
    names = [f"expert-{number:07}" for number in range(len(vectors))]
    with transaction.atomic():
        namespace = Namespace.objects.create(name="bench", key="bench", owner=owner)
        columns = {"namespace": namespace, "base_model": "org/base", "tags": ["any"], "change_seq": next_seq()}
        paths = [f"bench/{name}" for name in names]
        adapters = Adapter.objects.bulk_create(
            [Adapter(name=name, full_name=path, key=path, **columns) for name, path in zip(names, paths, strict=True)]
        )
        revisions = Revision.objects.bulk_create(
            [Revision(adapter=adapter, commit=f"{place:040x}", state="ready") for place, adapter in enumerate(adapters)]
        )
        own = Revision.objects.filter(adapter=OuterRef("pk")).values("pk")[:1]
        Adapter.objects.update(head=Subquery(own))
        shape = {"kind": "centroid", "space": space, "count": 1, "dim": vectors.shape[1]}
        Prototype.objects.bulk_create(
            Prototype(revision=revision, vectors=vector.tobytes(), **shape)
            for revision, vector in zip(revisions, vectors, strict=True)
        )
    build_if_due()


class KeptAlive:
    """One client on one connection, without the cost of a comfortable library."""

    def __init__(self, site: Site) -> None:
        self.connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=300)

    def __call__(self, text: str) -> None:
        body = json.dumps({"text": text, "router": "lora_retriever", "k": K})
        self.connection.request("POST", "/api/v1/retrieve/", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        payload = answer.read()
        assert answer.status == 200, payload
        assert len(json.loads(payload)["results"][0]["matches"]) == K


def in_process(vectors: np.ndarray) -> Ask:
    """Embed, multiply, take the best: what no server can do without."""
    from retrieval.encoders import current_encoder

    def ask(text: str) -> None:
        [query] = current_encoder().encode([text])
        best = np.argpartition(vectors @ query, -K)[-K:]
        assert len(best) == K

    return ask


def latencies(asks: list[Ask], texts: list[str]) -> list[list[float]]:
    """Milliseconds of every text by each, in turns, so that all see the same machine."""
    for text in texts[:WARM_UP]:
        for ask in asks:
            ask(text)
    found: list[list[float]] = [[] for _ in asks]
    for text in texts:
        for ask, times in zip(asks, found, strict=True):
            started = time.perf_counter()
            ask(text)
            times.append((time.perf_counter() - started) * 1000)
    return found


def throughput(make_client: Callable[[], Ask], texts: list[str], clients: int) -> float:
    """Answers per second of so many clients, each of which asks for the next text once it has an answer."""
    ready = threading.Barrier(clients + 1)
    todo, taking = iter(texts), threading.Lock()
    errors: list[BaseException] = []

    def run(first: str) -> None:
        try:
            ask = make_client()
            ask(first)
            ready.wait()
            while (text := take()) is not None:
                ask(text)
        except BaseException as error:
            errors.append(error)
            ready.abort()
            raise

    def take() -> str | None:
        with taking:
            return next(todo, None)

    threads = [threading.Thread(target=run, args=(text,)) for text in texts[:clients]]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    assert not errors
    return len(texts) / (time.perf_counter() - started)


def row(name: str, times: list[float], one: float, many: float) -> dict[str, Any]:
    p50, p99 = np.percentile(times, [50, 99])
    return {"what": name, "p50_ms": float(p50), "p99_ms": float(p99), "one": one, "many": many}


def measure(name: str, make_client: Callable[[], Ask], texts: list[str]) -> dict[str, Any]:
    """The row of something that is asked alone."""
    [times] = latencies([make_client()], texts)
    return row(name, times, throughput(make_client, texts, 1), throughput(make_client, texts * 2, CLIENTS))


def measure_site(site: Site, vectors: np.ndarray, texts: list[str]) -> list[dict[str, Any]]:
    floor = in_process(vectors)
    over_http, inside = latencies([KeptAlive(site), floor], texts)
    rows = []
    makers: list[tuple[str, list[float], Callable[[], Ask]]] = [
        ("in process", inside, lambda: floor),
        ("Loradex", over_http, lambda: KeptAlive(site)),
    ]
    for name, times, make in makers:
        rows.append(row(name, times, throughput(make, texts, 1), throughput(make, texts * 2, CLIENTS)))
    return rows


def measure_peers(folder: Path, texts: list[str]) -> list[dict[str, Any]]:
    """The rows of Chroma and Milvus Lite, measured one after the other by processes of their environment."""
    (folder / "texts.json").write_text(json.dumps(texts))
    rows = []
    for peer in ("chroma", "milvus-lite"):
        command = [str(PEERS), "-m", "bench.retrieve_peers", peer, str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=PEERS.parents[2])
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def show(experts: int, rows: list[dict[str, Any]]) -> None:
    floor = rows[0]["p50_ms"]
    for found in rows:
        print(
            f"| {experts:>7} | {found['what']:<11} | {found['p50_ms']:6.1f} | {found['p99_ms']:6.1f} | "
            f"{found['p50_ms'] / floor:4.2f} | {found['one']:6.1f} | {found['many']:6.1f} | "
            f"{found['many'] / found['one']:4.1f} |",
            flush=True,
        )


def run(experts: int, texts: list[str], *, peers: bool) -> None:
    """Measure at one size, in a DATA_DIR of its own. Call once per process: Django is told of it."""
    cores = str(os.cpu_count())
    # As `manage.py serve` runs it.
    served = {"OMP_NUM_THREADS": cores, "OMP_WAIT_POLICY": "PASSIVE"}
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder) / "data", worker=False, **served) as site:
        os.environ.update(site.env)
        import django

        django.setup()
        from retrieval.encoders import current_encoder

        vectors = expert_vectors(experts, load_texts(500, 2000))
        write_experts(vectors, current_encoder().describe())
        rows = measure_site(site, vectors, texts)
        site.stop()
        site.env["WEB_CONCURRENCY"] = cores
        del site.env["OMP_NUM_THREADS"]  # config/gunicorn.py has the processes share the cores
        site.start_web()
        rows.append(measure(f"{cores} processes", lambda: KeptAlive(site), texts))
        site.stop()
        if peers:
            np.save(Path(folder) / "vectors.npy", vectors)
            rows += measure_peers(Path(folder), texts)
        show(experts, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--max-chars", type=int, default=120, help="length of the longest query")
    parser.add_argument("--peers", action="store_true", help="Chroma and Milvus Lite, too")
    options = parser.parse_args()
    if options.peers and not PEERS.exists():
        parser.error("the peers are not installed: make bench-peers")
    if len(options.experts) == 1:
        run(options.experts[0], load_texts(options.queries, options.max_chars), peers=options.peers)
        return
    print("| experts | what        | p50 ms | p99 ms | × floor | 1 client /s | 32 clients /s | 32 over 1 |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for experts in options.experts:
        others = ["--queries", str(options.queries), "--max-chars", str(options.max_chars)]
        more = [*others, *(["--peers"] if options.peers else [])]
        subprocess.run([sys.executable, "-m", "bench.retrieve", "--experts", str(experts), *more], check=True)


if __name__ == "__main__":
    main()
