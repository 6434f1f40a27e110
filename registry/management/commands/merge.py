"""`manage.py merge RECIPE --out DIR`: merges folders of this machine, without a server or its database."""

import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from lora.errors import LoraError
from lora.local_recipes import merge_folders, summary
from lora.progress_line import progress_line
from registry import plain_yaml
from registry.errors import Invalid


class Command(BaseCommand):
    help = "Merge PEFT folders as a recipe says: YAML or JSON whose inputs are {path, weight}, relative to the recipe."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("recipe", type=Path)
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write, new or empty")
        parser.add_argument(
            "--base",
            type=Path,
            metavar="DIR",
            help="the base model, for what needs it: DoRA, biases, methods with data",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        recipe, out = options["recipe"], options["out"]
        try:
            # JSON is YAML.
            document = plain_yaml.load(recipe.read_bytes())
            with progress_line(sys.stderr, "Merging") as progress:
                report = merge_folders(
                    document, recipe.parent, out, base=options["base"], device=settings.DEVICE, progress=progress
                )
        except Invalid as error:
            raise CommandError(f"{recipe}: {error.message}") from error
        except (LoraError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(summary(report, out))
