"""Ranges and ETags, as resuming clients use them."""

import io
import zipfile

import pytest
from django.test import RequestFactory

from registry.downloads import CHUNK_BYTES, archive_response, file_response
from registry.errors import BlobDamaged
from registry.storage import put_bytes, store

pytestmark = pytest.mark.django_db
DATA = bytes(range(256)) * 4


@pytest.fixture
def blob():
    return put_bytes(DATA)


def get(blob, **headers):
    """The response, with its body read as `content`."""
    response = file_response(RequestFactory().get("/", headers=headers), "adapter_config.json", blob)
    response.body = b"".join(response) if response.streaming else response.content
    response.close()
    return response


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=1000-", 1000, 1024), ("bytes=-24", 1000, 1024),
     ("bytes=0-99999", 0, 1024)],
)  # fmt: skip
def test_a_range_gives_these_bytes(blob, wanted, start, end):
    response = get(blob, Range=wanted)
    assert response.body == DATA[start:end]
    assert response["Content-Length"] == str(end - start)
    if (start, end) != (0, len(DATA)):
        assert response.status_code == 206
        assert response["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"


def test_a_range_past_the_end_is_416(blob):
    response = get(blob, Range="bytes=1024-")
    assert response.status_code == 416
    assert response["Content-Range"] == "bytes */1024"


@pytest.mark.parametrize("wanted", ["lines=1-2", "bytes=1-2,5-6", "bytes=-", "bytes=x-y"])
def test_a_range_that_is_not_understood_gives_the_whole(blob, wanted):
    response = get(blob, Range=wanted)
    assert response.status_code == 200
    assert response.body == DATA


def test_the_etag_is_the_digest_and_saves_the_transfer(blob):
    etag = get(blob)["ETag"]
    assert etag == f'"{blob.sha256}"'
    assert get(blob, **{"If-None-Match": etag}).status_code == 304
    stale = get(blob, Range="bytes=0-0", **{"If-Range": '"other"'})
    assert stale.status_code == 200


def test_an_archive_is_a_plain_zip_and_the_same_every_time(blob):
    first, second = (b"".join(archive_response("x", {"b.txt": blob, "a.txt": blob}).streaming_content) for _ in "12")
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == ["a.txt", "b.txt"]
        assert archive.read("a.txt") == DATA
        assert archive.testzip() is None
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED


def test_a_head_request_gets_the_facts_without_the_bytes(blob):
    response = file_response(RequestFactory().head("/"), "adapter_config.json", blob)
    assert (response.status_code, response["Content-Length"]) == (200, str(len(DATA)))
    assert b"".join(response) == b""


@pytest.mark.parametrize("size_bytes", [100, CHUNK_BYTES, 3 * CHUNK_BYTES + 1])
def test_of_a_damaged_file_the_end_is_never_sent(size_bytes):
    """Content-Length promises more than comes, so that every client notices."""
    blob = put_bytes(bytes(size_bytes))
    path = store().local(blob.sha256)
    path.write_bytes(b"!" + path.read_bytes()[1:])
    try:
        for response in (
            file_response(RequestFactory().get("/"), "adapter_model.safetensors", blob),
            archive_response("x", {"adapter_model.safetensors": blob}),
        ):
            sent: list[bytes] = []
            with pytest.raises(BlobDamaged):
                sent.extend(response)
            response.close()
            assert b"PK\5\6" not in b"".join(sent)
            if "Content-Length" in response:
                assert sum(map(len, sent)) < size_bytes
    finally:
        path.unlink()


def test_a_file_that_is_not_there_or_cut_short_is_refused_before_a_byte_is_sent():
    blob = put_bytes(b"cut short")
    path = store().local(blob.sha256)
    for damage in (lambda: path.write_bytes(b"cut"), path.unlink):
        damage()
        with pytest.raises(BlobDamaged):
            file_response(RequestFactory().get("/"), "README.md", blob)
        with pytest.raises(BlobDamaged):
            archive_response("x", {"README.md": blob})
