"""`import_folder`: looks at every adapter below a directory of this machine, or takes them in."""

import socket
from pathlib import Path
from typing import Any

from registry import jobs
from registry.errors import Invalid
from registry.import_jobs import counts_of, row_path, store_outcome
from registry.imports import Found, Outcome, find_folders, import_folder, look_at, namespace_owner, printable
from registry.intake import Described
from registry.models import Namespace
from workers.runner import Work


def handle(work: Work) -> None:
    """A row per folder. A second attempt goes on where the first one stopped."""
    order = work.job.payload
    root = Path(order["dir"])
    if not root.is_dir():
        raise Invalid(
            f"The worker on {socket.gethostname()} sees no directory {root}. Make it visible there under this path, "
            "such as by mounting it into the worker's container, and readable by the worker's user."
        )
    unreadable: list[OSError] = []
    found = find_folders(root, order["owner"], on_error=unreadable.append)
    work.log(f"{len(found)} folders below {root} have an adapter_config.json")
    for error in unreadable[:20]:
        work.log(f"Cannot be read: {printable(str(error.filename))}: {error.strerror}")
    done = set(work.job.folders.values_list("path", flat=True))
    if done:
        work.log(f"{len(done)} of them were done before; going on with the rest")
    for number, item in enumerate(found):
        # First, so that cancelling stops it before the next folder.
        work.progress(number / len(found))
        if row_path(item) not in done:
            store_outcome(work.job, item, _outcome(order, item))
    counts = {name: count for name, count in counts_of(work.job).items() if count}
    with jobs.finishing(work.job, {"folders": len(found), **counts}):
        work.log(", ".join(f"{count} {name}" for name, count in counts.items()) or "Nothing to import")


def _outcome(order: dict[str, Any], item: Found) -> Outcome:
    if order["dry"]:
        namespace = Namespace.objects.select_related("owner").filter(name=order["owner"]).first()
        return look_at(namespace.owner if namespace else None, item)
    message = f"Import {Path(order['dir']).name}"
    return import_folder(
        namespace_owner(order["owner"]), item, Described(visibility=order["visibility"], message=message)
    )
