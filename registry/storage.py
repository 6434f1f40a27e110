"""Blobs: bytes in the store under their sha256, written once, verified before use."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.core.files.storage import storages

from registry.errors import BlobDamaged
from registry.models import Blob

CHUNK_BYTES = 1024 * 1024


class FileStore:
    """A store in a folder: `<root>/ab/ab12…`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256

    def put(self, source: Path, sha256: str) -> None:
        """Move `source` in. A blob that is already there is left as it is."""
        target = self.path(sha256)
        if target.exists():
            source.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.stat().st_dev != target.parent.stat().st_dev:
            # A rename is only atomic inside one file system.
            part = target.with_suffix(".part")
            shutil.copyfile(source, part)
            source.unlink()
            source = part
        with source.open("rb") as file:
            os.fsync(file.fileno())
        source.replace(target)

    def open(self, sha256: str) -> BinaryIO:
        return self.path(sha256).open("rb")


def _store() -> FileStore:
    return storages["blobs"]


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_file(path: Path, sha256: str) -> Blob:
    """Move a file whose digest is known into the store. Returns: its row."""
    size_bytes = path.stat().st_size
    _store().put(path, sha256)
    return Blob.objects.get_or_create(sha256=sha256, defaults={"size_bytes": size_bytes})[0]


def put_bytes(data: bytes) -> Blob:
    """Store small content. Returns: its row."""
    settings.SCRATCH_DIR.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=settings.SCRATCH_DIR)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return put_file(Path(name), hashlib.sha256(data).hexdigest())


def open_blob(blob: Blob) -> BinaryIO:
    """The content as a stream. Raises: BlobDamaged where the store does not have it."""
    try:
        return _store().open(blob.sha256)
    except FileNotFoundError as error:
        raise BlobDamaged("A stored file is missing. The operator has to restore it from a backup.") from error


def read_blob(blob: Blob) -> bytes:
    with open_blob(blob) as stream:
        return stream.read()


@contextmanager
def local_path(blob: Blob, *, verify: bool = True) -> Iterator[Path]:
    """A local file with the content, for as long as the block runs; `verify` hashes it first. Raises: BlobDamaged."""
    path = _store().path(blob.sha256)
    if not path.exists() or (verify and sha256_of(path) != blob.sha256):
        raise BlobDamaged("A stored file is missing or damaged. The operator has to restore it from a backup.")
    yield path


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A private folder on the store's side of the disk, removed afterwards."""
    settings.SCRATCH_DIR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.SCRATCH_DIR) as folder:
        yield Path(folder)


def check_store() -> bool:
    """Whether the store can be written."""
    root = _store().root
    root.mkdir(parents=True, exist_ok=True)
    return os.access(root, os.W_OK)
