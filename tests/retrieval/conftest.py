from collections.abc import Iterator

import pytest

from retrieval import live


@pytest.fixture(autouse=True)
def _fresh_view() -> Iterator[None]:
    """The database is rolled back behind the process's back after each test."""
    live.forget()
    yield
    live.forget()
