"""Adapters to merge, and the errors that are allowed."""

from pathlib import Path

import pytest

from tests.parity.engine import Adapters, write_adapters

SHAPE = (24, 36)  # both sides can be shared out among 2, 3 and 4


@pytest.fixture
def pair(tmp_path: Path) -> Adapters:
    return write_adapters(tmp_path, 2, SHAPE, common=0.6)


@pytest.fixture
def three(tmp_path: Path) -> Adapters:
    return write_adapters(tmp_path, 3, SHAPE, common=0.6)
