"""Every test runs offline, loopback excepted, and starts without what the last one left in memory."""

from collections.abc import Iterator

import hypothesis
import pytest
from django.conf import settings
from pytest_socket import socket_allow_hosts

from registry import facets
from retrieval import descriptions, live, outcome_search, outcome_table

# Time is no behaviour: one example may take long where other processes share the cores.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _offline() -> None:
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _empty_queue() -> None:
    """A sweep sends nothing again while the queue is long, and no worker takes what the unit tests put there."""
    for message in settings.DATA_DIR.glob("broker/*.msg"):
        message.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    """The database is rolled back behind the process's back after each test."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    for memory in (live, facets, outcome_table, outcome_search, descriptions):
        memory.forget()
