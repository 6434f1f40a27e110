"""`preview`: measures how the adapters of a merge request relate, where they are too large for a web process."""

from registry import jobs
from registry.merge_measures import measure_files
from registry.models import Revision
from workers.runner import Work


def handle(work: Work) -> None:
    """Nothing changes but the job, which keeps the measures as its result."""
    payload = work.job.payload
    found = Revision.objects.select_related("adapter").defer("modules").in_bulk(payload["revisions"])
    revisions = [found[pk] for pk in payload["revisions"]]
    work.log(f"Measuring how {len(revisions)} experts relate")
    measured = measure_files(revisions, work.part(0.0, 0.95))
    with jobs.finishing(work.job, {"measures": measured.measures(payload["weights"])}):
        pass
