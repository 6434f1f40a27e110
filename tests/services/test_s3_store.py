"""The store in S3: what goes in comes out, is never overwritten, and is found again by the reconciliation."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from django.utils import timezone

from registry.errors import BlobDamaged, StoreUnavailable
from registry.storage import (
    blob_url,
    check_blob,
    check_store,
    local_path,
    open_blob,
    put_bytes,
    put_file,
    read_blob,
    store,
)
from registry.stores.base import key_of
from registry.stores.s3 import PART_BYTES
from tests.services.seaweed import SeaweedFS, use_store

pytestmark = pytest.mark.django_db


@pytest.fixture
def bucket(seaweed: SeaweedFS, settings, monkeypatch) -> str:
    name = seaweed.make_bucket()
    use_store(settings, monkeypatch, seaweed.env(name))
    return name


def new_file(folder: Path, size_bytes: int) -> tuple[Path, str]:
    path = folder / "content"
    path.write_bytes(os.urandom(size_bytes))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


SIZES = [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 7]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_what_goes_in_comes_out(bucket, tmp_path, size_bytes):
    path, sha256 = new_file(tmp_path, size_bytes)
    data = path.read_bytes()
    blob = put_file(path, sha256)
    assert (blob.sha256, blob.size_bytes) == (sha256, size_bytes)
    check_blob(blob)
    assert read_blob(blob) == data
    with open_blob(blob) as stream:
        assert stream.read() == data
    with local_path(blob) as local:
        assert local.read_bytes() == data
    assert not local.exists()
    answer = requests.get(blob_url(blob, "adapter_config.json"), timeout=10)
    assert answer.content == data
    assert answer.headers["Content-Disposition"] == 'attachment; filename="adapter_config.json"'
    assert [found.sha256 for found in store().walk()] == [sha256]
    store().delete(sha256)
    assert store().size(sha256) is None


def test_the_store_is_usable_or_says_so(bucket, seaweed, settings, monkeypatch):
    assert check_store()
    use_store(settings, monkeypatch, seaweed.env("no-such-bucket"))
    with pytest.raises(StoreUnavailable):
        check_store()
    with pytest.raises(StoreUnavailable):
        store().size("0" * 64)
    with pytest.raises(StoreUnavailable):
        store().open("0" * 64)


@pytest.mark.parametrize("size_bytes", [10, PART_BYTES + 10])
def test_a_file_that_does_not_hash_to_its_name_is_never_visible(bucket, tmp_path, size_bytes):
    """I1."""
    path, _ = new_file(tmp_path, size_bytes)
    with pytest.raises(StoreUnavailable):
        put_file(path, "ab" * 32)
    assert list(store().walk()) == []
    assert store().delete_unfinished(timezone.now() + timedelta(hours=1)) == 0


@pytest.mark.parametrize("size_bytes", [10, PART_BYTES + 10])
def test_an_object_is_never_overwritten(bucket, seaweed, tmp_path, size_bytes):
    """I5: not by a second put of the same content, and not even where the content is damaged."""
    path, sha256 = new_file(tmp_path, size_bytes)
    put_file(path, sha256)
    client = seaweed.client()
    before = client.head_object(Bucket=bucket, Key=key_of(sha256))["LastModified"]
    put_file(path, sha256)
    assert client.head_object(Bucket=bucket, Key=key_of(sha256))["LastModified"] == before


def test_what_was_replaced_or_deleted_behind_our_back_is_never_used(bucket, seaweed, tmp_path):
    """I1, I8: by the store's own word where it is small, by its bytes in any case."""
    client = seaweed.client()
    small, (path, sha256) = put_bytes(b"small"), new_file(tmp_path, PART_BYTES + 10)
    large = put_file(path, sha256)
    client.put_object(Bucket=bucket, Key=key_of(small.sha256), Body=b"SMALL", ChecksumAlgorithm="SHA256")
    client.put_object(Bucket=bucket, Key=key_of(sha256), Body=os.urandom(PART_BYTES + 10))
    with pytest.raises(BlobDamaged):
        check_blob(small)
    for blob in (small, large):
        with pytest.raises(BlobDamaged):
            read_blob(blob)
        with pytest.raises(BlobDamaged), local_path(blob):
            pass
    client.put_object(Bucket=bucket, Key=key_of(sha256), Body=b"shorter")
    with pytest.raises(BlobDamaged):
        check_blob(large)
    with pytest.raises(BlobDamaged):
        put_file(path, sha256)
    client.delete_object(Bucket=bucket, Key=key_of(sha256))
    for use in (check_blob, read_blob, open_blob):
        with pytest.raises(BlobDamaged):
            use(large)


def test_of_two_that_write_at_once_the_first_stays(bucket, seaweed, tmp_path, monkeypatch):
    """I5: both found nothing there; the server keeps one object."""
    for size_bytes in (10, PART_BYTES + 10):
        path, sha256 = new_file(tmp_path, size_bytes)
        put_file(path, sha256)
        before = seaweed.client().head_object(Bucket=bucket, Key=key_of(sha256))["LastModified"]
        answers = iter([None, size_bytes])
        monkeypatch.setattr(store(), "size", lambda _: next(answers))  # noqa: B023
        store().put(path, sha256)
        monkeypatch.undo()
        assert seaweed.client().head_object(Bucket=bucket, Key=key_of(sha256))["LastModified"] == before
