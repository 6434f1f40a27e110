"""The same index in Milvus, for pools that outgrow one machine. The only file that imports pymilvus.

There is one collection per space, with a row (id, vector) per expert: rows are added and removed, never changed, and
which of them a caller may see is not known there. What a collection lacks is searched exactly beside it.
"""

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from registry.errors import NotReady
from retrieval.index import GRAPH_SHARE, Floats, Ints, positions_in

logger = logging.getLogger(__name__)

# Milvus returns at most so many rows of a search.
MAX_FOUND = 16_384
# Of a request for rows by their ids.
MAX_IDS = 5000
WRITTEN = 1000
TIMEOUT_S = 10

_connecting = threading.Lock()
_clients: dict[str, Any] = {}


@dataclass(frozen=True)
class Selected:
    """The positions that a search may see: ascending, and as a mask over all."""

    positions: Ints
    mask: NDArray[np.bool_]

    @property
    def count(self) -> int:
        return len(self.positions)


class MilvusIndex:
    """A `VectorIndex` whose vectors are in a collection; the ids of those are known here, ascending."""

    candidates = None

    def __init__(self, name: str, ids: Ints, dim: int) -> None:
        self.name = name
        self.ids = ids
        self.dim = dim

    def __len__(self) -> int:
        return len(self.ids)

    def check(self) -> None:
        """Raises: NotReady: Milvus does not answer, or has lost the collection."""
        with _answers() as client:
            if not client.has_collection(self.name, timeout=TIMEOUT_S):
                raise _away()

    def positions_of(self, ids: Ints) -> Ints:
        """Position of each id, -1 where it is not in the index."""
        return positions_in(self.ids, ids)

    def vectors(self, positions: Ints) -> Floats:
        """Raises: NotReady: Milvus does not answer, or has lost some."""
        wanted, places = np.unique(positions, return_inverse=True)
        found = np.empty((len(wanted), self.dim), dtype=np.float32)
        for start in range(0, len(wanted), MAX_IDS):
            ids = self.ids[wanted[start : start + MAX_IDS]]
            with _answers() as client:
                rows = client.get(self.name, ids=ids.tolist(), output_fields=["vector"], timeout=TIMEOUT_S)
            by_id = {row["id"]: row["vector"] for row in rows}
            if len(by_id) != len(ids):
                logger.error("%s has %d of %d vectors that it should have", self.name, len(by_id), len(ids))
                raise _away()
            found[start : start + len(ids)] = [by_id[pk] for pk in ids.tolist()]
        return found[places]

    def select(self, positions: Ints) -> Selected:
        """What lets a search see only these positions."""
        mask = np.zeros(len(self), dtype=bool)
        mask[positions] = True
        return Selected(np.flatnonzero(mask), mask)

    def search(self, query: Floats, count: int, selected: Selected) -> tuple[Floats, Ints]:
        """The best positions among the selected, best first: (scores, positions), at most `count` of them.

        Where many are selected, more are asked for than wanted, until enough of them are; else Milvus is told which.

        Raises: NotReady: Milvus does not answer.
        """
        count = min(count, selected.count)
        if not count or not np.isfinite(query).all():
            return np.empty(0, np.float32), np.empty(0, np.int64)
        limit = 2 * count * len(self) // selected.count
        while selected.count >= GRAPH_SHARE * len(self) and limit <= MAX_FOUND:
            scores, positions = self._search(query, limit, "")
            mine = selected.mask[positions]
            if mine.sum() >= count:
                return scores[mine][:count], positions[mine][:count]
            if limit >= len(self):
                break
            limit *= 4
        ids = ",".join(map(str, self.ids[selected.positions].tolist()))
        return self._search(query, min(count, MAX_FOUND), f"id in [{ids}]")

    def _search(self, query: Floats, limit: int, which: str) -> tuple[Floats, Ints]:
        with _answers() as client:
            [hits] = client.search(self.name, data=[query.tolist()], limit=limit, filter=which, timeout=TIMEOUT_S)
        scores = np.array([hit["distance"] for hit in hits], dtype=np.float32)
        positions = self.positions_of(np.array([hit["id"] for hit in hits], dtype=np.int64))
        # What came since these ids were read is not in this index.
        known = positions >= 0
        return scores[known], positions[known]


