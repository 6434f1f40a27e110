"""`manage.py copy_database FILE`: copies a SQLite database into the empty one that DATABASE_URL names."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style
from django.db import connections, models, transaction
from django.db.migrations.recorder import MigrationRecorder

SOURCE = "source"
TARGET = "default"
ROWS_AT_ONCE = 200
# What `migrate` writes into every new database; replaced by what the source has.
MADE_BY_MIGRATE = ("contenttypes.ContentType", "auth.Permission")


class Command(BaseCommand):
    help = "Copy a SQLite database into the empty one that DATABASE_URL names, verified, in one transaction."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the SQLite database, such as data/db.sqlite3")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        if not file.is_file():
            raise CommandError(f"{file} is not a file.")
        connections.settings[SOURCE] = connections.settings[TARGET] | {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": file,
            "OPTIONS": {},
        }
        # Many to many tables included.
        tables = [model for model in apps.get_models(include_auto_created=True) if model._meta.managed]
        _check(tables)
        # Foreign keys are checked at the end of the transaction, so that the order of tables is free.
        with transaction.atomic(TARGET):
            for label in MADE_BY_MIGRATE:
                apps.get_model(label)._base_manager.using(TARGET).all().delete()
            for model in tables:
                self.stdout.write(f"{model._meta.db_table}: {_copy(model)} rows")
            _set_sequences(tables)
            differing = [model._meta.db_table for model in tables if _digest(model, SOURCE) != _digest(model, TARGET)]
            if differing:
                raise CommandError(f"Nothing was copied: {', '.join(differing)} came out different.")
        self.stdout.write("Every row was read back and is the same. Start the site with this DATABASE_URL.")


def _check(tables: list[type[models.Model]]) -> None:
    """Raises: CommandError: the target is no empty PostgreSQL, or the two are not of this version."""
    if connections[TARGET].vendor != "postgresql":
        raise CommandError("Set DATABASE_URL to the PostgreSQL database that is to be filled.")
    for alias, name in ((SOURCE, "The SQLite database"), (TARGET, "The PostgreSQL database")):
        applied = set(MigrationRecorder(connections[alias]).applied_migrations())
        known = {(model._meta.app_label) for model in tables}
        if not applied or known - {app for app, _ in applied}:
            raise CommandError(f"{name} is not prepared: run `manage.py migrate` with it first.")
    source, target = (set(MigrationRecorder(connections[alias]).applied_migrations()) for alias in (SOURCE, TARGET))
    if source != target:
        raise CommandError("The two databases are of different versions: run `manage.py migrate` with each first.")
    full = [model for model in tables if model._meta.label not in MADE_BY_MIGRATE and _rows(model, TARGET).exists()]
    if full:
        raise CommandError(f"The PostgreSQL database is not empty: {full[0]._meta.db_table} has rows.")


def _rows(model: type[models.Model], alias: str) -> models.QuerySet:
    return model._base_manager.using(alias).order_by("pk")


def _batches(model: type[models.Model]) -> Iterator[list[models.Model]]:
    batch: list[models.Model] = []
    for row in _rows(model, SOURCE).iterator(chunk_size=ROWS_AT_ONCE):
        batch.append(row)
        if len(batch) == ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _copy(model: type[models.Model]) -> int:
    count = 0
    for batch in _batches(model):
        # Raw, as `loaddata` does it: times of creation and of update stay what they are.
        model._base_manager.using(TARGET)._insert(
            batch, fields=model._meta.local_concrete_fields, using=TARGET, raw=True
        )
        count += len(batch)
    return count


def _set_sequences(tables: list[type[models.Model]]) -> None:
    """The next id of each table comes after those that were copied."""
    with connections[TARGET].cursor() as cursor:
        for statement in connections[TARGET].ops.sequence_reset_sql(no_style(), tables):
            cursor.execute(statement)


def _digest(model: type[models.Model], alias: str) -> tuple[int, str]:
    """How many rows a table has, and a digest over their values in the order of their keys."""
    names = [field.attname for field in model._meta.local_concrete_fields]
    rows = [
        hashlib.sha256(repr([_plain(value) for value in row]).encode()).digest()
        for row in model._base_manager.using(alias).order_by().values_list(*names).iterator(chunk_size=ROWS_AT_ONCE)
    ]
    # Sorted here: the two may sort texts differently.
    return len(rows), hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def _plain(value: Any) -> Any:
    """The value as both databases give it back: bytes for buffers, JSON objects in one order of their keys."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # In JSON, PostgreSQL writes 1e+22 without an exponent and knows no negative zero.
        return float(value) + 0.0
    if isinstance(value, memoryview | bytes):
        return bytes(value)
    if isinstance(value, dict):
        return [(key, _plain(value[key])) for key in sorted(value)]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
