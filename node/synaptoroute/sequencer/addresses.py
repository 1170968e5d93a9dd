"""Addresses of nodes that come from Redis: which of them may be asked at all.

An address in a row is a claim.  It must be one of a node's HTTP server and nothing else, so
that a row cannot direct requests to the metadata service of a cloud, or give them parts that
only an operator may write (user information, a query).
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from synaptoroute.errors import ProtocolError

URL_CHARACTERS_MAX: Final = 1_024
_METADATA: Final = frozenset(
    {
        ipaddress.ip_address("fd00:ec2::254"),  # AWS, IPv6
        ipaddress.ip_address("100.100.100.200"),  # Alibaba Cloud
        ipaddress.ip_address("192.0.0.192"),  # Oracle Cloud
    }
)
_METADATA_NAMES: Final = frozenset({"metadata.google.internal", "metadata"})


@lru_cache(maxsize=4_096)  # Of the addresses that are taken; an error is not kept
def check_address(url: str) -> None:
    """Check the base address of a node; an empty one is a node that serves no peers.

    Raises:
        ProtocolError: It is not ``http://host[:port][/path]`` or the same with ``https``, or it
            is an address of a link or of a cloud's metadata service.
    """
    if not url:
        return
    if len(url) > URL_CHARACTERS_MAX or not url.isascii() or not url.isprintable():
        raise ProtocolError("the address of a node is malformed")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ProtocolError("the address of a node is malformed") from error
    if parts.scheme not in ("http", "https") or not host or " " in url or "\\" in url:
        raise ProtocolError("the address of a node begins with http:// or https:// and a host")
    if "@" in parts.netloc or parts.query or parts.fragment or "?" in url or "#" in url:
        raise ProtocolError("the address of a node has neither user information nor a query")
    if _is_forbidden(host):
        raise ProtocolError(f"{host} is not an address of a node")


def _is_forbidden(host: str) -> bool:
    name = host.rstrip(".").lower()
    if name in _METADATA_NAMES:
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        # Resolvers read "2852039166", "0xa9fea9fe" and "169.254.43518" as IPv4 addresses.
        # No name of a host ends in a label that is a number.
        label = name.rpartition(".")[2]
        return label.isdigit() or label.startswith("0x")
    mapped = getattr(address, "ipv4_mapped", None) or address
    return (
        mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified or mapped in _METADATA
    )
