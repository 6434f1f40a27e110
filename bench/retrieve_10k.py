"""POST /retrieve/ at 10,000 experts: p50 against encode + search in process (1.3x), 32 clients against 1 (3x)."""

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.journeys.server import Site, running_site
from tests.retrieval.dataset import load_tasks

DIM = 384
WARM_UP = 20
CLIENTS = 32


def write_experts(count: int) -> None:
    """Rows of experts with random centroids, as if that many uploads had been admitted, and their snapshot."""
    import numpy as np
    from django.contrib.auth import get_user_model
    from django.db import transaction

    from registry.changes import next_seq
    from registry.models import Adapter, Namespace, Revision
    from retrieval.encoders import current_encoder
    from retrieval.models import Prototype, Space
    from retrieval.snapshots import build_if_due

    encoder = current_encoder()
    space = Space.objects.create(pk=encoder.space_id, **encoder.describe())
    vectors = np.random.default_rng(0).normal(size=(count, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4")
    with transaction.atomic():
        namespace = Namespace.objects.create(
            name="bench", key="bench", owner=get_user_model().objects.create_user("bench")
        )
        seq = next_seq()
        names = [f"bench/expert-{number:05}" for number in range(count)]
        adapters = Adapter.objects.bulk_create(
            [
                Adapter(
                    namespace=namespace,
                    name=name[6:],
                    full_name=name,
                    key=name,
                    base_model=f"org/base-{number % 5}",
                    tags=["even" if number % 2 == 0 else "odd"],
                    change_seq=seq,
                )
                for number, name in enumerate(names)
            ]
        )
        revisions = Revision.objects.bulk_create(
            [
                Revision(adapter=adapter, commit=f"{number:040x}", state="ready")
                for number, adapter in enumerate(adapters)
            ]
        )
        for adapter, revision in zip(adapters, revisions, strict=True):
            adapter.head = revision
        Adapter.objects.bulk_update(adapters, ["head"], batch_size=500)
        Prototype.objects.bulk_create(
            [
                Prototype(revision=revision, kind="centroid", space=space, count=1, dim=DIM, vectors=vector.tobytes())
                for revision, vector in zip(revisions, vectors, strict=True)
            ]
        )
    build_if_due()


class KeptAlive:
    """One client on one connection, without the cost of a comfortable library."""

    def __init__(self, site: Site) -> None:
        self.connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=120)

    def ask(self, text: str) -> None:
        body = json.dumps({"text": text})
        self.connection.request("POST", "/api/v1/retrieve/", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        payload = answer.read()
        assert answer.status == 200, payload
        assert len(json.loads(payload)["results"][0]["matches"]) == 3


def ask_in_process(text: str) -> None:
    from retrieval.encoders import current_encoder
    from retrieval.live import current_view

    [query] = current_encoder().encode([text])
    view = current_view()
    rows, _ = view.search(query, 3, view.select(None))
    assert len(rows) == 3


def timed_ms(call, text: str) -> float:
    started = time.perf_counter()
    call(text)
    return (time.perf_counter() - started) * 1000


def latency(site: Site, texts: list[str]) -> tuple[float, float]:
    """p50 in ms over HTTP and in process, taken in turns so that both see the same machine."""
    client = KeptAlive(site)
    for text in texts[:WARM_UP]:
        client.ask(text)
        ask_in_process(text)
    over_http, in_process = [], []
    for text in texts:
        over_http.append(timed_ms(client.ask, text))
        in_process.append(timed_ms(ask_in_process, text))
    return statistics.median(over_http), statistics.median(in_process)


def throughput(site: Site, texts: list[str], clients: int) -> float:
    """Answers per second of so many clients, each on its own connection."""
    shares = [texts[number::clients] for number in range(clients)]
    ready = threading.Barrier(clients + 1)

    def run(share: list[str]) -> None:
        client = KeptAlive(site)
        client.ask(share[0])
        ready.wait()
        for text in share:
            client.ask(text)

    threads = [threading.Thread(target=run, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    return len(texts) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--max-chars", type=int, default=120, help="length of the longest query")
    options = parser.parse_args()
    queries = [query for task in load_tasks(core_only=True) for query in task.queries]
    queries = [query for query in queries if len(query) <= options.max_chars]
    texts = random.Random(0).sample(queries, options.queries)
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder) / "data", worker=False) as site:
        os.environ.update(site.env)
        import django

        django.setup()
        write_experts(options.experts)
        over_http, in_process = latency(site, texts)
        ratio = over_http / in_process
        print(f"{options.experts} experts, {options.queries} queries, one client on a kept connection")
        print(
            f"p50 over HTTP {over_http:.2f} ms, encode + search in process {in_process:.2f} ms: {ratio:.2f}x (bar 1.3x)"
        )
        one = throughput(site, texts, 1)
        many = throughput(site, texts * 4, CLIENTS)
        print(f"1 client {one:.1f} answers/s, {CLIENTS} clients {many:.1f} answers/s: {many / one:.2f}x (bar 3x)")


if __name__ == "__main__":
    main()
