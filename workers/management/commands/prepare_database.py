"""`manage.py prepare_database`: what has to be true of the database before a site or a worker starts."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError, connection

# Any number that no other program on the same PostgreSQL database uses: the letters "lora".
ADVISORY_LOCK = 0x6C6F7261


class Command(BaseCommand):
    help = "Wait for the database and apply migrations, once however many processes ask for it at the same time."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--wait", type=float, default=60, metavar="S", help="give up after so many seconds; 60")

    def handle(self, *args: Any, **options: Any) -> None:
        self._wait(options["wait"])
        with _only_one():
            call_command("migrate", interactive=False, verbosity=options["verbosity"] - 1)

    def _wait(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return connection.ensure_connection()
            except (OperationalError, InterfaceError) as error:
                if time.monotonic() > deadline:
                    text = f"The database did not answer for {patience_s:.0f} s: {error}"
                    raise CommandError(text.strip()) from error
            time.sleep(1)


@contextmanager
def _only_one() -> Iterator[None]:
    """Processes on one database take turns: PostgreSQL has locks for it, SQLite is on the machine of its file."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            # Ends with the connection, whatever happens to this process.
            cursor.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
            try:
                yield
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])
        return
    with (settings.DATA_DIR / "migrate.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
