"""Lexical prototypes: what may not change them, and whether texts of a kind are found by them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.errors import LoraError
from lora.hybrid.features import CHARS, EDGES, FORMATS
from lora.prototypes.lexical import lexical
from lora.suite import read_suite
from tests.lora.raw_files import Array

TEXTS = st.lists(st.text(min_size=1, max_size=60).filter(str.strip), min_size=1, max_size=6)
CAPITALS = ["Capital of Peru?", "Capital of Chad?"]


@given(texts=TEXTS, data=st.data())
def test_it_is_a_unit_vector_that_knows_no_order_and_no_number(texts: list[str], data: st.DataObject) -> None:
    row = lexical(texts)
    assert row.dtype == np.float32
    assert row.shape == (CHARS + EDGES + FORMATS,)
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
    assert lexical(data.draw(st.permutations(texts))) == pytest.approx(row, abs=1e-6)
    assert lexical(texts * 3) == pytest.approx(row, abs=1e-6)


def test_chat_templates_are_taken_off() -> None:
    wrapped = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" for text in CAPITALS]
    assert np.array_equal(lexical(wrapped), lexical(CAPITALS))


def test_case_words_and_signs_count() -> None:
    own = lexical(CAPITALS)
    others = (CAPITALS[0], "capital of peru", "def f(x):\n    return {x: 1}")
    likeness = [float(own @ lexical([text])) for text in others]
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[0] > 0.8 > 0.4 > likeness[2]


def test_no_texts_look_like_nothing() -> None:
    with pytest.raises(LoraError, match="no texts"):
        lexical([])


def test_neighbours_are_found_without_an_encoder() -> None:
    """Of 20 queries together the nearest expert is nearly always that of their task."""
    tasks = read_suite(Path("tests/data/retrieval_dev")).tasks
    experts = rows([[sample.input for sample in task.samples[:20]] for task in tasks])
    asked = rows([[query.input for query in task.queries[:20]] for task in tasks])
    assert ((asked @ experts.T).argmax(axis=1) == np.arange(len(tasks))).mean() > 0.95


def rows(kinds: list[list[str]]) -> Array:
    return np.stack([lexical(texts) for texts in kinds])
