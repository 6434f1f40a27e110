"""`fit_space`: a version of the hybrid space, every expert's row in it, and then that version in service."""

from registry import jobs
from retrieval.hybrid import (
    drop_old_versions,
    fill,
    first_version,
    fit_version,
    is_outgrown,
    lacking_rows,
    serve_version,
    served_version,
)
from retrieval.models import HybridVersion, Space
from retrieval.spaces import encoder_of
from workers.runner import Work


class _Behind(Exception):
    """Experts were published since the last look."""


def handle(work: Work) -> None:
    """Fits where there is no version or it is outgrown, computes missing rows, and switches with the end of the job."""
    base = Space.objects.get(pk=work.job.payload["space"])
    version = served_version(base.pk)
    if version is None:
        work.log("The hybrid space has its first version: the one that ships, or one for another encoder")
        version = first_version(base, encoder_of(base.pk))
    elif is_outgrown(version):
        work.log("Fitting the hybrid space to background texts and the samples of public experts")
        version = fit_version(base, encoder_of(base.pk))
    work.log(f"{version.space_id} is fitted to {version.experts} experts")
    work.progress(0.5)
    skipped: set[int] = set()
    while not _is_served(work, version, skipped):
        work.log("Experts arrived meanwhile; going on")
    drop_old_versions(base.pk)


def _is_served(work: Work, version: HybridVersion, skipped: set[int]) -> bool:
    total = max(lacking_rows(version).count(), 1)
    done = 0
    for count in fill(version, encoder_of(version.base_id), skipped):
        done += count
        work.progress(0.5 + 0.5 * min(done / total, 1.0))
    try:
        with jobs.finishing(work.job, {"space": version.space_id, "experts": version.experts, "skipped": len(skipped)}):
            if not serve_version(version, skipped):
                raise _Behind
            work.log(f"{version.space_id} is in service")
    except _Behind:
        return False
    return True
