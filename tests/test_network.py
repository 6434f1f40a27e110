"""The suite cannot reach anything but this machine."""

import socket

import pytest
from pytest_socket import SocketConnectBlockedError


def test_a_connection_to_another_host_is_blocked():
    with pytest.warns(UserWarning, match="192.0.2.1"), pytest.raises(SocketConnectBlockedError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
