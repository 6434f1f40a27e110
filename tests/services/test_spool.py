"""The disk on which the web process takes in uploads: full, or left by a client that hung up."""

import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.journeys.server import Client, Site, running_site, wait_for
from tests.lora.factories import write_adapter_files

pytestmark = pytest.mark.journey
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), worker=False) as running:
        yield running


@pytest.fixture(scope="module")
def ada(site: Site) -> Client:
    return site.client(site.create_token("ada"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An adapter of 12 MiB."""
    wide = {f"model.layers.{number}.self_attn.q_proj": (1024, 1024) for number in range(12)}
    return write_adapter_files(tmp_path_factory.mktemp("wide"), modules=wide, rank=128)


@contextmanager
def files_limited_to(site: Site, size_bytes: int) -> Iterator[None]:
    """No web process can make a file grow beyond this: to the one that writes, the disk is full."""
    workers = [child.pid for process in site.processes for child in psutil.Process(process.pid).children()]
    assert workers
    limits = [resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY)) for pid in workers]
    try:
        yield
    finally:
        for pid, limit in zip(workers, limits, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


def spooled(site: Site) -> list[Path]:
    return list((site.data_dir / "incoming").iterdir())


def test_a_full_disk_is_a_503_that_leaves_nothing_behind(site, ada, folder):
    """I1, I10: nothing registered, nothing spooled; the same request succeeds once there is room."""
    with files_limited_to(site, 4 * 1024**2):
        refused = ada.another().upload("ada/wide", folder)
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert "disk is full" in refused.json()["message"]
        assert int(refused.headers["Retry-After"]) > 0
        assert spooled(site) == []
        assert ada.get("/adapters/ada/wide/").status_code == 404
    assert ada.another().upload("ada/wide", folder).status_code == 202
    assert spooled(site) == []


def test_what_a_client_sent_before_it_hung_up_is_removed(site, ada, folder):
    """I8: a part that is half there is nobody's."""
    host, port = site.url.removeprefix("http://").split(":")
    head = (
        f"POST /api/v1/adapters/ HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {ada.token}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 99999999\r\n\r\n"
        f'--x\r\nContent-Disposition: form-data; name="{WEIGHTS}"; filename="{WEIGHTS}"\r\n\r\n'
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + (folder / WEIGHTS).read_bytes())
        wait_for(lambda: any(path.stat().st_size > 1024**2 for path in spooled(site)), 30, "bytes in the spool")
    wait_for(lambda: spooled(site) == [], 30, "the spool to be empty")
    assert ada.another().get("/base-models/").status_code == 200
