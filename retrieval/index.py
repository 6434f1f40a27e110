"""An immutable FAISS index over unit vectors. The only file that imports faiss."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Of the graph: links per vector, and how many candidates are looked at to find them.
LINKS = 32
BUILD_CANDIDATES = 64
# Candidates of a search, tried one after the other until so much of the truth is found.
SEARCH_CANDIDATES = (64, 128, 256, 512)
WANTED_RECALL = 0.99
RECALL_AT = 10
# Equal up to roundings of float32.
TOLERANCE = 1e-6
# The graph is asked where this share of the vectors is selected at least; below, those are compared one by one.
GRAPH_SHARE = 0.05
# And where they are more than it visits to find enough of them: so many for each candidate.
VISITED = 25
# And for so many at most.
GRAPH_COUNT = 1000


@dataclass(frozen=True)
class Selected:
    """The positions that a search may see."""

    count: int
    bitmap: "faiss.IDSelectorBitmap"


class VectorIndex:
    """Inner products over unit rows: exact, or through a graph (HNSW) that finds nearly all of the best.

    A position is a row's place in the index, an id the caller's number for it.

    Args:
        named: faiss's index, ids ascending, each once.
        candidates: how many a search of the graph looks at; None where there is no graph.
    """

    def __init__(self, named: "faiss.IndexIDMap", candidates: int | None = None) -> None:
        # Kept, because the inner ones go away with it.
        self._named = named
        inner = faiss.downcast_index(named.index)
        self._graph = inner if isinstance(inner, faiss.IndexHNSW) else None
        self._flat = faiss.downcast_index(self._graph.storage) if self._graph is not None else inner
        self.candidates = (candidates or SEARCH_CANDIDATES[0]) if self._graph is not None else None
        self.ids: Ints = faiss.vector_to_array(named.id_map)
        if len(self.ids) != self._flat.ntotal or (np.diff(self.ids) <= 0).any():
            raise ValueError("An index needs one ascending id per vector.")

    @classmethod
    def build(cls, parts: Iterable[tuple[Ints, Floats]], *, graph: bool = False) -> "VectorIndex":
        """An index of parts (ids (n,), rows (n, dim)), at least one, whose ids ascend from part to part.

        Raises: ValueError: they do not, or there is another number of them.
        """
        named = None
        for ids, vectors in parts:
            if named is None:
                inner = _new_graph(vectors.shape[1]) if graph else faiss.IndexFlatIP(vectors.shape[1])
                named = faiss.IndexIDMap(inner)
            if len(ids) != len(vectors):
                raise ValueError("An index needs one ascending id per vector.")
            named.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(ids, np.int64))
        if named is None:
            raise ValueError("An index needs vectors.")
        return cls(named)

    @property
    def dim(self) -> int:
        return int(self._flat.d)

    def __len__(self) -> int:
        return int(self._flat.ntotal)

    def write(self, path: Path) -> None:
        faiss.write_index(self._named, str(path))

    @classmethod
    def read(cls, path: Path, candidates: int | None = None) -> "VectorIndex":
        """The index in a file, whose vectors and links stay there: processes that read it share the memory.

        Raises: ValueError: the file is not such an index.
        """
        try:
            return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), candidates)
        except (RuntimeError, AttributeError) as error:
            raise ValueError(f"{path.name} is not an index file") from error

    def check(self) -> None:
        """A file that is mapped stays."""

    def positions_of(self, ids: Ints) -> Ints:
        """Position of each id, -1 where it is not in the index."""
        return positions_in(self.ids, ids)

    def vectors(self, positions: Ints) -> Floats:
        return self._flat.reconstruct_batch(np.ascontiguousarray(positions, dtype=np.int64))

    def select(self, positions: Ints) -> Selected:
        """What lets a search see only these positions."""
        allowed = np.zeros(len(self), dtype=bool)
        allowed[positions] = True
        bitmap = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        return Selected(int(np.count_nonzero(allowed)), bitmap)

    def search(self, query: Floats, count: int, selected: Selected) -> tuple[Floats, Ints]:
        """The best positions among the selected, best first: (scores, positions), at most `count` of them."""
        count = min(count, selected.count)
        if not count:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        # Of the candidates, only the selected share counts.
        wider = max(self.candidates or 0, count) * len(self) // selected.count
        if self._graph is not None and count <= GRAPH_COUNT and self._pays(selected, wider):
            params = faiss.SearchParametersHNSW(efSearch=wider, sel=selected.bitmap)
            scores, positions = _found(self._graph, query, count, params)
            if len(positions) == count:
                return scores, positions
        return _found(self._flat, query, count, faiss.SearchParameters(sel=selected.bitmap))

    def _pays(self, selected: Selected, candidates: int) -> bool:
        """Whether a search of the graph is shorter than one of the selected."""
        return selected.count >= GRAPH_SHARE * len(self) and selected.count >= VISITED * candidates

    def tune(self, queries: Floats) -> float:
        """Set how many candidates a search of the graph looks at. Returns: recall@10 with them, on queries (n, dim)."""
        last = self._flat.search(queries, min(RECALL_AT, len(self)))[0][:, -1:] - TOLERANCE
        recall = 0.0
        for self.candidates in SEARCH_CANDIDATES:
            params = faiss.SearchParametersHNSW(efSearch=self.candidates)
            scores = self._graph.search(queries, min(RECALL_AT, len(self)), params=params)[0]
            # By scores: of equal vectors, either is right.
            recall = float((scores >= last).mean())
            if recall >= WANTED_RECALL:
                break
        return recall

    def parts(self, size: int) -> Iterable[tuple[Ints, Floats]]:
        """Ids and vectors, `size` at a time."""
        for start in range(0, len(self), size):
            ids = self.ids[start : start + size]
            yield ids, self.vectors(np.arange(start, start + len(ids)))


def positions_in(known: Ints, ids: Ints) -> Ints:
    """Place of each id among ascending ones, -1 where it is not there."""
    if not len(known):
        return np.full(len(ids), -1, dtype=np.int64)
    found = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[found] == ids, found, -1)


def _new_graph(dim: int) -> "faiss.IndexHNSWFlat":
    graph = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = BUILD_CANDIDATES
    return graph


def _found(index: Any, query: Floats, count: int, params: Any) -> tuple[Floats, Ints]:
    scores, positions = index.search(query.reshape(1, -1), count, params=params)
    # FAISS fills up with -1 where it finds fewer.
    found = positions[0] >= 0
    return scores[0][found], positions[0][found]
