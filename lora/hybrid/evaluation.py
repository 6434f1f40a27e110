"""The hybrid router on a pool in memory: a space fitted to the background and the pool, as a worker fits one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lora.hybrid.abstention import DEPTH, Judgement
from lora.hybrid.background import load_background, load_far
from lora.hybrid.fitting import Background, Labelled, fit
from lora.hybrid.space import HybridSpace
from lora.hybrid.wrappers import spans, unwrap

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Encode = Callable[[list[str]], Singles]


class FittedPool:
    """The rows of experts in a space that was fitted with them.

    Args:
        samples: texts of each expert. encode: texts → unit rows (n, dim).
    """

    def __init__(self, samples: Sequence[Sequence[str]], encode: Encode) -> None:
        self._encode = encode
        plain = [[unwrap(text) for text in texts] for texts in samples]
        texts = [text for part in plain for text in part]
        rows = encode(texts)
        owners = np.repeat(np.arange(len(plain)), [len(part) for part in plain])
        self.space = _fitted(Labelled(texts, rows, owners), encode)
        ends = np.cumsum([len(part) for part in plain])[:-1]
        parts = zip(np.split(rows, ends), plain, strict=True)
        self._experts = np.stack([self.space.expert_row(own, part) for own, part in parts]).astype(np.float64)

    def scores(self, texts: Sequence[str]) -> tuple[Floats, list[Judgement]]:
        """Return the log densities (q, n) of texts under every expert, and what is thought of each text."""
        cut = [spans(text) for text in texts]
        rows = iter(self._encode([span for part in cut for span in part]))
        scores, judged = [], []
        for part in cut:
            query = self.space.query(np.stack([next(rows) for _ in part]), part)
            found = self.space.combine(query, query.rows.astype(np.float64) @ self._experts.T)
            best = np.argsort(-found, kind="stable")[:DEPTH]
            judged.append(self.space.judge(found[best], query, self._experts[best[0]]))
            scores.append(found)
        return np.stack(scores), judged


def _fitted(pool: Labelled, encode: Encode) -> HybridSpace:
    tasks = [task.texts for task in load_background()]
    return fit(Background.encoded(tasks, [kind.texts for kind in load_far()], encode), pool)
