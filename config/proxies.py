"""Which peers are proxies of ours: only their X-Forwarded-For and X-Forwarded-Proto say anything.

gunicorn acts on X-Forwarded-Proto (`config/gunicorn.py`); Django sees its verdict as the request's scheme.
"""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from django.conf import settings

Network = IPv4Network | IPv6Network


def parse_networks(text: str) -> list[Network]:
    """Addresses and networks (CIDR), separated by spaces or commas. Raises: ValueError naming the wrong one."""
    return [ip_network(part) for part in text.replace(",", " ").split()]


def client_address(meta: Mapping[str, Any]) -> str:
    """The nearest address that is not a proxy of ours: a client may write whatever it likes in front of it."""
    address = str(meta.get("REMOTE_ADDR", ""))
    for hop in reversed(str(meta.get("HTTP_X_FORWARDED_FOR", "")).split(",")):
        if not hop.strip() or not is_trusted(address):
            break
        address = hop.strip()
    return address


def is_trusted(address: str) -> bool:
    return _is_in(address, settings.TRUSTED_PROXIES)


def is_loopback(address: str) -> bool:
    return _is_in(address, parse_networks("127.0.0.0/8 ::1"))


def _is_in(address: str, networks: list[Network]) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)
