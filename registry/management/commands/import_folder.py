"""`manage.py import_folder DIR [--owner OWNER]`: imports every adapter below a folder."""

import shutil
import time
from pathlib import Path
from typing import Any

from django.contrib.auth.models import AbstractBaseUser
from django.core.management.base import BaseCommand, CommandError, CommandParser

from registry.errors import AppError
from registry.imports import Found, Outcome, find_folders, import_folder, left_out, namespace_owner
from registry.intake import Described
from registry.models import Revision
from registry.queries import worker_is_heard

BAR = 30


class Command(BaseCommand):
    help = (
        "Import every adapter (a folder with adapter_config.json) below DIR. Files are copied. Running it again "
        "goes on where it stopped and takes in only what is new."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("dir", type=Path)
        parser.add_argument(
            "--owner", default="imported", help="the namespace to import into; its user is made if missing"
        )
        parser.add_argument("--visibility", choices=["public", "private"], help="default: public")
        parser.add_argument("--wait", action="store_true", help="wait for the jobs, as long as a worker runs")

    def handle(self, *args: Any, **options: Any) -> None:
        root, owner = options["dir"], options["owner"]
        if not root.is_dir():
            raise CommandError(f"{root} is not a folder.")
        found = find_folders(root, owner, on_error=lambda error: self.stderr.write(f"cannot be read: {error}"))
        if not found:
            raise CommandError(f"No folder below {root} has an adapter_config.json.")
        said = Described(visibility=options["visibility"], message=f"Import {root.resolve().name}")
        outcomes = self._import(_owner_of(owner), found, said)
        if options["wait"]:
            self._wait([outcome.revision for outcome in outcomes if outcome.revision])
        self._table(found, outcomes)

    def _import(self, user: AbstractBaseUser, found: list[Found], said: Described) -> list[Outcome]:
        outcomes = list[Outcome]()
        for number, item in enumerate(found, 1):
            self._progress("importing", number, len(found), item.name)
            outcomes.append(import_folder(user, item, said))
        self._end_progress()
        return outcomes

    def _wait(self, revisions: list[Revision]) -> None:
        """Until every revision is judged, or no worker has been heard from."""
        total, told = len(revisions), -1
        while open_ones := [revision for revision in revisions if revision.state == Revision.State.CHECKING]:
            done = total - len(open_ones)
            if not worker_is_heard():
                self._end_progress()
                self.stdout.write("No worker is running, so the jobs stay queued: start one with `make serve`.")
                return
            if done != told:
                self._progress("checking", done, total, open_ones[0].adapter.full_name)
                told = done
            time.sleep(0.5)
            rows = Revision.objects.only("state", "problems", "warnings")
            now = rows.in_bulk([revision.pk for revision in open_ones])
            for revision in open_ones:
                for field in ("state", "problems", "warnings"):
                    setattr(revision, field, getattr(now[revision.pk], field))
        self._progress("checking", total, total, "")
        self._end_progress()

    def _progress(self, what: str, number: int, total: int, name: str) -> None:
        """A bar that is drawn over on a terminal, a line each elsewhere."""
        if not self.stdout.isatty():
            self.stdout.write(f"{what} {number}/{total} {name}")
            return
        filled = "#" * (BAR * number // max(total, 1))
        line = f"{what} [{filled:<{BAR}}] {number}/{total} {name}"
        self.stdout.write("\r\033[K" + line[: shutil.get_terminal_size().columns - 1], ending="")
        self.stdout.flush()

    def _end_progress(self) -> None:
        if self.stdout.isatty():
            self.stdout.write("")

    def _table(self, found: list[Found], outcomes: list[Outcome]) -> None:
        rows = [(*_verdict(outcome), item) for item, outcome in zip(found, outcomes, strict=True)]
        width = max(len(item.name) for item in found)
        for verdict, why, item in rows:
            unused = ", ".join(left_out(item.folder))
            notes = [why.removesuffix(".")] * bool(why) + [f"left out: {unused}"] * bool(unused)
            self.stdout.write(f"{verdict:8}  {item.name:{width}}  {'; '.join(notes)}".rstrip())
        counts = {verdict: sum(row[0] == verdict for row in rows) for verdict in ("ready", "checking", "refused")}
        self.stdout.write(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


def _owner_of(name: str) -> AbstractBaseUser:
    try:
        return namespace_owner(name)
    except AppError as error:
        raise CommandError(error.message) from error


def _verdict(outcome: Outcome) -> tuple[str, str]:
    """One word, and why."""
    if outcome.revision is None:
        return "refused", outcome.reason
    if outcome.revision.state == Revision.State.REJECTED:
        return "refused", "; ".join(problem["message"] for problem in outcome.revision.problems)
    warnings = ", ".join(warning["code"] for warning in outcome.revision.warnings)
    return outcome.revision.state, f"warnings: {warnings}" if warnings else ""
