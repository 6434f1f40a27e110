"""Every test runs offline, loopback excepted."""

import pytest
from pytest_socket import socket_allow_hosts


@pytest.fixture(autouse=True)
def _offline() -> None:
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)
