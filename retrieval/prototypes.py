"""Prototype rows: written by workers, once per revision, kind and space; read by everyone."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from django.db import transaction
from django.db.models import Case, When
from numpy.typing import NDArray

from lora.array_file import array_file
from lora.hybrid.default import surface_id
from lora.hybrid.space import encoded
from lora.prototypes.centroid import centroid
from lora.prototypes.delta_sketch import SKETCH_DIM
from lora.prototypes.lexical import lexical
from lora.prototypes.middle import middle
from lora.prototypes.samples import samples
from lora.prototypes.spectral import spectral_file
from registry.errors import NotFound
from registry.gates import GATES
from registry.merges import local_file
from registry.models import Revision
from registry.samples import read_samples
from registry.storage import put_bytes, read_blob
from retrieval.hybrid import KIND as HYBRID
from retrieval.hybrid import rows_in_versions
from retrieval.models import Prototype, Space
from retrieval.sketches import sketch_rows
from retrieval.spaces import encoders_in_use, served_space_id, space_of

# The kinds that embeddings make, and one that the encoder's middle layer makes.
EMBEDDED = {"centroid": centroid, "samples": samples}
TEXT_KINDS = {*EMBEDDED, "middle"}


def store_text(revision: Revision, texts: list[str]) -> None:
    """Embed sample inputs in the space in service, and in the one that is to replace it, and store rows and centroid.

    A second run changes nothing. Raises: NotReady: no encoder is usable. LoraError: the rows cancel out.
    """
    for encoder in encoders_in_use():
        if revision.prototypes.filter(space_id=encoder.space_id, kind__in=TEXT_KINDS).count() < len(TEXT_KINDS):
            rows = encoder.encode_both(texts)
            space = space_of(encoder)
            found = text_prototypes(revision, space, *rows)
            found += rows_in_versions(revision, space, encoder, texts, encoded(*rows))
            with transaction.atomic():
                Prototype.objects.bulk_create(found, ignore_conflicts=True)


def text_prototypes(
    revision: Revision, space: Space, rows: NDArray[np.float32], middle_rows: NDArray[np.float32]
) -> list[Prototype]:
    """The prototypes, not stored yet, that an encoder's rows of both kinds make, as of `Encoder.encode_both`.

    Raises: LoraError: the rows cancel out.
    """
    made = {kind: build(rows) for kind, build in EMBEDDED.items()} | {"middle": middle(middle_rows)}
    return [_text_prototype(revision, kind, space, np.atleast_2d(vectors)) for kind, vectors in made.items()]


def _text_prototype(revision: Revision, kind: str, space: Space, rows: NDArray[np.float32]) -> Prototype:
    return Prototype(
        revision=revision,
        kind=kind,
        space=space,
        count=rows.shape[0],
        dim=rows.shape[1],
        vectors=rows.astype("<f4").tobytes(),
    )


def store_modules(
    revision: Revision, kind: str, tensors: Mapping[str, Any], facts: dict[str, str] | None = None
) -> None:
    """Store vectors per module path as one safetensors blob and its row. A second run changes nothing.

    The row has the number of modules as `count` and the longest length as `dim`; without modules there is no row.

    Args:
        tensors: module path → (d_in,) or (r, d_in).
        facts: how they came about, for the file's metadata.
    """
    if not tensors:
        return
    arrays = {path: np.asarray(tensors[path], dtype=np.float32) for path in sorted(tensors)}
    blob = put_bytes(array_file(arrays, facts))
    widest = max(array.shape[-1] for array in arrays.values())
    row = Prototype(revision=revision, kind=kind, count=len(arrays), dim=widest, blob=blob)
    # One statement; a job that runs again finds the same row stored.
    Prototype.objects.bulk_create([row], ignore_conflicts=True)


def stored_kinds(revision: Revision) -> set[str]:
    """The kinds by module that a revision has, gates of its contributor among them."""
    kinds = set(revision.prototypes.filter(space=None).values_list("kind", flat=True))
    return kinds | ({"phatgoose"} if revision.file(GATES) else set())


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
    elif kind == HYBRID:
        found = found.order_by("-space__hybrid__served_at", "-pk")
    found = found.first()
    if found is None:
        raise NotFound(f"This revision has no prototype {kind[:40]!r}.")
    return found


def listed(revision: Revision, rows: Iterable[Prototype]) -> list[dict[str, Any]]:
    """`[{kind, space, count, dim}]` of what is stored for a revision, by kind: its rows, and its sketch."""
    found = [{"kind": row.kind, "space": row.space_id, "count": row.count, "dim": row.dim} for row in rows]
    if hasattr(revision, "delta_sketch"):
        found.append({"kind": "delta_sketch", "space": None, "count": 1, "dim": SKETCH_DIM})
    return sorted(found, key=lambda item: item["kind"])


def as_safetensors(prototype: Prototype) -> bytes:
    """One file: module path → vectors, or the kind → rows (count, dim) with its space in the metadata."""
    if prototype.blob is not None:
        return read_blob(prototype.blob)
    return array_file({prototype.kind: rows_of(prototype)}, {"space": prototype.space_id})


def spectral_vectors(revision: Revision) -> dict[str, NDArray[np.float32]]:
    """Module path → rows σᵢ·vᵢᵀ (r, d_in) of a revision that has passed its checks.

    They are computed from its file at every call: they are about as large as it, and one exact pass over it away.

    Raises: NotFound: it has no linear modules, or has not passed. BlobDamaged, StoreUnavailable.
    """
    vectors = {}
    if revision.state == Revision.State.READY:
        with ExitStack() as stack:
            item = local_file(revision, stack)
            vectors = spectral_file(item.weights_path, item.layout)
    if not vectors:
        raise NotFound("This revision has no prototype 'spectral'.")
    return {path: rows.numpy() for path, rows in sorted(vectors.items())}


def _lexical_file(revision: Revision) -> bytes:
    """Computed from the samples at every call, as no encoder is needed. Raises: NotFound: it has none."""
    samples = read_samples(revision) if revision.state == Revision.State.READY else []
    if not samples:
        raise NotFound("This revision has no prototype 'lexical'.")
    row = lexical([sample["input"] for sample in samples])
    return array_file({"lexical": row[None]}, {"space": surface_id()})


def _sketch_file(revision: Revision) -> bytes:
    rows = sketch_rows(revision)
    if rows is None:
        raise NotFound("This revision has no prototype 'delta_sketch'.")
    return array_file({"delta_sketch": rows})


def prototype_file(revision: Revision, kind: str) -> bytes:
    """The prototypes of a kind as one safetensors file. Raises: NotFound; BlobDamaged, StoreUnavailable."""
    if kind == "spectral":
        return array_file(spectral_vectors(revision))
    if kind == "lexical":
        return _lexical_file(revision)
    if kind == "delta_sketch":
        return _sketch_file(revision)
    if kind == "phatgoose" and (sent := revision.file(GATES)):
        return read_blob(sent.blob)
    return as_safetensors(find_prototype(revision, kind))
