"""`manage.py check_store [--deep] [--delete-orphans]`: database against store."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from registry.errors import StoreUnavailable
from registry.models import RevisionFile
from registry.reconciliation import delete_orphans, delete_unfinished, reconcile


class Command(BaseCommand):
    help = (
        "Compare the database with the store of files: what is missing or damaged, and what nobody refers to. "
        "Ends with 1 where they differ. Safe while the site serves."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--deep", action="store_true", help="read every file and compare its SHA-256")
        parser.add_argument("--delete-orphans", action="store_true", help="remove what nobody refers to")
        parser.add_argument(
            "--older-than",
            type=float,
            default=24,
            metavar="HOURS",
            help="an orphan is what nobody has touched for so long; keep it longer than any upload or job takes (24)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        before = timezone.now() - timedelta(hours=options["older_than"])
        try:
            if options["delete_orphans"]:
                for sha256 in delete_orphans(before):
                    self.stdout.write(f"deleted   {sha256}")
                self.stdout.write(f"{delete_unfinished(before)} leftovers of broken-off writes removed")
            found = reconcile(before, deep=options["deep"])
        except StoreUnavailable as error:
            raise CommandError(f"{error.message} Cause: {error.__cause__}") from error
        for sha256 in found.damaged:
            self.stdout.write(f"damaged   {sha256}  {_used_by(sha256)}")
        for sha256 in found.orphans:
            self.stdout.write(f"orphan    {sha256}")
        self.stdout.write(
            f"{found.checked} files {'read and ' if options['deep'] else ''}checked: {len(found.damaged)} missing or "
            f"damaged, {len(found.orphans)} orphans, {len(found.in_work)} in work"
        )
        if found.damaged or found.orphans:
            raise CommandError("Database and store differ.")


def _used_by(sha256: str) -> str:
    """The adapters' files that have this content."""
    files = RevisionFile.objects.filter(blob_id=sha256).select_related("revision__adapter")
    return ", ".join(f"{file.revision} {file.path}" for file in files[:10])
