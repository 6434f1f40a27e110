"""Uploads go from the socket to a file on disk, hashed on the way: the web process never holds one in memory."""

import contextlib
import hashlib
import tempfile
import weakref
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler, StopUpload

from registry.errors import StoreUnavailable, TooLarge
from registry.metrics import UPLOAD_BYTES
from registry.storage import local_disk


def too_large() -> TooLarge:
    """The refusal of an upload beyond MAX_UPLOAD_BYTES."""
    return TooLarge(
        f"The upload is larger than the {settings.MAX_UPLOAD_BYTES} bytes that this server takes. "
        "Upload a smaller adapter, or ask the operator to raise MAX_UPLOAD_BYTES."
    )


class SpooledFile(UploadedFile):
    """An uploaded part on disk. Closing it (Django does, after the answer) removes what was not moved away."""

    def __init__(self, path: Path, sha256: str, name: str, content_type: str, size: int) -> None:
        super().__init__(path.open("rb"), name, content_type, size)
        self.path = path
        self.sha256 = sha256

    def close(self) -> None:
        super().close()
        self.path.unlink(missing_ok=True)


class SpoolingUploadHandler(FileUploadHandler):
    """Writes each part to UPLOAD_DIR and enforces MAX_UPLOAD_BYTES over the whole request while it streams.

    A body that is too large is read on and thrown away, up to twice the limit, because a client that is still
    sending does not see an answer; past that the connection is cut.
    """

    chunk_size = 1024 * 1024

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.received_bytes = 0
        self.too_large = False
        self.spool: Any = None
        self.discard: Any = None

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        with local_disk():
            settings.UPLOAD_DIR.mkdir(parents=True, exist_ok=True)
            self.spool = tempfile.NamedTemporaryFile(dir=settings.UPLOAD_DIR, delete=False)  # noqa: SIM115 - outlives the call
        self.digest = hashlib.sha256()
        # Django has no call for a handler whose request failed in another part.
        self.discard = weakref.finalize(self, _discard, self.spool)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self.received_bytes += len(raw_data)
        if self.received_bytes > settings.MAX_UPLOAD_BYTES:
            self.too_large = True
            if self.received_bytes > 2 * settings.MAX_UPLOAD_BYTES + 64 * 1024**2:
                raise StopUpload(connection_reset=True)
            return
        try:
            with local_disk():
                self.spool.write(raw_data)
        except StoreUnavailable:
            self.discard()
            raise
        self.digest.update(raw_data)

    def file_complete(self, file_size: int) -> SpooledFile:
        with local_disk():
            self.spool.close()
        self.discard.detach()
        UPLOAD_BYTES.inc(file_size)
        return SpooledFile(Path(self.spool.name), self.digest.hexdigest(), self.file_name, self.content_type, file_size)

    def upload_complete(self) -> None:
        if self.discard is not None:
            # Does nothing unless the client hung up inside the last part.
            self.discard()
        if self.too_large:
            raise too_large()


def _discard(spool: Any) -> None:
    """Remove an unfinished part."""
    with contextlib.suppress(OSError):
        spool.close()
    Path(spool.name).unlink(missing_ok=True)
