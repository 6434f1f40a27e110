"""Texts of callers that ask at once, put together into forward passes."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from registry.errors import NotReady
from retrieval.metrics import ENCODE_SECONDS, ENCODED_TEXTS

Rows = NDArray[np.float32]

# One forward pass: more would cost the attention more than it saves, and not stay in a core's cache.
BATCH_CHARS = 1000
BATCH_TEXTS = 32
# Longer than a model takes to load on a busy machine, and than what 16 threads ask for at once takes.
MAX_WAIT_S = 120


def by_size(texts: list[str]) -> list[list[int]]:
    """Put positions of texts, the shortest first, into forward passes of bounded size."""
    parts: list[list[int]] = []
    chars = 0
    for position in sorted(range(len(texts)), key=lambda position: len(texts[position])):
        chars += len(texts[position])
        if not parts or chars > BATCH_CHARS or len(parts[-1]) == BATCH_TEXTS:
            parts.append([])
            chars = len(texts[position])
        parts[-1].append(position)
    return parts


class _Order:
    """Texts that a thread wants encoded, and what came of it."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.rows: Rows | None = None
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.rows is not None or self.error is not None


class Batches:
    """Whoever gets the model takes along what the others wait for: no thread of its own, no waiting window.

    Nobody waits who is alone, and a process that is told to stop has nothing to stop here.
    """

    def __init__(self, run: Callable[[list[str]], Rows]) -> None:
        self._run = run
        self._waiting: deque[_Order] = deque()
        self._model_lock = threading.Lock()

    def encode(self, texts: list[str]) -> Rows:
        order = _Order(texts)
        self._waiting.append(order)
        if not self._model_lock.acquire(timeout=MAX_WAIT_S):
            # If it is not waiting any more, it is just being encoded, for nobody.
            with suppress(ValueError):
                self._waiting.remove(order)
            raise NotReady("The encoder has more to do than it gets done. Try again later.", retry_after_s=10)
        try:
            while not order.done:
                self._serve()
        finally:
            self._model_lock.release()
        if order.error is not None:
            raise order.error
        assert order.rows is not None  # noqa: S101 (done without an error)
        return order.rows

    def _serve(self) -> None:
        """Encode the oldest orders; their number is bounded so that the first does not wait for the last."""
        orders = [self._waiting.popleft()]
        while self._waiting and sum(len(order.texts) for order in orders) < BATCH_TEXTS:
            orders.append(self._waiting.popleft())
        try:
            self._encode(orders)
        except Exception as error:
            if len(orders) == 1:
                orders[0].error = error
                return
            # One's texts must not fail the others.
            for order in orders:
                self._alone(order)

    def _alone(self, order: _Order) -> None:
        try:
            self._encode([order])
        except Exception as error:
            order.error = error

    def _encode(self, orders: list[_Order]) -> None:
        texts = [text for order in orders for text in order.texts]
        with ENCODE_SECONDS.time():
            rows = self._run(texts)
        ENCODED_TEXTS.inc(len(texts))
        start = 0
        for order in orders:
            order.rows = rows[start : start + len(order.texts)]
            start += len(order.texts)
