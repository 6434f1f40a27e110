"""The hybrid space on a pool in memory, with an encoder that only counts letters."""

import numpy as np
import pytest

from lora.hybrid.evaluation import FittedPool

SAMPLES = [
    [f"Add {i} and {3 * i}." for i in range(2, 12)],
    [f"Name the capital of {name}." for name in ("Peru", "Chad", "Chile", "Nepal", "Mali", "Iran", "Oman", "Togo")],
    [f'{{"name": "{name}", "age": {len(name)}}}' for name in ("Ada", "Bo", "Cleo", "Dimitri", "Eve", "Farouk")],
]


def count_letters(texts: list[str]) -> np.ndarray:
    counts = np.array([np.bincount([ord(char) % 24 for char in text], minlength=24) for text in texts]) + 0.1
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> FittedPool:
    return FittedPool(SAMPLES, count_letters)


def test_new_texts_are_likeliest_under_the_expert_that_they_look_like(fitted: FittedPool) -> None:
    texts = ["Add 40 and 2.", "Name the capital of Norway.", '{"name": "Grete", "age": 61}']
    scores, judged = fitted.scores(texts)
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]
    assert all(0 <= one.fits <= 1 and 0 <= one.familiar <= 1 for one in judged)
    # What is known of one text does not depend on the others.
    assert fitted.scores(texts[1:2])[0][0] == pytest.approx(scores[1])


def test_chat_templates_do_not_count(fitted: FittedPool) -> None:
    wrapped = "<|im_start|>user\nName the capital of Norway.<|im_end|>\n<|im_start|>assistant\n"
    plain, _ = fitted.scores(["Name the capital of Norway."])
    assert fitted.scores([wrapped])[0] == pytest.approx(plain)
