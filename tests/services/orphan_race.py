"""Run by `manage.py shell` over an empty database: store content while the same content is removed as an orphan."""

import threading
import time
from datetime import timedelta

from django.utils import timezone

from registry.models import Blob
from registry.reconciliation import delete_orphans
from registry.storage import put_bytes, read_blob, store

DATA = b"wanted again"
# How long either side is held up in its critical moment: ample for the other to run into it.
HELD_S = 1.5


def old_orphan() -> Blob:
    blob = put_bytes(DATA)
    Blob.objects.filter(pk=blob.pk).update(touched_at=timezone.now() - timedelta(days=2))
    return blob


def held_up(method: str) -> tuple[threading.Event, threading.Event]:
    """Let the next call of a method of the store wait. Returns: set when it is called, set when it goes on."""
    called, goes_on, original = threading.Event(), threading.Event(), getattr(store(), method)

    def waiting(*arguments: object) -> object:
        setattr(store(), method, original)
        called.set()
        time.sleep(HELD_S)
        goes_on.set()
        return original(*arguments)

    setattr(store(), method, waiting)
    return called, goes_on


def in_thread(work: object) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def removed_first() -> None:
    """The removal holds the row's lock; who stores waits for it, finds nothing there, and stores anew."""
    blob = old_orphan()
    removing, goes_on = held_up("delete")
    removed: list[str] = []
    thread = in_thread(lambda: removed.extend(delete_orphans(timezone.now() - timedelta(days=1))))
    assert removing.wait(30)
    assert not goes_on.is_set()
    stored = put_bytes(DATA)
    thread.join()
    assert removed == [blob.sha256]
    assert read_blob(stored) == DATA


def stored_first() -> None:
    """The row is touched before the store is asked; the removal passes it over."""
    old_orphan()
    storing, goes_on = held_up("put")
    thread = in_thread(lambda: put_bytes(DATA))
    assert storing.wait(30)
    assert not goes_on.is_set()
    assert list(delete_orphans(timezone.now() - timedelta(days=1))) == []
    thread.join()
    assert read_blob(Blob.objects.get()) == DATA


def main() -> None:
    removed_first()
    stored_first()
