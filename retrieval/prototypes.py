"""Prototype rows: written by workers, once per revision, kind and space; read by everyone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from django.db import transaction
from numpy.typing import NDArray
from safetensors.numpy import save

from lora.prototypes.centroid import centroid
from lora.prototypes.samples import samples
from registry.errors import NotFound
from registry.models import Revision
from registry.storage import put_bytes, read_blob
from retrieval.encoders import current_encoder
from retrieval.models import Prototype, Space

TEXT_KINDS = {"centroid": centroid, "samples": samples}


def store_text(revision: Revision, texts: list[str]) -> None:
    """Embed sample inputs in the current space and store their rows and centroid. A second run changes nothing.

    Raises: NotReady: the encoder is not usable. LoraError: the rows cancel out.
    """
    encoder = current_encoder()
    if revision.prototypes.filter(space_id=encoder.space_id).count() == len(TEXT_KINDS):
        return
    rows = encoder.encode(texts)
    space = _current_space()
    found = [_text_prototype(revision, kind, space, np.atleast_2d(build(rows))) for kind, build in TEXT_KINDS.items()]
    with transaction.atomic():
        Prototype.objects.bulk_create(found, ignore_conflicts=True)


def _current_space() -> Space:
    encoder = current_encoder()
    found = Space.objects.filter(pk=encoder.space_id).first()
    return found or Space.objects.get_or_create(pk=encoder.space_id, defaults=encoder.describe())[0]


def _text_prototype(revision: Revision, kind: str, space: Space, rows: NDArray[np.float32]) -> Prototype:
    return Prototype(
        revision=revision,
        kind=kind,
        space=space,
        count=rows.shape[0],
        dim=rows.shape[1],
        vectors=rows.astype("<f4").tobytes(),
    )


def store_modules(revision: Revision, kind: str, tensors: Mapping[str, Any]) -> Prototype | None:
    """Store vectors per module path as one safetensors blob and its row. A second run changes nothing.

    Args:
        tensors: module path → (d_in,) or (r, d_in).
    Returns: the row, with the number of modules as `count` and the longest vector's length as `dim`; None where no
        module has vectors of this kind.
    """
    if not tensors:
        return None
    arrays = {path: np.ascontiguousarray(tensors[path], dtype=np.float32) for path in sorted(tensors)}
    blob = put_bytes(save(arrays))
    widest = max(array.shape[-1] for array in arrays.values())
    values = {"count": len(arrays), "dim": widest, "blob": blob}
    return Prototype.objects.get_or_create(revision=revision, kind=kind, space=None, defaults=values)[0]


def rows_of(prototype: Prototype) -> NDArray[np.float32]:
    """Rows (count, dim) of a text prototype, read-only."""
    return np.frombuffer(prototype.vectors, dtype="<f4").reshape(prototype.count, prototype.dim)


def find_prototype(revision: Revision, kind: str) -> Prototype:
    """The prototype of a kind, of a text kind in the current space. Raises: NotFound."""
    space = current_encoder().space_id if kind in TEXT_KINDS else None
    found = revision.prototypes.select_related("blob").filter(kind=kind, space_id=space).first()
    if found is None:
        raise NotFound(f"This revision has no prototype {kind[:40]!r}.")
    return found


def as_safetensors(prototype: Prototype) -> bytes:
    """One file: module path → vectors, or the kind → rows (count, dim) with its space in the metadata."""
    if prototype.blob is not None:
        return read_blob(prototype.blob)
    return save({prototype.kind: rows_of(prototype)}, metadata={"space": prototype.space_id})
