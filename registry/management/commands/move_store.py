"""`manage.py move_store [--back]`: copies every file from DATA_DIR into the bucket that S3_BUCKET names, or back."""

import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from registry.errors import BlobDamaged, StoreUnavailable
from registry.moving import copy_into_bucket, copy_out_of_bucket
from registry.reconciliation import referenced
from registry.storage import store
from registry.stores.files import FileStore

TELL_EVERY_S = 5


class Command(BaseCommand):
    help = (
        "Copy every stored file from DATA_DIR/files into the S3 bucket that the environment names, each verified. "
        "Nothing is removed. Run it again to go on, or for what has come since. Safe while the site serves."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--back", action="store_true", help="from the bucket into DATA_DIR/files")

    def handle(self, *args: Any, **options: Any) -> None:
        if isinstance(store(), FileStore):
            raise CommandError("S3_BUCKET is not set: there is no other store to move to. Set it for this command.")
        copy = copy_out_of_bucket if options["back"] else copy_into_bucket
        files = FileStore(settings.DATA_DIR / "files")
        blobs = list(referenced().order_by("created_at", "pk"))
        copied, failed, told_at = 0, 0, time.monotonic()
        for number, blob in enumerate(blobs, 1):
            try:
                copied += copy(blob, files)
            except BlobDamaged as error:
                failed += 1
                self.stderr.write(f"damaged   {blob.sha256}: {' '.join(error.__notes__)}")
            except StoreUnavailable as error:
                raise CommandError(f"{error.message} Cause: {error.__cause__}. Run it again to go on.") from error
            if time.monotonic() - told_at > TELL_EVERY_S:
                self.stdout.write(f"{number} of {len(blobs)} files, {copied} copied")
                told_at = time.monotonic()
        there = len(blobs) - copied - failed
        self.stdout.write(f"{len(blobs)} files: {copied} copied, {there} were there already, {failed} damaged")
        if failed:
            raise CommandError("Damaged files were not copied. Restore them from a backup, and run it again.")
