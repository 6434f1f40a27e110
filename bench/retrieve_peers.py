"""What `bench.retrieve` measures, on Chroma or Milvus Lite: run by it in .venv-peers, never by hand."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.retrieve import Ask, K, measure
from tests.journeys.server import free_port

PART = 1000


def encoder() -> Any:
    from retrieval.encoders import current_encoder

    return current_encoder()


@contextmanager
def chroma(folder: Path, vectors: np.ndarray) -> Iterator[Any]:
    """Yields: what makes a client of a Chroma server that holds the vectors."""
    import chromadb

    port = free_port()
    command = [str(Path(sys.prefix) / "bin" / "chroma"), "run", "--path", str(folder / "chroma"), "--port", str(port)]
    with (folder / "chroma.log").open("wb") as log:
        server = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=log, stderr=log)
    try:
        settings = chromadb.Settings(anonymized_telemetry=False)
        collection = _connected(lambda: chromadb.HttpClient("127.0.0.1", port, settings=settings))
        made = collection.create_collection("experts", metadata={"hnsw:space": "ip"}, embedding_function=None)
        for start in range(0, len(vectors), PART):
            part = vectors[start : start + PART]
            made.add(ids=[str(start + place) for place in range(len(part))], embeddings=part)

        def client() -> Ask:
            own = chromadb.HttpClient("127.0.0.1", port, settings=settings)
            experts = own.get_collection("experts", embedding_function=None)

            def ask(text: str) -> None:
                found = experts.query(query_embeddings=encoder().encode([text]), n_results=K, include=["distances"])
                assert len(found["ids"][0]) == K

            return ask

        yield client
    finally:
        server.terminate()
        server.wait(30)


def _connected(connect: Any) -> Any:
    deadline = time.monotonic() + 120
    while True:
        try:
            return connect()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextmanager
def milvus_lite(folder: Path, vectors: np.ndarray) -> Iterator[Any]:
    """Yields: what makes a client of Milvus Lite, which runs in a process beside this one."""
    from pymilvus import MilvusClient

    server = MilvusClient(str(folder / "milvus.db"))
    server.create_collection("experts", dimension=vectors.shape[1], metric_type="IP", auto_id=False)
    for start in range(0, len(vectors), PART):
        part = vectors[start : start + PART].tolist()
        server.insert("experts", [{"id": start + place, "vector": row} for place, row in enumerate(part)])
    server.load_collection("experts")

    def client() -> Ask:
        def ask(text: str) -> None:
            [found] = server.search("experts", data=encoder().encode([text]).tolist(), limit=K)
            assert len(found) == K

        return ask

    yield client
    server.close()


def main() -> None:
    name, given = sys.argv[1], Path(sys.argv[2])
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DATA_DIR"] = scratch
        texts, vectors = json.loads((given / "texts.json").read_text()), np.load(given / "vectors.npy")
        peer = {"chroma": chroma, "milvus-lite": milvus_lite}[name]
        with peer(Path(scratch), vectors) as client:
            found = measure({"chroma": "Chroma", "milvus-lite": "Milvus Lite"}[name], client, texts)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
