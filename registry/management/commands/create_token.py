"""`manage.py create_token USER [--days N] [--staff]`: prints a new access token."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from registry.accounts import create_user
from registry.errors import AppError
from registry.tokens import create_token


class Command(BaseCommand):
    help = "Print a new access token, last on stdout. Creates the user if missing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user")
        parser.add_argument("--days", type=int, default=90, help="how long it lasts (default 90)")
        parser.add_argument("--staff", action="store_true", help="make the user staff")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            user = User.objects.filter(username=options["user"]).first() or create_user(options["user"])
            _, secret = create_token(user, "command line", options["days"])
        except AppError as error:
            raise CommandError(error.message) from error
        if options["staff"] and not user.is_staff:
            user.is_staff = True
            user.save(update_fields=["is_staff"])
        self.stdout.write(secret)
