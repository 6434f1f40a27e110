"""The experts that a job was asked to run, when it comes to run them."""

from registry.errors import Conflict
from registry.models import Revision
from registry.queries import visible_adapters
from workers.runner import Work


def offered(work: Work) -> list[Revision]:
    """Those of the job's `revisions` that its owner may still see. Raises: Conflict: none, or the account is gone."""
    if work.job.owner is None:
        raise Conflict("The account that asked for this is gone.")
    wanted = work.job.payload["revisions"]
    rows = Revision.objects.select_related("adapter").defer("modules").prefetch_related("files__blob").in_bulk(wanted)
    adapters = [revision.adapter_id for revision in rows.values()]
    seen = set(visible_adapters(work.job.owner).filter(pk__in=adapters).values_list("pk", flat=True))
    found = [rows[pk] for pk in wanted if pk in rows and rows[pk].adapter_id in seen]
    if wanted and not found:
        raise Conflict("Every expert of this question was taken back while it waited.")
    if len(found) < len(wanted):
        work.log(f"{len(wanted) - len(found)} of the experts were taken back meanwhile")
    return found
