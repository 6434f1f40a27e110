"""What an expert's Arrow vectors give on generic texts: computed once per revision, kept beside the vectors."""

import json
from collections.abc import Iterable, Sequence

import numpy as np
from safetensors.numpy import load

from lora.array_file import array_file
from lora.generic_texts import DIGEST
from lora.module_routers import Baselines, States, Vectors
from lora.module_routers.arrow_global import baselines
from registry.storage import put_bytes, read_blob
from retrieval.models import Prototype

KIND = "arrow_baselines"


def store_baselines(revision_id: int, vectors: Vectors, background: Sequence[States]) -> Baselines:
    """Compute and store the baselines of a revision, instead of those on other texts where there are any.

    Args:
        background: what each generic text sends into the modules.
    """
    found = baselines(background, vectors)
    if found.modules:
        arrays = {path: np.array(figures) for path, figures in sorted(found.modules.items())}
        blob = put_bytes(array_file(arrays, {"texts": DIGEST, "spread": repr(found.spread)}))
        values = {"count": len(arrays), "dim": 2, "blob": blob}
        Prototype.objects.update_or_create(revision_id=revision_id, kind=KIND, space=None, defaults=values)
    return found


def read_baselines(revisions: Iterable[int]) -> dict[int, Baselines]:
    """The baselines of those revisions that have them, on the generic texts of this version."""
    rows = Prototype.objects.filter(kind=KIND, revision_id__in=revisions).select_related("blob")
    found = {row.revision_id: _parse(read_blob(row.blob)) for row in rows}
    return {revision: known for revision, known in found.items() if known is not None}


def _parse(data: bytes) -> Baselines | None:
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    if metadata["texts"] != DIGEST:
        return None
    modules = {path: (float(figures[0]), float(figures[1])) for path, figures in load(data).items()}
    return Baselines(modules, float(metadata["spread"]))
