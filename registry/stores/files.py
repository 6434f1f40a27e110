"""Blobs in a folder: `<root>/ab/ab12…`."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from registry.errors import BlobDamaged, StoreUnavailable
from registry.stores.base import KEY, Stored, key_of

PART = ".part"


class FileStore:
    """A `Store` in a folder that every process of the site can reach."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def local(self, sha256: str) -> Path:
        return self.root / key_of(sha256)

    def put(self, source: Path, sha256: str) -> None:
        target = self.local(sha256)
        size_bytes = source.stat().st_size
        with _unavailable():
            if (found := self.size(sha256)) is not None:
                if found != size_bytes:
                    raise BlobDamaged(f"{target} has {found} bytes instead of {size_bytes}")
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.stat().st_dev == target.parent.stat().st_dev:
                _publish(source, target)
                return
            # A rename is only atomic inside one file system.
            part = target.with_name(f"{uuid.uuid4().hex}{PART}")
            try:
                shutil.copyfile(source, part)
                _publish(part, target)
            finally:
                part.unlink(missing_ok=True)

    def open(self, sha256: str) -> BinaryIO:
        with _unavailable():
            return self.local(sha256).open("rb")

    def size(self, sha256: str) -> int | None:
        with _unavailable():
            try:
                return self.local(sha256).stat().st_size
            except FileNotFoundError:
                return None

    def url(self, sha256: str, filename: str) -> None:
        return None

    def walk(self) -> Iterator[Stored]:
        for path in self.root.glob("*/*"):
            if KEY.fullmatch(path.relative_to(self.root).as_posix()):
                found = path.stat()
                yield Stored(path.name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def delete(self, sha256: str) -> None:
        with _unavailable():
            self.local(sha256).unlink(missing_ok=True)

    def delete_unfinished(self, before: datetime) -> int:
        parts = [path for path in self.root.glob(f"*/*{PART}") if path.stat().st_mtime < before.timestamp()]
        for path in parts:
            path.unlink(missing_ok=True)
        return len(parts)

    def check(self) -> None:
        with _unavailable():
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK):
                raise PermissionError(errno.EACCES, "not writable", str(self.root))


def _publish(part: Path, target: Path) -> None:
    """Make a whole file visible under its name, and both durable."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreUnavailable() from error
