"""`manage.py add_base_model ID`: registers a base model with its module shapes, without its weights."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from registry.base_models import modules_from_config, modules_from_header, register_base_model
from registry.errors import AppError


class Command(BaseCommand):
    help = "Register a base model with its module shapes, from its config.json or a safetensors header."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="as adapters name it, e.g. HuggingFaceTB/SmolLM2-135M-Instruct")
        parser.add_argument("--config", type=Path, help="its config.json; default: BASE_MODELS_DIR/ID/config.json")
        parser.add_argument("--header", type=Path, help="JSON of a safetensors header, or {path: [d_out, d_in]}")
        parser.add_argument("--revision", default="", help="the revision of the base")
        parser.add_argument("--alias", action="append", default=[], help="another name for it; repeatable")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            base = register_base_model(
                options["id"], self._modules(options), revision=options["revision"], aliases=options["alias"]
            )
        except AppError as error:
            raise CommandError(error.message) from error
        self.stdout.write(f"{base.name}: {len(base.modules)} modules")

    def _modules(self, options: dict[str, Any]) -> dict[str, list[int]]:
        config, header = options["config"], options["header"]
        if config is None and header is None and settings.BASE_MODELS_DIR:
            config = Path(settings.BASE_MODELS_DIR) / options["id"] / "config.json"
        source = config or header
        if source is None:
            raise CommandError("Give --config config.json or --header header.json, or set BASE_MODELS_DIR.")
        if not source.is_file():
            raise CommandError(f"{source} is not a file.")
        return modules_from_config(source) if config else modules_from_header(source.read_bytes())
