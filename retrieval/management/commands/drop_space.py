"""`manage.py drop_space [SPACE]`: removes the vectors of an encoder that is not used any more."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from retrieval.hybrid import drop_version
from retrieval.models import HybridVersion, IndexSnapshot, ProbeVector, Prototype, ServedSpace, Space
from retrieval.snapshots import remove_vectors
from retrieval.spaces import progress

CHUNK = 500


class Command(BaseCommand):
    help = (
        "Remove the vectors and index files of a space that is neither in service nor wanted; list spaces without one."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("space", nargs="?", help="as answers name it: encoder@revision")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["space"] is None:
            return self._list()
        space = Space.objects.filter(pk=options["space"]).first()
        if space is None or hasattr(space, "hybrid"):
            raise CommandError(f"There is no space {options['space']!r}. Without an argument the spaces are listed.")
        served = ServedSpace.objects.first()
        if served is not None and space.pk in (served.space_id, served.wanted):
            raise CommandError(f"{space.pk} is in service, or about to be. Set ENCODER_MODEL to another encoder first.")
        for version in HybridVersion.objects.filter(base=space):
            drop_version(version)
        self._drop(space)
        return None

    def _list(self) -> None:
        served = ServedSpace.objects.first()
        for space in Space.objects.filter(hybrid=None).order_by("created_at"):
            use = "in service" if served and served.space_id == space.pk else "unused"
            if served and served.wanted == space.pk != served.space_id:
                use = "coming"
            self.stdout.write(f"{space.pk}  {use}, {progress(space.pk):.0%} of the experts, {space.model or 'default'}")

    def _drop(self, space: Space) -> None:
        """In parts, so that no transaction is long; run again, it goes on."""
        removed = 0
        while ids := list(Prototype.objects.filter(space=space).order_by().values_list("pk", flat=True)[:CHUNK]):
            removed += Prototype.objects.filter(pk__in=ids).delete()[0]
        while ids := list(ProbeVector.objects.filter(space=space).values_list("pk", flat=True)[:CHUNK]):
            ProbeVector.objects.filter(pk__in=ids).delete()
        snapshots = list(IndexSnapshot.objects.filter(space=space))
        with transaction.atomic():
            IndexSnapshot.objects.filter(space=space).delete()
            space.delete()
        remove_vectors(snapshots)
        self.stdout.write(f"Removed {removed} prototypes and {len(snapshots)} indexes.")