def collection_of(space: str) -> str:
    """Milvus's names have letters, digits and underscores only."""
    return f"loradex_{hashlib.sha256(space.encode()).hexdigest()[:24]}"


def load(space: str, dim: int) -> MilvusIndex:
    """The collection of a space as it is. Raises: NotReady: Milvus does not answer."""
    name = collection_of(space)
    return MilvusIndex(name, _ids(name), dim)


def fill(space: str, ids: Ints, dim: int, read: Callable[[Ints], Floats]) -> None:
    """Give the collection of a space the vectors of exactly these ids (n,), ascending.

    Args:
        read: ids → their rows (m, dim); asked for those only that are not there yet.
    Raises: NotReady: Milvus does not answer.
    """
    name = collection_of(space)
    with _answers() as client:
        if not client.has_collection(name, timeout=TIMEOUT_S):
            _create(client, name, dim)
    there = _ids(name)
    missing = np.setdiff1d(ids, there)
    for part in _cut(missing, WRITTEN):
        rows = [{"id": pk, "vector": vector} for pk, vector in zip(part.tolist(), read(part), strict=True)]
        with _answers() as client:
            client.upsert(name, rows, timeout=6 * TIMEOUT_S)
    for part in _cut(np.setdiff1d(there, ids), MAX_IDS):
        with _answers() as client:
            client.delete(name, ids=part.tolist(), timeout=6 * TIMEOUT_S)


def drop(space: str) -> None:
    """Remove the collection of a space, if there is one. Raises: NotReady: Milvus does not answer."""
    with _answers() as client:
        client.drop_collection(collection_of(space), timeout=TIMEOUT_S)


def _create(client: Any, name: str, dim: int) -> None:
    from pymilvus import DataType  # noqa: PLC0415 (seconds, and only where Milvus is used)

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    params = client.prepare_index_params()
    params.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
    # Strong: what was written is found by whoever has been told that it is there.
    client.create_collection(
        name, schema=schema, index_params=params, consistency_level="Strong", timeout=6 * TIMEOUT_S
    )


def _ids(name: str) -> Ints:
    """The ids in a collection, ascending; none where it does not exist."""
    with _answers() as client:
        if not client.has_collection(name, timeout=TIMEOUT_S):
            return np.empty(0, dtype=np.int64)
        # It may be new to this server, or have been released by another client.
        client.load_collection(name, timeout=60 * TIMEOUT_S)
        rows = client.query_iterator(name, batch_size=MAX_FOUND, output_fields=["id"], timeout=6 * TIMEOUT_S)
        found: list[int] = []
        while batch := rows.next():
            found += [row["id"] for row in batch]
        rows.close()
    return np.unique(np.array(found, dtype=np.int64))


def _cut(ids: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


@contextmanager
def _answers() -> Iterator[Any]:
    """A client. Raises: NotReady: whatever goes wrong with Milvus; its cause is in the log."""
    try:
        from pymilvus import MilvusClient, MilvusException  # noqa: PLC0415 (seconds, and only where Milvus is used)
    except ImportError as error:
        raise NotReady("VECTOR_ENGINE_URL is set, and pymilvus is missing: see requirements-milvus.txt.") from error
    try:
        yield _client(MilvusClient)
    except (MilvusException, OSError) as error:
        logger.exception("Milvus does not answer as it should")
        raise _away() from error


def _client(make: Any) -> Any:
    options = settings.VECTOR_ENGINE
    with _connecting:
        if options["uri"] not in _clients:
            _clients[options["uri"]] = make(**options, timeout=TIMEOUT_S)
        return _clients[options["uri"]]


def _away() -> NotReady:
    return NotReady("The vector engine does not answer as it should. Try again soon.", retry_after_s=10)
