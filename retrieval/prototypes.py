"""Prototype rows: written by workers, once per revision, kind and space; read by everyone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from django.db import transaction
from django.db.models import Case, When
from numpy.typing import NDArray
from safetensors.numpy import save

from lora.prototypes.centroid import centroid
from lora.prototypes.samples import samples
from registry.errors import NotFound
from registry.models import Revision
from registry.storage import put_bytes, read_blob
from retrieval.models import Prototype, Space
from retrieval.spaces import encoders_in_use, served_space_id, space_of

TEXT_KINDS = {"centroid": centroid, "samples": samples}


def store_text(revision: Revision, texts: list[str]) -> None:
    """Embed sample inputs in the space in service, and in the one that is to replace it, and store rows and centroid.

    A second run changes nothing. Raises: NotReady: no encoder is usable. LoraError: the rows cancel out.
    """
    for encoder in encoders_in_use():
        if revision.prototypes.filter(space_id=encoder.space_id).count() < len(TEXT_KINDS):
            found = text_prototypes(revision, space_of(encoder), encoder.encode(texts))
            with transaction.atomic():
                Prototype.objects.bulk_create(found, ignore_conflicts=True)


def text_prototypes(revision: Revision, space: Space, rows: NDArray[np.float32]) -> list[Prototype]:
    """The prototypes, not stored yet, that rows (n, dim) of a space make. Raises: LoraError: the rows cancel out."""
    return [_text_prototype(revision, kind, space, np.atleast_2d(build(rows))) for kind, build in TEXT_KINDS.items()]


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
    """The prototype of a kind, of a text kind in the space in service or else in the newest one. Raises: NotFound.

    An old revision is not embedded anew when the encoder changes.
    """
    found = revision.prototypes.select_related("blob").filter(kind=kind)
    if kind in TEXT_KINDS:
        found = found.order_by(Case(When(space_id=served_space_id(), then=0), default=1), "-pk")
    found = found.first()
    if found is None:
        raise NotFound(f"This revision has no prototype {kind[:40]!r}.")
    return found


def as_safetensors(prototype: Prototype) -> bytes:
    """One file: module path → vectors, or the kind → rows (count, dim) with its space in the metadata."""
    if prototype.blob is not None:
        return read_blob(prototype.blob)
    return save({prototype.kind: rows_of(prototype)}, metadata={"space": prototype.space_id})
