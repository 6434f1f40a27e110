"""S3 that errs, stalls, breaks off or lies: retried or failed cleanly, never used."""

import hashlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from registry.errors import BlobDamaged, StoreUnavailable
from registry.models import Blob
from registry.storage import check_blob, local_path, put_bytes, put_file, read_blob, store
from registry.stores import s3
from registry.stores.s3 import PART_BYTES
from tests.services.fault_proxy import (
    Handler,
    Proxy,
    answer,
    answer_after_all,
    drip,
    drop,
    flip_bit,
    flip_sent_bit,
    running_proxy,
    truncate,
    wait,
)
from tests.services.seaweed import SeaweedFS, use_store

pytestmark = pytest.mark.django_db

DATA = os.urandom(100_000)
READ_TIMEOUT_S = 2


@pytest.fixture
def proxy(seaweed: SeaweedFS, settings, monkeypatch) -> Iterator[Proxy]:
    """What stands between this process and its bucket."""
    with running_proxy(seaweed.url) as between:
        use_store(settings, monkeypatch, seaweed.env(seaweed.make_bucket(), between.url))
        yield between


@pytest.fixture
def blob(proxy: Proxy, seaweed: SeaweedFS, settings, monkeypatch) -> Blob:
    """A small stored file; what this process does not get of it within two seconds it asks for again."""
    stored = put_bytes(DATA)
    env = seaweed.env(store().bucket, proxy.url)
    use_store(settings, monkeypatch, env, read_timeout_s=READ_TIMEOUT_S)
    return stored


def half(size: int) -> int:
    return size // 2


def all_but_one(size: int) -> int:
    return size - 1


PASSING = {
    "500": answer(500),
    "503": answer(503),
    "reset": drop,
    "truncated at half": truncate(half),
    "truncated by one byte": truncate(all_but_one),
    "one bit flipped": flip_bit,
    "no answer in time": wait(READ_TIMEOUT_S + 1),
    "stalls in the body": drip(READ_TIMEOUT_S + 1),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_read_survives_what_passes(proxy, blob, fault):
    """I1: the bytes that are used are the ones that were stored."""
    proxy.inject(PASSING[fault], methods="GET", count=1)
    with local_path(blob) as path:
        assert path.read_bytes() == DATA
    assert [method for method, _ in proxy.seen].count("GET") > 1


@pytest.mark.parametrize("fault", PASSING)
def test_what_lasts_fails_and_is_never_used(proxy, blob, fault, settings):
    """I1, I10: an error that says to try again, within a bound, nothing left on the disk; and then it works again."""
    proxy.inject(PASSING[fault], methods="GET")
    wrong_bytes = fault == "one bit flipped"
    started = time.monotonic()
    with pytest.raises(BlobDamaged if wrong_bytes else StoreUnavailable), local_path(blob):
        raise AssertionError("used")
    assert time.monotonic() - started < 120
    assert list(settings.SCRATCH_DIR.iterdir()) == []
    proxy.heal()
    assert read_blob(blob) == DATA


def test_a_read_that_trickles_is_given_up(proxy, blob, monkeypatch):
    """I10: it never times out, and would hold the job or the thread for hours."""
    monkeypatch.setattr(s3, "PATIENCE_S", 1.5)
    monkeypatch.setattr(s3, "READ_BYTES", 2048)
    proxy.inject(drip(READ_TIMEOUT_S / 4), methods="GET")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable):
        read_blob(blob)
    assert time.monotonic() - started < 120
    proxy.heal()
    assert read_blob(blob) == DATA


SIZES = {"one request": 100_000, "parts": 2 * PART_BYTES + 5}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "fault", [answer(500), drop, answer_after_all(500)], ids=["500", "reset", "500 though it was done"]
)
def test_a_write_survives_what_passes(proxy, tmp_path, size, fault):
    """I1, I5: sent again until the server says it has it, and then it is there once."""
    for method in ("PUT", "POST", "HEAD"):
        path = tmp_path / "content"
        path.write_bytes(os.urandom(SIZES[size]))
        data = path.read_bytes()
        proxy.inject(fault, methods=method, count=1)
        blob = put_file(path, hashlib.sha256(data).hexdigest())
        proxy.heal()
        assert read_blob(blob) == data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fault", [answer(503), drop, flip_sent_bit], ids=["503", "reset", "one bit flipped"])
def test_a_write_that_fails_leaves_nothing_visible_and_can_be_repeated(proxy, tmp_path, size, fault):
    """I1, I8."""
    path = tmp_path / "content"
    path.write_bytes(os.urandom(SIZES[size]))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    proxy.inject(fault, methods="PUT")
    with pytest.raises(StoreUnavailable):
        put_file(path, sha256)
    proxy.heal()
    assert list(store().walk()) == []
    blob = put_file(path, sha256)
    check_blob(blob)
    assert read_blob(blob) == path.read_bytes()


def test_an_upload_that_cannot_be_completed_is_aborted(proxy, tmp_path: Path):
    """I8: the parts that arrived do not stay behind."""
    path = tmp_path / "content"
    path.write_bytes(os.urandom(2 * PART_BYTES))
    refused = []

    def refuse_to_complete(handler: Handler, body: bytes) -> None:
        if "uploadId=" not in handler.path:
            return handler.relay(body)
        refused.append(handler.path)
        return answer(500)(handler, body)

    proxy.inject(refuse_to_complete, methods="POST")
    with pytest.raises(StoreUnavailable):
        put_file(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert refused
    assert store().delete_unfinished(timezone.now() + timedelta(hours=1)) == 0
