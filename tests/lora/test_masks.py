"""Random masks: the same wherever and however often they are drawn, different where they must be, and uniform."""

import hashlib

import numpy as np
import pytest
import torch

from lora.masks import uniform

HERE = (3, "ab" * 32, "layers.0.q")
RECORDED = "8930be36ddb32dff5ae988a8c18462cb0ade77649f83e24d7998738b6c5b4967"


@pytest.mark.parametrize("width", [1, 7, 8, 50])
def test_rows_have_their_numbers_whatever_block_they_come_in(width: int) -> None:
    whole = uniform(*HERE, slice(0, 13), width)
    assert whole.shape == (13, width)
    assert whole.dtype == torch.float32
    for height in (1, 4, 13):
        parts = [uniform(*HERE, slice(top, min(top + height, 13)), width) for top in range(0, 13, height)]
        assert torch.equal(torch.cat(parts), whole)


def test_numbers_are_those_of_philox_and_stay_so() -> None:
    text = "\n".join(map(str, HERE)).encode()
    key = np.frombuffer(hashlib.sha256(text).digest()[:16], dtype="<u8")
    words = np.random.Philox(key=key, counter=2 * 2).random_raw(4 * 2)  # 9 numbers need two counters
    halves = [half for word in words.tolist() for half in (word & 0xFFFFFFFF, word >> 32)]
    expected = [(half >> 9) / 2**23 for half in halves[:9]]
    row = uniform(*HERE, slice(2, 3), 9)
    assert row[0].tolist() == expected
    assert hashlib.sha256(row.numpy().astype("<f4").tobytes()).hexdigest() == RECORDED


def test_seed_input_module_and_row_each_change_everything() -> None:
    rows = slice(0, 1)
    draws = [
        uniform(*HERE, rows, 40),
        uniform(*HERE, slice(1, 2), 40),
        uniform(4, *HERE[1:], rows, 40),
        uniform(3, "cd" * 32, HERE[2], rows, 40),
        uniform(3, HERE[1], "layers.1.q", rows, 40),
    ]
    assert len({float(number) for draw in draws for number in draw[0]}) == 5 * 40


def test_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = uniform(*HERE, slice(0, 1000), 1000).double()
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    counts = torch.histc(numbers, bins=100, min=0, max=1)
    chi_squared = float((counts - 1e4).square().sum() / 1e4)
    assert 57 < chi_squared < 149  # 99 degrees of freedom: all but one in a thousand
    centred = numbers - 0.5
    sigma = 1 / 12 / 1e3  # of the mean of a million products
    for other in (centred.roll(1, 1), centred.roll(1, 0), uniform(4, *HERE[1:], slice(0, 1000), 1000).double() - 0.5):
        assert abs(float((centred * other).mean())) < 4 * sigma
