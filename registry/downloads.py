"""Downloads: single files with Range and ETag, folders as a streamed, uncompressed zip."""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from django.db.models import F
from django.http import HttpRequest, HttpResponse, HttpResponseNotModified, StreamingHttpResponse

from registry.models import Adapter, Blob
from registry.storage import VerifiedReader, blob_url, check_blob, open_blob, verified

CHUNK_BYTES = 256 * 1024
# Zip entries carry a date; a fixed one makes the archive of a revision the same bytes every time.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def count_download(adapter: Adapter) -> None:
    Adapter.objects.filter(pk=adapter.pk).update(downloads=F("downloads") + 1)


def file_response(request: HttpRequest, path: str, blob: Blob) -> HttpResponse:
    """The blob, or the part of it that a Range header asks for: 200, 206, 304 or 416; 302 to where the store serves it.

    HEAD is answered here in any case: the address in a 302 is signed for GET. Raises: BlobDamaged, StoreUnavailable.
    """
    etag = f'"{blob.sha256}"'
    if etag in request.headers.get("If-None-Match", ""):
        return HttpResponseNotModified(headers={"ETag": etag})
    check_blob(blob)
    if request.method == "GET" and (url := blob_url(blob, path)):
        # Not to be kept: the address expires.
        return HttpResponse(status=302, headers={"Location": url, "ETag": etag, "Cache-Control": "no-store"})
    size = blob.size_bytes
    wanted = request.headers.get("Range", "") if request.headers.get("If-Range", etag) == etag else ""
    span = _parse_range(wanted, size)
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Content-Disposition": f'attachment; filename="{path}"'}
    if span is None:
        return HttpResponse(status=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    start, end = span
    headers["Content-Length"] = str(end - start)
    partial = (start, end) != (0, size)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingHttpResponse(
        _body(request, blob, start, end, partial=partial),
        status=206 if partial else 200,
        content_type="application/octet-stream",
        headers=headers,
    )


def _body(request: HttpRequest, blob: Blob, start: int, end: int, *, partial: bool) -> Iterable[bytes]:
    if request.method == "HEAD":
        return ()
    return _Span(open_blob(blob), start, end) if partial else _Whole(verified(blob))


def _parse_range(header: str, size: int) -> tuple[int, int] | None:
    """[start, end) of a single-range header; the whole for none or one we do not understand; None if outside."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if first == "":
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    return (start, end) if start < end else None


class _Whole:
    """A verified stream in chunks. Django closes it with the response, read or not.

    It stays one chunk behind, so that of damaged content the end is never sent and the client sees it break off.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        chunk = self._stream.read(CHUNK_BYTES)
        while chunk:
            following = self._stream.read(CHUNK_BYTES)
            yield chunk
            chunk = following

    def close(self) -> None:
        self._stream.close()


class _Span:
    """The bytes [start, end) of a stream, in chunks. Django closes it with the response, read or not."""

    def __init__(self, stream: BinaryIO, start: int, end: int) -> None:
        stream.seek(start)
        self._stream = stream
        self._left = end - start

    def __iter__(self) -> Iterator[bytes]:
        while self._left > 0 and (chunk := self._stream.read(min(CHUNK_BYTES, self._left))):
            self._left -= len(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


def archive_response(
    filename: str, files: Mapping[str, Blob | Path], resources: ExitStack | None = None
) -> StreamingHttpResponse:
    """A zip with the files at its root, made while it is sent; content that turns out damaged breaks it off.

    Args:
        files: by path in the zip, from the store or from local disk.
        resources: closed with the answer, whether it was sent or not.
    Raises: BlobDamaged, StoreUnavailable: one of the files cannot be had, as far as the store knows.
    """
    for source in files.values():
        if isinstance(source, Blob):
            check_blob(source)
    return StreamingHttpResponse(
        _Archive(files, resources or ExitStack()),
        content_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{filename}.zip"'},
    )


class _Outbox(io.RawIOBase):
    """What zipfile has written and nobody has sent yet. Not seekable, so that entries use data descriptors."""

    def __init__(self) -> None:
        self.pending = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.pending += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self.pending)
        self.pending.clear()
        return taken


class _Archive:
    """A zip in chunks. Django closes it with the response, read or not."""

    def __init__(self, files: Mapping[str, Blob | Path], resources: ExitStack) -> None:
        self._files = files
        self._resources = resources

    def __iter__(self) -> Iterator[bytes]:
        outbox = _Outbox()
        with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:
            for path, file in sorted(self._files.items()):
                entry = zipfile.ZipInfo(path, ZIP_DATE)
                entry.external_attr = 0o644 << 16
                with _opened(file) as source, archive.open(entry, "w", force_zip64=_size(file) >= 2**31) as target:
                    while chunk := source.read(CHUNK_BYTES):
                        target.write(chunk)
                        yield outbox.take()
        yield outbox.take()

    def close(self) -> None:
        self._resources.close()


def _opened(file: Blob | Path) -> BinaryIO | VerifiedReader:
    return verified(file) if isinstance(file, Blob) else file.open("rb")


def _size(file: Blob | Path) -> int:
    return file.size_bytes if isinstance(file, Blob) else file.stat().st_size
