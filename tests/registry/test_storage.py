"""The store in a folder: written once, verified before use."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from registry.errors import BlobDamaged, StoreUnavailable
from registry.models import Blob
from registry.storage import (
    check_store,
    local_path,
    open_blob,
    put_bytes,
    put_file,
    put_files,
    read_blob,
    remove_abandoned_scratch,
    scratch_folder,
    store,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def root(settings, tmp_path) -> Path:
    settings.STORAGES = settings.STORAGES | {
        "blobs": {"BACKEND": "registry.stores.files.FileStore", "OPTIONS": {"root": tmp_path / "files"}}
    }
    settings.SCRATCH_DIR = tmp_path / "scratch"
    return tmp_path / "files"


def test_what_goes_in_comes_out(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(b"content")
    blob = put_file(path, hashlib.sha256(b"content").hexdigest())
    assert blob == Blob.objects.get()
    assert (blob.size_bytes, read_blob(blob)) == (7, b"content")
    with local_path(blob) as local:
        assert local.read_bytes() == b"content"
    with open_blob(blob) as stream:
        assert stream.read() == b"content"
    assert [found.sha256 for found in store().walk()] == [blob.sha256]


def test_an_object_is_never_overwritten():
    blob = put_bytes(b"once")
    before = store().local(blob.sha256).stat()
    put_bytes(b"once")
    after = store().local(blob.sha256).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_was_damaged_is_not_used_nor_taken_for_stored():
    blob = put_bytes(b"whole")
    path = store().local(blob.sha256)
    path.write_bytes(b"whale")
    with pytest.raises(BlobDamaged):
        read_blob(blob)
    with pytest.raises(BlobDamaged), local_path(blob):
        pass
    path.write_bytes(b"who")
    with pytest.raises(BlobDamaged):
        put_bytes(b"whole")


def test_several_files_are_stored_together_and_the_same_content_once(tmp_path):
    paths = {}
    for number, content in enumerate([b"one", b"two", b"one"]):
        path = tmp_path / str(number)
        path.write_bytes(content)
        paths[hashlib.sha256(content).hexdigest()] = path
    blobs = put_files(paths)
    assert sorted(read_blob(blob) for blob in blobs.values()) == [b"one", b"two"]
    assert all(blob.sha256 == sha256 for sha256, blob in blobs.items())


def test_a_folder_that_cannot_be_written_is_a_store_that_is_away(root):
    """As with S3: the request may be repeated, and nothing is visible."""
    root.write_text("a file where the folder should be")
    for use in (check_store, lambda: put_bytes(b"content")):
        with pytest.raises(StoreUnavailable):
            use()
    root.unlink()
    assert check_store()
    assert read_blob(put_bytes(b"content")) == b"content"


def test_no_room_for_scratch_is_a_store_that_is_away(settings, tmp_path):
    settings.SCRATCH_DIR = tmp_path / "occupied" / "scratch"
    settings.SCRATCH_DIR.parent.write_text("a file")
    with pytest.raises(StoreUnavailable):
        put_bytes(b"content")


def test_scratch_is_removed_once_its_process_is_gone(settings):
    """A killed worker's gigabytes do not fill the disk; a living one keeps its own, however long its job takes."""
    hour_ago = time.time() - 3600
    with scratch_folder() as living:
        abandoned = settings.SCRATCH_DIR / "abandoned"
        young = settings.SCRATCH_DIR / "young"
        for folder in (living, abandoned, young):
            folder.mkdir(exist_ok=True)
            (folder / "weights").write_bytes(b"x")
        for folder in (living, abandoned):
            os.utime(folder, (hour_ago, hour_ago))
        assert remove_abandoned_scratch() == 1
        assert (living / "weights").exists()
        assert young.exists()
        assert not abandoned.exists()
