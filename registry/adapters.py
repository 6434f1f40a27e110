"""Adapters: take in a revision, publish it when its job has passed it, edit, yank."""

import hashlib
import json
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.db.models.functions import Now

from registry import cards, samples
from registry.accounts import own_namespace
from registry.changes import next_seq
from registry.errors import AlreadyExists, Conflict, Invalid
from registry.intake import Checked, Described, NewFile, check_described, check_upload
from registry.jobs import enqueue
from registry.models import Adapter, Job, Namespace, Revision, RevisionFile
from registry.names import check_tags, split_name
from registry.storage import put_bytes, put_file, read_blob


def upload_adapter(
    user: AbstractBaseUser, full_name: str, files: dict[str, NewFile], said: Described
) -> tuple[Revision, Job | None]:
    """Take in a revision and the job that will check its values and compute its prototypes.

    Returns: the revision and its job; no job where the files equal those of the head.
    Raises: Invalid, PermissionRefused, InvalidSamples, InvalidAdapter, AlreadyExists, Conflict; nothing is stored then.
    """
    owner, name = split_name(full_name)
    namespace = own_namespace(user, owner)
    check_described(said)
    existing = _existing(namespace, full_name)
    if existing is not None and (known := _same_files(existing, {path: f.sha256 for path, f in files.items()})):
        return known, known.jobs.filter(status__in=["queued", "running"]).first()
    checked = check_upload(files, said)
    with transaction.atomic():
        adapter = existing or _new_adapter(namespace, name)
        _apply(adapter, said, checked)
        revision = _new_revision(adapter, user, files, checked, said.message)
        job = enqueue("ingest", owner=user, revision=revision)
    return revision, job


def _existing(namespace: Namespace, full_name: str) -> Adapter | None:
    adapter = Adapter.objects.select_related("head", "namespace").filter(key=full_name.casefold()).first()
    if adapter is None:
        return None
    if adapter.full_name != full_name:
        raise AlreadyExists(
            f"{adapter.full_name} exists and differs only in case. Use that name, or choose another.",
            headers={"Location": f"/api/v1/adapters/{adapter.full_name}/"},
        )
    if adapter.yanked_at is not None:
        raise Conflict(f"{full_name} was yanked, and a used name is not used again. Choose another name.")
    return adapter


def _same_files(adapter: Adapter, digests: dict[str, str]) -> Revision | None:
    """The head, or a revision still being checked, if it has exactly these files."""
    for revision in adapter.revisions.exclude(state=Revision.State.REJECTED).prefetch_related("files"):
        current = revision.pk == adapter.head_id or revision.state == Revision.State.CHECKING
        if current and {file.path: file.blob_id for file in revision.files.all()} == digests:
            return revision
    return None


def _new_adapter(namespace: Namespace, name: str) -> Adapter:
    full_name = f"{namespace.name}/{name}"
    return Adapter(namespace=namespace, name=name, full_name=full_name, key=full_name.casefold())


def _apply(adapter: Adapter, said: Described, checked: Checked) -> None:
    """Set what the contributor said, and fill what is still empty from the card."""
    card = checked.card
    if said.visibility is not None:
        adapter.visibility = said.visibility
    prose = "" if card.is_template else card.first_paragraph
    adapter.description = said.description if said.description is not None else adapter.description or prose
    adapter.license = said.license if said.license is not None else card.license or adapter.license
    adapter.tags = check_tags(said.tags) if said.tags is not None else adapter.tags or _usable_tags(card.tags)
    adapter.base_model = checked.base_model
    adapter.change_seq = next_seq()
    adapter.save()


def _usable_tags(tags: list[str]) -> list[str]:
    """A card's tags are a hint, not input to refuse an upload for."""
    try:
        return check_tags(tags)
    except Invalid:
        return []


def _new_revision(
    adapter: Adapter, user: AbstractBaseUser, files: dict[str, NewFile], checked: Checked, message: str
) -> Revision:
    parent = adapter.head
    manifest = sorted((path, file.sha256) for path, file in files.items())
    revision = Revision.objects.create(
        adapter=adapter,
        commit=_commit_id(adapter, manifest),
        parent=parent,
        author_id=user.pk,
        message=message,
        base_model=checked.base_model,
        facts=checked.verdict.facts,
        warnings=checked.warnings,
    )
    RevisionFile.objects.bulk_create(
        RevisionFile(revision=revision, path=path, blob=put_file(file.path, file.sha256))
        for path, file in files.items()
    )
    return revision


def _commit_id(adapter: Adapter, manifest: list[tuple[str, str]]) -> str:
    """40 hex over the manifest and its place in the adapter's history, so that no id is used twice."""
    history = [adapter.full_name, adapter.revisions.count(), manifest]
    return hashlib.sha256(json.dumps(history).encode()).hexdigest()[:40]


def replace_samples(user: AbstractBaseUser, adapter: Adapter, raw: bytes) -> tuple[Revision, Job]:
    """A new revision with other samples that shares every other file. Raises: InvalidSamples, Conflict."""
    samples.parse_samples(raw)
    head = adapter.head
    if head is None:
        raise Conflict(f"{adapter.full_name} has no revision that passed its checks yet. Wait for its job.")
    blob = put_bytes(raw)
    manifest = {file.path: file.blob for file in head.files.select_related("blob")} | {samples.PATH: blob}
    with transaction.atomic():
        revision = Revision.objects.create(
            adapter=adapter,
            commit=_commit_id(adapter, sorted((path, blob.sha256) for path, blob in manifest.items())),
            parent=head,
            author_id=user.pk,
            message="Replace samples",
            base_model=head.base_model,
            facts=head.facts,
            warnings=[warning for warning in head.warnings if warning["code"] != "no_samples"],
        )
        RevisionFile.objects.bulk_create(
            RevisionFile(revision=revision, path=path, blob=blob) for path, blob in manifest.items()
        )
        return revision, enqueue("ingest", owner=user, revision=revision)


def publish(revision: Revision, facts: dict[str, Any], warnings: list[dict[str, str]]) -> None:
    """Admit a revision: `main` moves to it unless a newer one was admitted before. Call inside `jobs.finishing`."""
    revision.state = Revision.State.READY
    revision.facts = facts
    revision.warnings = warnings
    revision.save(update_fields=["state", "facts", "warnings"])
    adapter = Adapter.objects.select_related("head").get(pk=revision.adapter_id)
    if adapter.head is None or adapter.head.pk < revision.pk:
        adapter.head = revision
    adapter.change_seq = next_seq()
    adapter.save(update_fields=["head", "change_seq", "updated_at"])


@transaction.atomic
def edit_adapter(adapter: Adapter, said: Described) -> None:
    """Change what is said about an adapter; its files never change. Raises: Invalid."""
    check_described(said)
    for name in ("visibility", "description", "license", "tags"):
        if (value := getattr(said, name)) is not None:
            setattr(adapter, name, check_tags(value) if name == "tags" else value)
    adapter.change_seq = next_seq()
    adapter.save()


@transaction.atomic
def yank_adapter(adapter: Adapter) -> None:
    """Take an adapter out of search, retrieval and merging. Its files stay for its owner and for old merges."""
    Adapter.objects.filter(pk=adapter.pk, yanked_at=None).update(yanked_at=Now(), change_seq=next_seq())


def read_card(revision: Revision) -> str:
    """The body of the revision's card; empty where it has none."""
    file = revision.file(cards.PATH)
    return cards.parse_card(read_blob(file.blob)).text if file else ""
