"""Files of arrays hold what was given, whatever its order in memory."""

import numpy as np
import pytest
from safetensors.numpy import load

from lora.array_file import array_file


@pytest.mark.parametrize("order", ["C", "F", "reversed", "part"])
def test_arrays_come_back_as_they_are(order: str) -> None:
    rows = np.arange(12.0).reshape(3, 4)
    given = {"C": rows, "F": np.asfortranarray(rows), "reversed": rows[::-1, ::-1], "part": rows[:, 1:3]}[order]
    found = load(array_file({"rows": given, "one": np.float32(2.5)}, {"space": "s"}))
    assert found["rows"].tolist() == given.tolist()
    assert found["one"].shape == ()
    assert found["one"] == 2.5
