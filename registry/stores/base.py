"""What a store of blobs can do."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

KEY = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})")


@dataclass(frozen=True)
class Stored:
    """An object that a store lists."""

    sha256: str
    size_bytes: int
    stored_at: datetime


class Store(Protocol):
    """Content under its sha256, written once and never overwritten. Safe to use from several threads.

    Every method raises StoreUnavailable where the store cannot be reached, is full or answers with an error; trying
    again is right then.
    """

    def put(self, source: Path, sha256: str) -> None:
        """Take in a file, durable and of the right bytes on return; `source` may be moved away.

        An object that is there already is left as it is. Raises: BlobDamaged: it has another size.
        """

    def open(self, sha256: str) -> BinaryIO:
        """The content as a stream, unverified; it can seek where `url` gives None. Raises: FileNotFoundError."""

    def size(self, sha256: str) -> int | None:
        """Bytes of the object as the store says without reading it; None where it has none of this digest."""

    def local(self, sha256: str) -> Path | None:
        """Where the content would lie on this machine; None for a store elsewhere."""

    def url(self, sha256: str, filename: str) -> str | None:
        """An address that serves the content to anybody for a few minutes; None where we have to serve it."""

    def walk(self) -> Iterator[Stored]:
        """Every object; what is not a blob of ours is passed over."""

    def delete(self, sha256: str) -> None:
        """Remove an object, if it is there."""

    def delete_unfinished(self, before: datetime) -> int:
        """Remove what writes that began before a moment and never ended have left. Returns: how many."""

    def check(self) -> None:
        """Return if the store can be used."""


def key_of(sha256: str) -> str:
    """`ab/ab12…`, the same in every store, so that any tool can copy one into another."""
    return f"{sha256[:2]}/{sha256}"


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
