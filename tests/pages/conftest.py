"""A person, her browser without scripts, and real adapters that she has uploaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from registry.accounts import create_user
from registry.adapters import publish
from registry.models import Job, Merge, MergeArtefact, MergeInput, Revision
from registry.storage import put_bytes
from tests.lora.factories import write_adapter_files

PASSWORD = "a long enough passphrase"
SAMPLES = b'{"input": "Capital of Peru?", "output": "Lima"}\n{"input": "Capital of Chad?"}\n'
Upload = Callable[..., Revision]


@pytest.fixture
def ada() -> User:
    return create_user("ada", PASSWORD)


@pytest.fixture
def browser(ada: User) -> Client:
    client = Client()
    client.force_login(ada)
    return client


@pytest.fixture
def upload(ada: User, tmp_path: Path) -> Upload:
    """Uploads a real adapter through the API, and admits it as its job would."""

    def do(
        name: str = "ada/capitals",
        *,
        ready: bool = True,
        seed: int = 0,
        files: dict[str, bytes] | None = None,
        **fields: Any,
    ) -> Revision:
        write_adapter_files(tmp_path, seed=seed)
        written = {path.name: path.read_bytes() for path in tmp_path.iterdir()} | {"samples.jsonl": SAMPLES}
        parts = {file: SimpleUploadedFile(file, content) for file, content in (written | (files or {})).items()}
        client = Client()
        client.force_login(User.objects.get(username=name.split("/")[0]))
        answer = client.post("/api/v1/adapters/", {"name": name, **parts, **fields})
        assert answer.status_code == 202, answer.content
        revision = Revision.objects.get(commit=answer.json()["adapter"]["revision"])
        if ready:
            publish(revision, with_values(revision.facts), 1.5, revision.warnings)
        return revision

    return do


def with_values(facts: dict[str, Any]) -> dict[str, Any]:
    values = {"norm": 0.75, "sigma": [0.6, 0.4, 0.2, 0.1], "stable_rank": 1.6}
    return facts | {"modules": [module | values for module in facts["modules"]]}


@pytest.fixture
def merge(ada: User, upload: Upload) -> Merge:
    parents = [upload("ada/one", seed=1), upload("ada/two", seed=2)]
    child = upload("ada/both", seed=3)
    module = {"path": "model.layers.0.q", "rank": 4, "energy_kept": 0.9, "relative_error": 0.3, "norm_in": [1, 2]}
    report = {"energy_kept": 0.913, "relative_error": 0.295, "warnings": [], "per_module": [module | {"norm_out": 1.5}]}
    artefact = MergeArtefact.objects.create(
        recipe_hash="c" * 64, weights=put_bytes(b"w"), config=put_bytes(b"c"), report=report
    )
    merge = Merge.objects.create(
        owner=ada,
        method="ties",
        params={"density": 0.2},
        output={"name": "ada/both", "visibility": "public", "rank": {"mode": "max_input"}, "dtype": None},
        recipe_hash="c" * 64,
        request_hash="d" * 64,
        artefact=artefact,
        revision=child,
    )
    for position, parent in enumerate(parents):
        MergeInput.objects.create(merge=merge, position=position, revision=parent, weight=0.5)
    Job.objects.create(kind="merge", owner=ada, merge=merge, status="succeeded", progress=1, result={"merge": "x"})
    return merge
