"""`snapshot`: writes what the index holds into an immutable file, so that the exact tail stays short."""

from registry import jobs
from retrieval.snapshots import build_if_due
from workers.runner import Work


def handle(work: Work) -> None:
    """Builds and publishes a snapshot where one is due."""
    built = build_if_due()
    with jobs.finishing(work.job, {"snapshot": built.sha256 if built else None}):
        work.log(f"Built an index of {built}" if built else "Nothing to do")
