"""Blobs: bytes in the store under their sha256, written once, verified before use."""

import fcntl
import hashlib
import io
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.core.files.storage import storages
from django.db.models.functions import Now

from registry.errors import BlobDamaged, StoreUnavailable
from registry.metrics import store_operation
from registry.models import Blob
from registry.stores.base import Store, sha256_of

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1024 * 1024
# A read that breaks off or gives wrong bytes is tried again: most often the network was at fault, not the store.
READ_ATTEMPTS = 3
RETRY_AFTER_S = 0.2
# A younger scratch folder may not have been locked yet.
SCRATCH_SETTLED_S = 60


def store() -> Store:
    """The store that the environment names."""
    return storages["blobs"]


def put_file(path: Path, sha256: str) -> Blob:
    """Put a file whose digest is known into the store. Returns: its row. As `put_files`."""
    return put_files({sha256: path})[sha256]


def put_files(paths: Mapping[str, Path]) -> dict[str, Blob]:
    """Put files by their known digests into the store, which may move them away. Returns: the row of each digest.

    Call it outside of transactions: it can take minutes. The rows are touched first, which keeps the collection of
    orphans away from them until a revision refers to them. Raises: StoreUnavailable, BlobDamaged.
    """
    # In one order, so that two uploads with files in common do not wait for each other's rows.
    rows = [Blob(sha256=sha256, size_bytes=paths[sha256].stat().st_size, touched_at=Now()) for sha256 in sorted(paths)]
    Blob.objects.bulk_create(rows, update_conflicts=True, unique_fields=["sha256"], update_fields=["touched_at"])
    for sha256, path in paths.items():
        with _operation("put", sha256):
            store().put(path, sha256)
    return Blob.objects.in_bulk(paths)


def put_bytes(data: bytes) -> Blob:
    """Store small content. Returns: its row. Raises: StoreUnavailable, BlobDamaged."""
    with scratch_folder() as folder:
        path = folder / "content"
        with local_disk():
            path.write_bytes(data)
        return put_file(path, hashlib.sha256(data).hexdigest())


class VerifiedReader(io.RawIOBase):
    """A stream that ends only if all of it hashed to its digest; else its last `read` raises BlobDamaged."""

    def __init__(self, stream: BinaryIO, sha256: str) -> None:
        self._stream = stream
        self._sha256 = sha256
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        self._digest.update(memoryview(buffer)[:count])
        if count == 0 and self._digest.hexdigest() != self._sha256:
            raise BlobDamaged(f"blob {self._sha256} hashes to {self._digest.hexdigest()}")
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_blob(blob: Blob) -> BinaryIO:
    """The content as a stream, unverified. Raises: BlobDamaged: it is missing. StoreUnavailable, also on reading."""
    with _operation("open", blob.sha256):
        try:
            return store().open(blob.sha256)
        except FileNotFoundError as error:
            raise BlobDamaged(f"blob {blob.sha256} is missing") from error


def verified(blob: Blob) -> VerifiedReader:
    """The content as a stream that fails at its end unless the digest is right. Raises: as `open_blob`."""
    return VerifiedReader(open_blob(blob), blob.sha256)


def check_blob(blob: Blob) -> None:
    """Whether the store says that it has this content, without reading it. Raises: BlobDamaged, StoreUnavailable."""
    with _operation("size", blob.sha256):
        found = store().size(blob.sha256)
        if found != blob.size_bytes:
            raise BlobDamaged(f"blob {blob.sha256} has {found} bytes in the store instead of {blob.size_bytes}")


def blob_url(blob: Blob, filename: str) -> str | None:
    """An address that serves the content for a few minutes; None where we have to serve it."""
    return store().url(blob.sha256, filename)


def read_blob(blob: Blob) -> bytes:
    """Small content, verified. Raises: BlobDamaged, StoreUnavailable."""
    target = io.BytesIO()
    _copy_verified(blob, target)
    return target.getvalue()


@contextmanager
def local_path(blob: Blob) -> Iterator[Path]:
    """A local file with the content, verified, for as long as the block runs. Raises: BlobDamaged, StoreUnavailable."""
    path = store().local(blob.sha256)
    if path is None:
        with scratch_folder() as folder:
            path = folder / blob.sha256
            with path.open("w+b") as target:
                _copy_verified(blob, target)
            yield path
        return
    with _operation("verify", blob.sha256):
        if not path.exists() or sha256_of(path) != blob.sha256:
            raise BlobDamaged(f"{path} is missing or has another digest")
    yield path


def _copy_verified(blob: Blob, target: BinaryIO) -> None:
    for attempt in range(1, READ_ATTEMPTS + 1):
        target.seek(0)
        target.truncate()
        # Opened outside: a store that does not answer at all was asked several times already.
        source = verified(blob)
        try:
            with _operation("read", blob.sha256), source:
                while chunk := source.read(CHUNK_BYTES):
                    with local_disk():
                        target.write(chunk)
                with local_disk():
                    target.flush()
            return
        except (BlobDamaged, StoreUnavailable):
            if attempt == READ_ATTEMPTS:
                raise
        time.sleep(RETRY_AFTER_S * 3**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - jitter


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A private folder on the store's side of the disk, removed afterwards. Raises: StoreUnavailable: disk full.

    It is locked for as long as its process lives, so that `remove_abandoned_scratch` knows whose process was killed.
    """
    with local_disk():
        settings.SCRATCH_DIR.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=settings.SCRATCH_DIR))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned_scratch() -> int:
    """Remove the scratch folders whose process is gone. Returns: how many."""
    settled = time.time() - SCRATCH_SETTLED_S
    return sum(_remove_abandoned(folder, settled) for folder in settings.SCRATCH_DIR.glob("*"))


def _remove_abandoned(folder: Path, settled: float) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # its job has just ended
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_mtime > settled:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


@contextmanager
def local_disk() -> Iterator[None]:
    """A full or broken disk of this machine is a StoreUnavailable: nothing is wrong with the request or the job."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable("The server's disk is full or broken. Nothing was stored; try again later.") from error


def check_store() -> bool:
    """Whether the store can be used. Raises: StoreUnavailable."""
    store().check()
    return True


@contextmanager
def _operation(name: str, sha256: str) -> Iterator[None]:
    """Count and time it, and log what goes wrong with its cause: whoever handles the error shows its message only."""
    try:
        with store_operation(name):
            yield
    except (BlobDamaged, StoreUnavailable):
        logger.warning("Store: %s of %s failed", name, sha256, exc_info=True)
        raise
