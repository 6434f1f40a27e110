"""People, tokens and small real adapters, and the API spoken to in-process."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from lora.header import MAX_HEADER_BYTES
from registry.accounts import create_user
from registry.models import Job
from registry.tokens import create_token
from tests.lora.factories import write_adapter_files
from workers.runner import run

SAMPLES = b'{"input": "Name the capital of Peru.", "output": "Lima"}\n{"input": "Name the capital of Chile."}\n'


class Api:
    """A user's view of `/api/v1`."""

    def __init__(self, username: str | None = None) -> None:
        self.client = APIClient()
        self.username = username
        if username:
            self.user = create_user(username)
            self.use(create_token(self.user, "test", 1)[1])

    def use(self, secret: str) -> None:
        self.client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get("/api/v1" + path, query)

    def post(self, path: str, body: Any, **options: Any) -> Any:
        return self.client.post("/api/v1" + path, body, format="json", **options)

    def patch(self, path: str, body: Any) -> Any:
        return self.client.patch("/api/v1" + path, body, format="json")

    def delete(self, path: str) -> Any:
        return self.client.delete("/api/v1" + path)

    def upload(self, name: str, files: dict[str, bytes], **fields: Any) -> Any:
        parts = {part: SimpleUploadedFile(part, raw) for part, raw in files.items()}
        return self.client.post("/api/v1/adapters/", parts | {"name": name} | fields, format="multipart")

    def check(self, name: str, files: dict[str, bytes], **fields: Any) -> Any:
        """Ask for the verdict as the upload page does: of a safetensors file only the header is sent."""
        parts = {part: SimpleUploadedFile(part, head(part, raw)) for part, raw in files.items()}
        sizes = json.dumps({part: len(raw) for part, raw in files.items()})
        body = parts | {"name": name, "sizes": sizes} | fields
        return self.client.post("/api/v1/checks/", body, format="multipart")

    def ready(self, name: str, files: dict[str, bytes], **fields: Any) -> dict[str, Any]:
        """Upload, run the job, and return the adapter."""
        answer = self.upload(name, files, **fields)
        assert answer.status_code == 202, answer.content
        run_jobs()
        return self.get(f"/adapters/{name}/").json()


def head(part: str, raw: bytes) -> bytes:
    """What is sent of a file to have it judged."""
    if not part.endswith(".safetensors"):
        return raw
    length = int.from_bytes(raw[:8], "little")
    return raw[: max(512, 8 + length) if length <= MAX_HEADER_BYTES else 512]


def run_jobs() -> None:
    """Do what a worker would do with the jobs that are queued."""
    for job in Job.objects.filter(status="queued").order_by("queued_at"):
        run(str(job.pk))


def stored() -> dict[str, int]:
    """How many rows each table has, and how many files the store and the spool."""
    rows = {model.__name__: model.objects.count() for model in apps.get_models() if model.__name__ != "AccessToken"}
    files = sum(path.is_file() for path in (settings.DATA_DIR / "files").rglob("*"))
    return rows | {"files": files, "spool": len(list(settings.UPLOAD_DIR.glob("*")))}


@pytest.fixture
def ada(db) -> Api:
    return Api("ada")


@pytest.fixture
def bob(db) -> Api:
    return Api("bob")


@pytest.fixture
def anyone(db) -> Api:
    return Api()


@pytest.fixture
def adapter_files(tmp_path: Path):
    """A function that makes the files of a small adapter; keyword arguments as `write_adapter_files`."""

    def make(samples: bytes | None = SAMPLES, **options: Any) -> dict[str, bytes]:
        folder = write_adapter_files(tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}", **options)
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        return files | ({"samples.jsonl": samples} if samples is not None else {})

    return make
