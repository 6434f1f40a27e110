"""Adapters: take in a revision, publish it when its job has passed it, edit, yank."""

import hashlib
import json
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from registry import cards, samples
from registry.accounts import own_namespace
from registry.changes import next_seq
from registry.errors import AlreadyExists, Conflict, Invalid
from registry.intake import Checked, Described, NewFile, check_described, check_upload
from registry.jobs import enqueue
from registry.listing import index_adapters
from registry.models import Adapter, Blob, Job, Revision, RevisionFile
from registry.names import check_tags, split_name
from registry.storage import put_bytes, put_files, read_blob

EDITED = ("visibility", "description", "license", "tags", "samples_public")


def upload_adapter(
    user: AbstractBaseUser, full_name: str, files: dict[str, NewFile], said: Described
) -> tuple[Revision, Job | None]:
    """Take in a revision and the job that will check its values and compute its prototypes.

    Returns: the revision and its job; no job where the files equal those of the head.
    Raises: Invalid, PermissionRefused, InvalidSamples, InvalidAdapter, AlreadyExists, Conflict, StoreUnavailable;
        nothing is visible then.
    """
    adapter = open_adapter(user, full_name)
    check_described(said)
    if known := _same_files(adapter, {path: file.sha256 for path, file in files.items()}):
        return known, known.jobs.filter(status__in=[Job.Status.QUEUED, Job.Status.RUNNING]).first()
    checked = check_upload(files, said)
    # Before the transaction: no lock of the database waits for the store. Without a revision they are orphans.
    rows = put_files({file.sha256: file.path for file in files.values()})
    blobs = {path: rows[file.sha256] for path, file in files.items()}
    try:
        with transaction.atomic():
            # Again, because storing may have taken minutes.
            adapter = open_adapter(user, full_name)
            revision = store_revision(user, adapter, blobs, said, checked)
            return revision, enqueue("ingest", owner=user, revision=revision)
    except IntegrityError as error:
        raise Conflict(f"Somebody else is uploading to {full_name} right now. Try again.") from error


def open_adapter(user: AbstractBaseUser, full_name: str) -> Adapter:
    """The user's adapter of that name, or a new one that is not saved yet.

    Raises: Invalid, PermissionRefused, AlreadyExists (differs in case only), Conflict (yanked).
    """
    owner, name = split_name(full_name)
    namespace = own_namespace(user, owner)
    adapter = Adapter.objects.filter(key=full_name.casefold()).first()
    if adapter is None:
        return Adapter(namespace=namespace, name=name, full_name=full_name, key=full_name.casefold())
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
    if adapter.pk is None:
        return None
    revisions = adapter.revisions.exclude(state=Revision.State.REJECTED)
    for revision in revisions.defer("modules").prefetch_related("files"):
        current = revision.pk == adapter.head_id or revision.state == Revision.State.CHECKING
        if current and {file.path: file.blob_id for file in revision.files.all()} == digests:
            return revision
    return None


def store_revision(
    user: AbstractBaseUser, adapter: Adapter, blobs: dict[str, Blob], said: Described, checked: Checked
) -> Revision:
    """A revision in state `checking` over stored files. Call inside a transaction."""
    _apply(adapter, said, checked)
    revision = _create_revision(
        adapter,
        blobs,
        parent_id=adapter.head_id,
        author_id=user.pk,
        message=said.message,
        base_model=checked.base_model,
        facts=checked.verdict.facts,
        warnings=checked.warnings,
    )
    index_adapters([adapter.pk])
    return revision


def _create_revision(adapter: Adapter, blobs: dict[str, Blob], **fields: Any) -> Revision:
    # The position in the adapter's history keeps an id from being used twice.
    history = [adapter.full_name, adapter.revisions.count(), sorted((path, b.sha256) for path, b in blobs.items())]
    commit = hashlib.sha256(json.dumps(history).encode()).hexdigest()[:40]
    revision = Revision.objects.create(adapter=adapter, commit=commit, **fields)
    RevisionFile.objects.bulk_create(
        RevisionFile(revision=revision, path=path, blob=blob) for path, blob in blobs.items()
    )
    return revision


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
    # Of one that exists these alone: a job may have moved the head since it was read.
    adapter.save(update_fields=[*EDITED, "base_model", "change_seq", "updated_at"] if adapter.pk else None)


def _usable_tags(tags: list[str]) -> list[str]:
    """A card's tags are a hint, not input to refuse an upload for."""
    try:
        return check_tags(tags)
    except Invalid:
        return []


def replace_samples(user: AbstractBaseUser, adapter: Adapter, raw: bytes) -> tuple[Revision, Job]:
    """A new revision with other samples that shares every other file.

    Raises: InvalidSamples, Conflict, StoreUnavailable.
    """
    samples.parse_samples(raw)
    head = adapter.head
    if head is None or adapter.yanked_at is not None:
        raise Conflict(f"{adapter.full_name} has no ready revision. Wait for its job, or upload it anew.")
    stored = put_bytes(raw)
    with transaction.atomic():
        files = {file.path: file.blob for file in head.files.select_related("blob")} | {samples.PATH: stored}
        revision = _create_revision(
            adapter,
            files,
            parent=head,
            author_id=user.pk,
            message="Replace samples",
            base_model=head.base_model,
            facts=head.facts,
            warnings=[warning for warning in head.warnings if warning["code"] != "no_samples"],
        )
        return revision, enqueue("ingest", owner=user, revision=revision)


def publish(revision: Revision, facts: dict[str, Any], norm: float, warnings: list[dict[str, str]]) -> None:
    """Admit a revision: `main` moves to it unless a newer one was admitted before. Call inside `jobs.finishing`."""
    revision.state = Revision.State.READY
    revision.problems = []
    revision.facts = facts
    revision.norm = norm
    revision.warnings = warnings
    revision.save(update_fields=["state", "problems", "summary", "modules", "norm", "warnings"])
    # First, because its lock makes two workers take turns: the head that is read next is not about to move.
    seq = next_seq()
    adapter = Adapter.objects.get(pk=revision.adapter_id)
    if adapter.head_id is None or adapter.head_id < revision.pk:
        adapter.head = revision
    adapter.change_seq = seq
    adapter.save(update_fields=["head", "change_seq", "updated_at"])
    index_adapters([adapter.pk])


@transaction.atomic
def edit_adapter(adapter: Adapter, said: Described) -> None:
    """Change what is said about an adapter; its files never change. Raises: Invalid."""
    check_described(said)
    for name in EDITED:
        if (value := getattr(said, name)) is not None:
            setattr(adapter, name, check_tags(value) if name == "tags" else value)
    adapter.change_seq = next_seq()
    # These alone: a job may have moved the head since the adapter was read.
    adapter.save(update_fields=[*EDITED, "change_seq", "updated_at"])
    index_adapters([adapter.pk])


@transaction.atomic
def yank_adapter(adapter: Adapter) -> None:
    """Take an adapter out of search, retrieval and merging. Its files stay for its owner and for old merges."""
    Adapter.objects.filter(pk=adapter.pk, yanked_at=None).update(yanked_at=Now(), change_seq=next_seq())


def read_card(revision: Revision) -> str:
    """The body of the revision's card; empty where it has none."""
    file = revision.file(cards.PATH)
    return cards.parse_card(read_blob(file.blob)).text if file else ""
