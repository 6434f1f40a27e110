"""Upload of a large adapter over HTTP, on files and on S3, beside boto3's `upload_file` of the same file.

A real gunicorn as config/gunicorn.py sets it up, a real SeaweedFS, all on loopback. Seconds are the client's, from the
first byte sent to the answer; boto3 gets the same part size and number of threads as Loradex gives itself. The web
process's resident memory is sampled every 20 ms; its growth is the peak above what it had after a small upload (bar
64 MB).
"""

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from boto3.s3.transfer import TransferConfig

from registry.stores.s3 import PART_BYTES, PART_THREADS
from tests.journeys.server import Site, running_site
from tests.lora.factories import adapter_config, write_adapter_files
from tests.services.seaweed import SeaweedFS, running_seaweedfs

WEIGHTS = "adapter_model.safetensors"
RANK, DIM = 256, 4096
MODULE_BYTES = 2 * RANK * DIM * 4
CHUNK_BYTES = 1024**2
BOUNDARY = "loradex-bench"


def write_large_adapter(folder: Path, size_mb: int, seed: int) -> Path:
    """A PEFT folder whose weights have about `size_mb` MB of random float32."""
    names = [f"model.layers.{number}.mlp.up_proj" for number in range(max(1, size_mb * 10**6 // MODULE_BYTES))]
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config(dict.fromkeys(names, (DIM, DIM)), RANK)))
    shapes = {"lora_A": [RANK, DIM], "lora_B": [DIM, RANK]}
    header, start = {}, 0
    for name in names:
        for factor, shape in shapes.items():
            end = start + MODULE_BYTES // 2
            key = f"base_model.model.{name}.{factor}.weight"
            header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
            start = end
    raw = json.dumps(header).encode()
    random = np.random.default_rng(seed)
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for _ in names:
            file.write(random.standard_normal(MODULE_BYTES // 4, dtype=np.float32).tobytes())
    return folder


def upload(site: Site, token: str, name: str, folder: Path) -> float:
    """Seconds of one POST /adapters/, its body streamed from disk."""
    fields = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="name"\r\n\r\n{name}\r\n'.encode()]
    for file in ("adapter_config.json", WEIGHTS):
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{file}"; filename="{file}"\r\n\r\n'
        fields += [head.encode(), folder / file, b"\r\n"]
    fields.append(f"--{BOUNDARY}--\r\n".encode())
    size = sum(len(part) if isinstance(part, bytes) else part.stat().st_size for part in fields)
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(size),
    }
    connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=600)
    started = time.perf_counter()
    connection.request("POST", "/api/v1/adapters/", body=_streamed(fields), headers=headers)
    answer = connection.getresponse()
    text = answer.read()
    took = time.perf_counter() - started
    assert answer.status == 202, text
    return took


def _streamed(fields: list[bytes | Path]) -> Iterator[bytes]:
    for part in fields:
        if isinstance(part, bytes):
            yield part
            continue
        with part.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


@contextmanager
def memory_watched(site: Site) -> Iterator[list[int]]:
    """Fills the list with the web process's growth of resident memory in bytes, as a last element its peak."""
    [worker] = psutil.Process(site.processes[0].pid).children()
    before, growth, done = worker.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            growth[0] = max(growth[0], worker.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield growth
    finally:
        done.set()
        thread.join()


def measure(scratch: Path, env: dict[str, str], folder: Path) -> tuple[float, float]:
    """(seconds, MB of growth) of one upload to a site with this environment."""
    with running_site(scratch / "data", worker=False, **env) as site:
        token = site.create_token("ada")
        upload(site, token, "ada/small", write_adapter_files(scratch / "small"))
        with memory_watched(site) as growth:
            took = upload(site, token, "ada/large", folder)
        return took, growth[0] / 1e6


def raw_boto3(server: SeaweedFS, path: Path) -> float:
    """Seconds of boto3's own upload of a file."""
    client, bucket = server.client(), server.make_bucket()
    settings = TransferConfig(
        multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=PART_THREADS
    )
    started = time.perf_counter()
    client.upload_file(str(path), bucket, "raw", Config=settings)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--dir", type=Path, help="where everything is written, if not in the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as folder, running_seaweedfs() as server:
        scratch = Path(folder)
        large = write_large_adapter(scratch / "large", options.mb, seed=0)
        size_mb = (large / WEIGHTS).stat().st_size / 1e6
        raw = raw_boto3(server, large / WEIGHTS)
        files, files_growth = measure(scratch / "files", {}, large)
        s3, s3_growth = measure(scratch / "s3", server.env(server.make_bucket()), large)
    print(f"{size_mb:.0f} MB, boto3 upload_file ({PART_THREADS} threads x {PART_BYTES >> 20} MiB): {raw:.2f} s")
    print(f"over HTTP on files: {files:.2f} s, web process +{files_growth:.0f} MB (bar 64)")
    print(f"over HTTP on S3: {s3:.2f} s, {s3 / raw:.2f}x boto3 alone, web process +{s3_growth:.0f} MB (bar 64)")


if __name__ == "__main__":
    main()
