"""`manage.py sketch_deltas`: computes the sketches of adapters that were taken in before there were any."""

from contextlib import ExitStack
from typing import Any

from django.core.management.base import BaseCommand

from registry.errors import AppError
from registry.merges import local_file
from retrieval.sketches import lacking, store_sketch


class Command(BaseCommand):
    help = (
        "Compute what finds adapters of a like ΔW, for those that lack it. Can be stopped, and goes on when run again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        done = 0
        for revision in lacking().select_related("adapter").defer("modules").order_by("pk").iterator(chunk_size=100):
            try:
                with ExitStack() as stack:
                    item = local_file(revision, stack)
                    store_sketch(revision, item.weights_path, item.layout)
            except AppError as error:
                self.stderr.write(f"{revision.adapter.full_name}: {error.message}")
            else:
                done += 1
        self.stdout.write(f"Looked at {done} adapters.")
