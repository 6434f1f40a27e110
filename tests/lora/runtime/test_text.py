"""Examples as tokens: no row is padded where gradients or Gram matrices are taken, few passes where losses are."""

import pytest
import torch

from lora.examples import Example
from lora.runtime.text import BATCH_TOKENS, PASS_TOKENS, batches, joined
from tests.lora.runtime.tiny_language_model import TOKENS


def task(*sizes):
    """Batches of examples with so many tokens in the prompt and the answer; the template adds one, the answer two."""
    return batches([Example("a" * prompt, "b" * answer) for prompt, answer in sizes], TOKENS, "{line}>")


def shapes(found):
    return [tuple(batch.ids.shape) for batch in found]


def test_examples_of_about_one_length_share_a_pass():
    parts = task((4, 1), (9, 2), (6, 1))
    assert shapes(parts) == [(1, 8), (1, 10), (1, 14)]
    [batch] = joined(parts)
    assert batch.ids.shape == (3, 14)
    for row, part in enumerate(parts):
        length = part.ids.shape[1]
        assert torch.equal(batch.ids[row, :length], part.ids[0])
        assert torch.equal(batch.is_answer[row, :length], part.is_answer[0])
        assert torch.equal(batch.is_prompt[row, :length], ~part.is_answer[0])


def test_what_fills_up_is_neither_prompt_nor_answer():
    [batch] = joined(task((4, 1), (9, 2)))
    counted = batch.is_prompt.int() + batch.is_answer.int()
    assert counted.tolist() == [[1] * 8 + [0] * 6, [1] * 14]
    assert batch.prompts.tolist() == [5, 10]


@pytest.mark.parametrize(("more", "passes"), [(PASS_TOKENS, 1), (PASS_TOKENS + 1, 2)])
def test_what_costs_more_than_a_pass_is_not_filled_up(more, passes):
    assert len(list(joined(task((4, 1), (4 + more, 1))))) == passes


def test_a_pass_is_bounded_and_the_order_stays():
    sizes = [(BATCH_TOKENS // 2 - 4 + k, 1) for k in (0, 1, 2)]
    parts = task(*sizes)
    assert shapes(joined(parts)) == shapes(parts)
    assert [len(batch.ids) for batch in joined([])] == []
