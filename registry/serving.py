"""Serving engines and stored adapters: what each engine makes of one, and the export that all of them read alike."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from django.http import StreamingHttpResponse

from lora.binding import BaseModules
from lora.errors import InvalidAdapter, LoraError
from lora.export import NotExportable, export_adapter
from lora.serving import ENGINES, judge
from lora.serving_rules import Engine
from registry import cards
from registry.downloads import archive_response
from registry.errors import BlobDamaged, Conflict, Invalid, StoreUnavailable
from registry.intake import CONFIG, WEIGHTS
from registry.layouts import describe_file, stored_layout
from registry.models import Blob, Revision
from registry.queries import find_base_model
from registry.storage import local_path, scratch_folder

logger = logging.getLogger(__name__)


def serving_json(revision: Revision) -> dict[str, Any] | None:
    """Engine → `{verdict, reasons, cautions, max_lora_rank}`; None where the files do not tell."""
    weights, config = revision.file(WEIGHTS), revision.file(CONFIG)
    if weights is None or config is None:
        return None
    try:
        parsed, layout = stored_layout(weights.blob, config.blob)
    except InvalidAdapter:
        # A rejected revision says why elsewhere.
        return None
    except (BlobDamaged, StoreUnavailable):
        logger.warning("The verdicts on %s are left out: its files cannot be read", revision, exc_info=True)
        return None
    verdicts = judge(parsed, layout, base_modules(revision.base_model))
    return {engine: asdict(verdict) for engine, verdict in verdicts.items()}


def base_modules(name: str) -> BaseModules | None:
    """Path → (d_out, d_in) of a base model; None where it is not registered."""
    base = find_base_model(name)
    return {path: (shape[0], shape[1]) for path, shape in base.modules.items()} if base else None


def export_response(
    filename: str, files: Mapping[str, Blob], wanted: str, base_model: str, source: str
) -> StreamingHttpResponse:
    """A zip of the adapter as written for one engine, with its card. Computed into scratch space, not kept.

    Args:
        files: of the adapter, by path.
        wanted: the engine, as the caller names it.
        base_model: name under which the base is registered and served; "" where it is not known.
        source: what the header of the weights says where they come from.
    Raises: Invalid: no such engine. Conflict: no export helps it. BlobDamaged, StoreUnavailable.
    """
    if wanted not in ENGINES:
        raise Invalid(f"for is one of {', '.join(ENGINES)}.", detail={"for": "unknown engine"})
    engine = cast(Engine, wanted)
    resources = ExitStack()
    try:
        folder = resources.enter_context(scratch_folder())
        _export(files, engine, base_model, source, folder)
        written = {name: folder / name for name in (CONFIG, WEIGHTS)}
        card = {cards.PATH: files[cards.PATH]} if cards.PATH in files else {}
        return archive_response(f"{filename}--{engine}", {**written, **card}, resources)
    except BaseException:
        resources.close()
        raise


def _export(files: Mapping[str, Blob], engine: Engine, base_model: str, source: str, folder: Path) -> None:
    weights = files[WEIGHTS]
    metadata = {"loradex.export": engine, "loradex.source": source, "loradex.sha256": weights.sha256}
    with local_path(weights) as path:
        with path.open("rb") as stream:
            config, layout = describe_file(stream, weights.size_bytes, files[CONFIG])
        base = base_modules(base_model)
        try:
            export_adapter(
                path, layout, config, engine, folder, base=base, base_model=base_model or None, metadata=metadata
            )
        except NotExportable as error:
            raise Conflict(str(error), detail={"engine": engine, "reasons": error.reasons}) from error
        except LoraError as error:
            raise Conflict(f"{ENGINES[engine]}: {error}", detail={"engine": engine, "reasons": [str(error)]}) from error
