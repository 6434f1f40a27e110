"""Every test runs offline, loopback excepted, and starts without what the last one left in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_socket import socket_allow_hosts

from registry import facets
from retrieval import live

TESTS = Path(__file__).parent
# Their tests share servers, which take long to start.
ONE_PROCESS = (TESTS / "services", TESTS / "journeys" / "gallery")


@pytest.hookimpl(tryfirst=True)  # before the plugin that distributes the tests reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the suite, the tests of a file stay together, as do those of these folders."""
    for item in items:
        group = next((folder for folder in ONE_PROCESS if item.path.is_relative_to(folder)), item.path)
        item.add_marker(pytest.mark.xdist_group(group.relative_to(TESTS).as_posix()))


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
