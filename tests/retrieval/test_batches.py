"""Forward passes: what waits goes together, within bounds, and nobody waits for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from registry.errors import NotReady
from retrieval.batches import Batches, by_size


def passes(lengths):
    """The lengths of the texts of each pass."""
    return [[lengths[place] for place in part] for part in by_size(["x" * length for length in lengths])]


def test_texts_share_passes_of_bounded_size_with_those_of_about_their_length():
    assert passes([300, 12, 9, 980, 15, 11, 10, 700]) == [[9, 10, 11, 12, 15, 300], [700], [980]]
    assert passes([40] * 20) == [[40] * 20]
    assert passes([60] * 20) == [[60] * 16, [60] * 4]
    assert passes([0] * 40) == [[0] * 32, [0] * 8]
    assert passes([3000] * 2) == [[3000]] * 2
    assert passes([]) == []


class _HeldModel:
    """A model that waits to be let go, and cannot read one text."""

    def __init__(self):
        self.reading, self.go_on = threading.Event(), threading.Event()
        self.passes = []

    def __call__(self, texts):
        self.passes.append(texts)
        self.reading.set()
        assert self.go_on.wait(60)
        if "unreadable" in texts:
            raise NotReady("It cannot be read.")
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


@pytest.fixture
def held():
    model = _HeldModel()
    batches = Batches(model)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(batches.encode, ["first"])
        assert model.reading.wait(60)
        yield model, batches, threads
        model.go_on.set()
        assert first.result()[0, 0] == 5


def wait_for_orders(batches, count):
    while len(batches._waiting) < count:
        time.sleep(0.001)


def test_what_waits_is_encoded_in_one_pass(held):
    model, batches, threads = held
    others = [threads.submit(batches.encode, ["x" * number]) for number in (1, 2, 3)]
    wait_for_orders(batches, 3)
    model.go_on.set()
    assert [other.result()[0, 0] for other in others] == [1, 2, 3]
    assert [sorted(texts) for texts in model.passes] == [["first"], ["x", "xx", "xxx"]]


def test_texts_of_one_caller_do_not_fail_those_of_another(held):
    model, batches, threads = held
    good = threads.submit(batches.encode, ["good"])
    bad = threads.submit(batches.encode, ["unreadable"])
    wait_for_orders(batches, 2)
    model.go_on.set()
    assert good.result()[0, 0] == 4
    with pytest.raises(NotReady, match="cannot be read"):
        bad.result()


def test_nobody_waits_for_ever(held, monkeypatch):
    model, batches, _ = held
    monkeypatch.setattr("retrieval.batches.MAX_WAIT_S", 0.01)
    with pytest.raises(NotReady, match="more to do") as raised:
        batches.encode(["late"])
    assert raised.value.headers == {"Retry-After": "10"}
    monkeypatch.setattr("retrieval.batches.MAX_WAIT_S", 60)
    model.go_on.set()
    assert batches.encode(["next"])[0, 0] == 4
    assert ["late"] not in model.passes
