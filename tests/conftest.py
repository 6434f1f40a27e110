"""Every test runs offline, loopback excepted, and starts without what the last one left in memory."""

from collections.abc import Iterator

import pytest
from pytest_socket import socket_allow_hosts

from registry import facets
from retrieval import live


@pytest.fixture(autouse=True)
def _offline() -> None:
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    """The database is rolled back behind the process's back after each test."""
    live.forget()
    facets.forget()
    yield
    live.forget()
    facets.forget()
