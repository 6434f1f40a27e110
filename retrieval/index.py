"""An immutable FAISS index over unit vectors. The only file that imports faiss."""

from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class FlatIndex:
    """Exact inner products over unit rows; a position is a row's place in the index, an id the caller's number for it.

    Args:
        ids: (n,) int64, ascending, each once.
        vectors: (n, dim) float32, rows of length 1.
    """

    def __init__(self, ids: Ints, vectors: Floats) -> None:
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(np.ascontiguousarray(vectors, dtype=np.float32))
        self._adopt(np.ascontiguousarray(ids, dtype=np.int64), flat)

    def _adopt(self, ids: Ints, flat: faiss.IndexFlatIP) -> None:
        if len(ids) != flat.ntotal or (np.diff(ids) <= 0).any():
            raise ValueError("An index needs one ascending id per vector.")
        self.ids = ids
        self._flat = flat

    @property
    def dim(self) -> int:
        return int(self._flat.d)

    def __len__(self) -> int:
        return int(self._flat.ntotal)

    def write(self, path: Path) -> None:
        named = faiss.IndexIDMap2(faiss.IndexFlatIP(self.dim))
        named.add_with_ids(self.vectors(np.arange(len(self))), self.ids)
        faiss.write_index(named, str(path))

    @classmethod
    def read(cls, path: Path) -> "FlatIndex":
        """Raises: ValueError: the file is not such an index."""
        try:
            named = faiss.read_index(str(path))
            flat = faiss.downcast_index(named.index)
            ids = faiss.vector_to_array(named.id_map)
        except (RuntimeError, AttributeError) as error:
            raise ValueError(f"{path.name} is not an index file") from error
        index = cls.__new__(cls)
        # A copy: the wrapper that owns the inner index goes away with this call.
        index._adopt(ids, faiss.clone_index(flat))
        return index

    def positions_of(self, ids: Ints) -> Ints:
        """Position of each id, -1 where it is not in the index."""
        if not len(self):
            return np.full(len(ids), -1, dtype=np.int64)
        found = np.minimum(np.searchsorted(self.ids, ids), len(self) - 1)
        return np.where(self.ids[found] == ids, found, -1)

    def vectors(self, positions: Ints) -> Floats:
        return self._flat.reconstruct_batch(np.ascontiguousarray(positions, dtype=np.int64))

    def selector(self, positions: Ints) -> "faiss.IDSelectorBitmap":
        """What lets a search see only these positions."""
        allowed = np.zeros(len(self), dtype=bool)
        allowed[positions] = True
        return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))

    def search(self, query: Floats, count: int, selector: "faiss.IDSelectorBitmap") -> tuple[Floats, Ints]:
        """The best positions among the selected, best first: (scores, positions), at most `count` of them."""
        scores, positions = self._flat.search(
            query.reshape(1, -1), min(count, len(self)), params=faiss.SearchParameters(sel=selector)
        )
        # FAISS fills up with -1 where fewer are selected.
        found = positions[0] >= 0
        return scores[0][found], positions[0][found]
