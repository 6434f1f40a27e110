"""Blobs in an S3 bucket, under the same keys as in a folder."""

import io
import logging
import os
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256 as new_sha256
from pathlib import Path
from typing import Any, BinaryIO

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from registry.errors import BlobDamaged, StoreUnavailable
from registry.stores.base import KEY, Stored, key_of, sha256_of

logger = logging.getLogger(__name__)

# What an upload holds in memory: as many parts as threads. boto3's own 8 MiB x 10 would not fit into a web process.
PART_BYTES = 5 * 1024**2
PART_THREADS = 4
# Together they bound how long a thread waits for a request that gets no answer: about a minute. The first is also the
# time in which a part has to be sent, so that a store has to take 2 MB/s in all.
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 20
ATTEMPTS = 3
# A body that trickles never times out. After this long, it has to have come at this pace.
PATIENCE_S = 30
SLOWEST_BYTES_PER_S = 64 * 1024
READ_BYTES = 64 * 1024
# Long enough to follow a redirect; a client that resumes later asks us again.
URL_LIFETIME_S = 300


class S3Store:
    """A `Store` in a bucket. Credentials and region come from where boto3 looks for them, AWS_* variables first.

    Args:
        endpoint_url: of an S3 server other than AWS.
        public_endpoint_url: where browsers reach the same server.
    """

    def __init__(
        self,
        bucket: str,
        endpoint_url: str | None = None,
        public_endpoint_url: str | None = None,
        region: str | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.bucket = bucket
        self._endpoint_url = endpoint_url
        self._public_endpoint_url = public_endpoint_url or endpoint_url
        self._region = region
        self._read_timeout_s = read_timeout_s
        self._clients: dict[tuple[int, str | None], Any] = {}

    def put(self, source: Path, sha256: str) -> None:
        size_bytes = source.stat().st_size
        if self._has(sha256, size_bytes):
            return
        failure = None
        try:
            if size_bytes > PART_BYTES:
                self._put_parts(source, size_bytes, sha256)
            else:
                self._put_whole(source, sha256)
        except (ClientError, BotoCoreError) as error:
            # The server may have stored it all the same, or another process was first.
            failure = error
        if not self._has(sha256, size_bytes):
            raise StoreUnavailable() from failure

    def _has(self, sha256: str, size_bytes: int) -> bool:
        found = self.size(sha256)
        if found not in (None, size_bytes):
            raise BlobDamaged(f"s3://{self.bucket}/{key_of(sha256)} has {found} bytes instead of {size_bytes}")
        return found is not None

    def _put_whole(self, source: Path, sha256: str) -> None:
        """One request, which the server refuses if what arrives does not hash to the name."""
        with source.open("rb") as body:
            self._client().put_object(
                **self._named(sha256), Body=body, ChecksumSHA256=_base64(bytes.fromhex(sha256)), IfNoneMatch="*"
            )

    def _put_parts(self, source: Path, size_bytes: int, sha256: str) -> None:
        """A multipart upload, completed only if the file still hashes to its name; the server checks every part."""
        upload = self._named(sha256)
        upload |= {"UploadId": self._client().create_multipart_upload(**upload, ChecksumAlgorithm="SHA256")["UploadId"]}
        try:
            with ThreadPoolExecutor(PART_THREADS, thread_name_prefix="s3-part") as threads:
                starts = range(0, size_bytes, PART_BYTES)
                parts = threads.map(lambda start: self._put_part(upload, source, start), starts)
                if sha256_of(source) != sha256:
                    threads.shutdown(cancel_futures=True)
                    raise StoreUnavailable("The file changed on the server's disk while it was stored. Try again.")
                done = {"Parts": list(parts)}
            self._client().complete_multipart_upload(**upload, MultipartUpload=done, IfNoneMatch="*")
        except BaseException:
            self._abort(upload)
            raise

    def _put_part(self, upload: dict[str, str], source: Path, start: int) -> dict[str, Any]:
        with source.open("rb") as file:
            file.seek(start)
            body = file.read(PART_BYTES)
        checksum = _base64(new_sha256(body).digest())
        number = start // PART_BYTES + 1
        answer = self._client().upload_part(**upload, PartNumber=number, Body=body, ChecksumSHA256=checksum)
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    def _abort(self, upload: dict[str, str]) -> None:
        try:
            self._client().abort_multipart_upload(**upload)
        except (ClientError, BotoCoreError) as error:
            # The next check_store --delete-orphans does it.
            logger.warning("The unfinished upload of %s stays: %s", upload["Key"], error)

    def open(self, sha256: str) -> BinaryIO:
        with _unavailable():
            try:
                body = self._client().get_object(**self._named(sha256))["Body"]
            except ClientError as error:
                if _code(error) == "NoSuchKey":
                    raise FileNotFoundError(f"s3://{self.bucket}/{key_of(sha256)}") from error
                raise
        return io.BufferedReader(_Body(body), READ_BYTES)

    def size(self, sha256: str) -> int | None:
        with _unavailable():
            try:
                found = self._client().head_object(**self._named(sha256), ChecksumMode="ENABLED")
            except ClientError as error:
                if _code(error) not in ("404", "NoSuchKey"):
                    raise
                # The answer is the same where the whole bucket is gone, and then nothing is known about the object.
                self._client().head_bucket(Bucket=self.bucket)
                return None
        # Of an object that was put in one request, the server knows the digest; of parts, a digest of digests.
        checksum = found.get("ChecksumSHA256", "-")
        if "-" not in checksum and checksum != _base64(bytes.fromhex(sha256)):
            raise BlobDamaged(f"s3://{self.bucket}/{key_of(sha256)} was replaced: its SHA-256 is {checksum}")
        return found["ContentLength"]

    def local(self, sha256: str) -> None:
        return None

    def url(self, sha256: str, filename: str) -> str:
        shown = {
            "ResponseContentDisposition": f'attachment; filename="{filename}"',
            "ResponseContentType": "application/octet-stream",
        }
        with _unavailable():
            return self._client_of(self._public_endpoint_url).generate_presigned_url(
                "get_object", Params=self._named(sha256) | shown, ExpiresIn=URL_LIFETIME_S
            )

    def walk(self) -> Iterator[Stored]:
        with _unavailable():
            for page in self._client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
                for found in page.get("Contents", []):
                    if match := KEY.fullmatch(found["Key"]):
                        yield Stored(match[2], found["Size"], found["LastModified"])

    def delete(self, sha256: str) -> None:
        with _unavailable():
            self._client().delete_object(**self._named(sha256))

    def delete_unfinished(self, before: datetime) -> int:
        with _unavailable():
            pages = self._client().get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket)
            found = [upload for page in pages for upload in page.get("Uploads", [])]
            old = [upload for upload in found if KEY.fullmatch(upload["Key"]) and upload["Initiated"] < before]
            for upload in old:
                self._client().abort_multipart_upload(
                    Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        return len(old)

    def check(self) -> None:
        with _unavailable():
            self._client().head_bucket(Bucket=self.bucket)

    def _named(self, sha256: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": key_of(sha256)}

    def _client(self) -> Any:
        return self._client_of(self._endpoint_url)

    def _client_of(self, endpoint_url: str | None) -> Any:
        """This process's client, made when it is first needed: connections do not survive a fork."""
        key = (os.getpid(), endpoint_url)
        if key not in self._clients:
            config = Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if endpoint_url else "auto"},
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=self._read_timeout_s,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                max_pool_connections=32,
                # Whoever reads hashes the whole; this one would pass damage off as a server that is away.
                response_checksum_validation="when_required",
            )
            # A session of its own, because making clients from a shared one is not thread-safe.
            client = Session().client("s3", endpoint_url=endpoint_url, region_name=self._region, config=config)
            self._clients.setdefault(key, client)
        return self._clients[key]


class _Body(io.RawIOBase):
    """The body of an answer; what interrupts it is a StoreUnavailable, and so is a pace that comes to nothing."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._received_bytes = 0
        # For the store alone: whoever reads may take its time.
        self._waited_s = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        started = time.monotonic()
        with _unavailable():
            data = self._body.read(min(len(buffer), READ_BYTES))
        self._waited_s += time.monotonic() - started
        self._received_bytes += len(data)
        if self._waited_s > PATIENCE_S and self._received_bytes < SLOWEST_BYTES_PER_S * self._waited_s:
            raise StoreUnavailable() from TimeoutError(f"{self._received_bytes} bytes in {self._waited_s:.0f} s")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._body.close()
        super().close()


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise StoreUnavailable() from error


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _base64(digest: bytes) -> str:
    return b64encode(digest).decode()
