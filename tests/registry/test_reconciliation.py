"""Database against store: what is missing, damaged or there for nobody, and what may be removed."""

import os
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from registry.models import Blob, RevisionFile
from registry.reconciliation import delete_orphans, reconcile, referenced, unreferenced
from registry.storage import put_bytes, store
from tests.retrieval.rows import make_expert

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _own_store(settings, tmp_path):
    settings.STORAGES = settings.STORAGES | {
        "blobs": {"BACKEND": "registry.stores.files.FileStore", "OPTIONS": {"root": tmp_path / "files"}}
    }
    settings.UPLOAD_DIR, settings.SCRATCH_DIR = tmp_path / "incoming", tmp_path / "scratch"


@pytest.fixture
def used() -> Blob:
    blob = put_bytes(b"used")
    RevisionFile.objects.create(revision=make_expert("ada/one").head, path="README.md", blob=blob)
    return blob


def make_old(blob: Blob) -> None:
    """As if nobody had touched it for two days."""
    moment = timezone.now() - timedelta(days=2)
    Blob.objects.filter(pk=blob.pk).update(touched_at=moment)
    os.utime(store().local(blob.sha256), (moment.timestamp(), moment.timestamp()))


def check(*flags: str) -> str:
    out = StringIO()
    call_command("check_store", *flags, stdout=out)
    return out.getvalue()


def test_nothing_differs_where_all_is_well(used):
    make_old(used)
    assert "1 files checked: 0 missing or damaged, 0 orphans, 0 in work" in check()
    assert "read and checked" in check("--deep")


@pytest.mark.parametrize("deep", [True, False])
def test_a_missing_file_is_reported_with_the_adapter_that_needs_it(used, deep):
    store().delete(used.sha256)
    out = StringIO()
    with pytest.raises(CommandError, match="differ"):
        call_command("check_store", deep=deep, stdout=out)
    assert f"damaged   {used.sha256}  ada/one@" in out.getvalue()


def test_one_wrong_byte_is_found_by_reading(used):
    store().local(used.sha256).write_bytes(b"Used")
    check()
    with pytest.raises(CommandError):
        check("--deep")


def test_an_orphan_is_removed_once_nobody_has_touched_it_for_long(used):
    orphan = put_bytes(b"nobody refers to me")
    assert "1 in work" in check("--delete-orphans")
    make_old(orphan)
    make_old(used)
    with pytest.raises(CommandError):
        check()
    assert f"deleted   {orphan.sha256}" in check("--delete-orphans")
    assert store().size(orphan.sha256) is None
    assert store().size(used.sha256) == len(b"used")
    assert list(referenced()) == [used]
    assert not unreferenced().exists()


def test_an_object_without_a_row_is_an_orphan_too(used):
    stray = put_bytes(b"its row was lost")
    make_old(stray)
    stray.delete()
    with pytest.raises(CommandError):
        check()
    check("--delete-orphans")
    assert [found.sha256 for found in store().walk()] == [used.sha256]


def test_what_is_stored_again_is_kept(used):
    """Its row is touched before the store is asked, so that the removal passes it over."""
    orphan = put_bytes(b"again")
    make_old(orphan)
    put_bytes(b"again")
    assert list(delete_orphans(timezone.now() - timedelta(hours=24))) == []
    assert reconcile(timezone.now() - timedelta(hours=24)).in_work == [orphan.sha256]


def test_what_killed_processes_left_on_the_disk_is_removed(settings):
    old = (timezone.now() - timedelta(days=2)).timestamp()
    young = settings.UPLOAD_DIR / "young"
    leftovers = [
        settings.UPLOAD_DIR / "spooled",
        settings.SCRATCH_DIR / "folder" / "weights",
        store().root / "ab/x.part",
    ]
    for path in [young, *leftovers]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in [*leftovers, settings.SCRATCH_DIR / "folder"]:
        os.utime(path, (old, old))
    check("--delete-orphans")
    assert young.exists()
    assert not any(path.exists() for path in leftovers)
