"""Imports as jobs: a directory on the workers' machine is looked at, or taken in, and every folder gets a row."""

from pathlib import Path
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.db.models import Count, Q, QuerySet

from registry.errors import Invalid, PermissionRefused
from registry.imports import Found, Outcome, left_out, namespace_owner, printable, size_of
from registry.intake import Described, check_described
from registry.jobs import enqueue
from registry.models import ImportedFolder, Job, Revision
from registry.names import check_owner

KIND = "import_folder"
MAX_PATH = 4096


def start_import(user: AbstractBaseUser, directory: str, owner: str, visibility: str, *, dry: bool) -> Job:
    """A job that looks at every adapter below `directory` (`dry`), or takes them in; the same one while it is open.

    Raises: PermissionRefused for all but staff, Invalid, AlreadyExists for an owner too close to another.
    """
    if not user.is_staff:
        raise PermissionRefused("Only staff may import from the server's disk.")
    payload = {"dir": _absolute(directory), "owner": check_owner(owner), "visibility": visibility, "dry": dry}
    check_described(Described(visibility=visibility))
    open_jobs = Job.objects.filter(kind=KIND, owner_id=user.pk, payload=payload).exclude(status__in=Job.FINAL)
    if running := open_jobs.first():
        return running
    if not dry:
        namespace_owner(owner)
    return enqueue(KIND, owner=user, payload=payload)


def _absolute(directory: str) -> str:
    """The directory without `.`, `..` and a slash at its end. Whether it is there, only a worker can tell."""
    path = Path(directory.strip())
    if not path.is_absolute() or "\0" in directory or len(directory) > MAX_PATH or ".." in path.parts:
        message = "The directory is an absolute path on the machine of the workers, such as /srv/loras."
        raise Invalid(message, detail={"dir": "absolute path expected"})
    return str(path)


def store_outcome(job: Job, found: Found, outcome: Outcome) -> ImportedFolder:
    """The row of a folder. A second worker's row for the same folder is the same row."""
    try:
        size_bytes, unused = size_of(found), left_out(found.folder)
    except OSError:  # gone, or not to be read; the outcome says so
        size_bytes, unused = 0, []
    fields = {
        "name": found.name[:200],
        "outcome": outcome.kind,
        "reason": printable(outcome.reason),
        "rank": outcome.rank,
        "warnings": outcome.warnings,
        "revision": outcome.revision,
        "size_bytes": size_bytes,
        "left_out": unused,
    }
    return ImportedFolder.objects.get_or_create(job=job, path=row_path(found), defaults=fields)[0]


def row_path(found: Found) -> str:
    """The path under which a folder's row is kept."""
    return printable(found.path)[: ImportedFolder._meta.get_field("path").max_length]


# What a row has come to: a folder that was taken in is as good as its revision.
VERDICTS = {
    "ready": Q(outcome__in=["taken", "known"], revision__state=Revision.State.READY),
    "checking": Q(outcome__in=["taken", "known"], revision__state=Revision.State.CHECKING),
    "fits": Q(outcome="fits"),
    "refused": Q(outcome="refused") | Q(revision__state=Revision.State.REJECTED),
}


def folders_of(job: Job, verdict: str = "") -> QuerySet[ImportedFolder]:
    """The rows of an import so far, or those of one verdict. Raises: Invalid for an unknown one."""
    if verdict and verdict not in VERDICTS:
        raise Invalid(f"verdict is one of {', '.join(VERDICTS)}.", detail={"verdict": "unknown"})
    rows = job.folders.filter(VERDICTS.get(verdict, Q()))
    return rows.select_related("revision__adapter").defer("revision__modules")


def counts_of(job: Job) -> dict[str, int]:
    """How many rows have come to each verdict."""
    return job.folders.aggregate(**{name: Count("pk", filter=verdict) for name, verdict in VERDICTS.items()})


def verdict_of(row: ImportedFolder) -> str:
    """One of `VERDICTS`."""
    if row.revision is None:
        return "refused" if row.outcome == ImportedFolder.Outcome.REFUSED else row.outcome
    return "refused" if row.revision.state == Revision.State.REJECTED else row.revision.state


def folder_json(row: ImportedFolder) -> dict[str, Any]:
    """A row as the REST contract shows it."""
    return {
        "path": row.path,
        "adapter": row.name,
        "verdict": verdict_of(row),
        "is_new": row.outcome in ("taken", "fits"),
        "reason": reason_of(row),
        "size_bytes": row.size_bytes,
        "rank": row.rank,
        "warnings": row.warnings,
        "left_out": row.left_out,
    }


def reason_of(row: ImportedFolder) -> str:
    """Why it was refused, by the import or by the job of its revision."""
    problems = row.revision.problems if row.revision else []
    return row.reason or " ".join(problem["message"] for problem in problems)
