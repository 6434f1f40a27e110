"""The view that this process answers from, kept current: one cheap SELECT per request tells whether it still is."""

import logging
import threading
import time

from registry.changes import current_seq
from retrieval import snapshots
from retrieval.pool import Pool
from retrieval.search import View
from retrieval.spaces import encoder_of, next_space, served_space_id

logger = logging.getLogger(__name__)

# How long a new snapshot may go unnoticed while nothing else changes; answers are exact without it.
SNAPSHOT_POLL_S = 5.0


class _Live:
    def __init__(self) -> None:
        self.view: View | None = None
        self.snapshot_id: int | None = None
        self.looked_at = 0.0


_live = _Live()
_refreshing = threading.Lock()


def current_view() -> View:
    """The view as of the last committed change. Raises: NotReady where there are no vectors and no encoder."""
    view = _live.view
    if view is not None and _is_current(view):
        return view
    with _refreshing:
        view = _live.view
        if view is None or not _is_current(view):
            # One assignment: requests that hold the old view finish with it.
            view = _live.view = _next_view(view)
        return view


def _is_current(view: View) -> bool:
    # A space that is put into service is a change, too.
    recent = time.monotonic() - _live.looked_at < SNAPSHOT_POLL_S
    return recent and view.pool.seq == current_seq()


def _next_view(view: View | None) -> View:
    while True:
        space = served_space_id()
        found = _view_in(space, view)
        if served_space_id() == space:
            return found


def _view_in(space: str, view: View | None) -> View:
    same_space = view if view is not None and view.pool.space == space else None
    pool = (same_space.pool if same_space else Pool(space)).refreshed()
    index = same_space.index if same_space else None
    newest = snapshots.newest_id(space)
    if newest is not None and (same_space is None or newest != _live.snapshot_id):
        index = snapshots.load_newest(space) or index
    unchanged = same_space is not None and pool is same_space.pool and index is same_space.index
    _live.snapshot_id = newest
    _live.looked_at = time.monotonic()
    if unchanged:
        return same_space
    logger.info("Serving %d experts as of change %d", len(pool), pool.seq)
    return View(pool, index, f"{newest or 0}.{pool.seq}", same_space)


def forget() -> None:
    """Start again from the database at the next request."""
    with _refreshing:
        _live.view = None
        _live.snapshot_id = None


def index_status() -> dict[str, object]:
    """`{ok, space, snapshot, tail, lag, next}`: lag counts changes that the served view has not seen; next, the space
    that is being computed to replace this one and how far it is, or None.

    Raises: NotReady: queries cannot be embedded in the space, or Milvus does not answer.
    """
    view = current_view()
    encoder_of(view.pool.space)
    if view.index is not None:
        view.index.check()
    return {
        "ok": True,
        "space": view.pool.space,
        "snapshot": _live.snapshot_id,
        "experts": len(view.pool),
        "tail": view.tail_count,
        "lag": current_seq() - view.pool.seq,
        "next": next_space(),
    }


def served_status() -> dict[str, float] | None:
    """Sizes and lag of the view as it is, without looking for a newer one; None before the first retrieval."""
    view, looked_at = _live.view, _live.looked_at
    if view is None:
        return None
    return {
        "experts": len(view.pool),
        "tail": view.tail_count,
        "lag": current_seq() - view.pool.seq,
        "age_seconds": time.monotonic() - looked_at,
    }
