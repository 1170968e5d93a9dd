"""The address of a client, behind proxies that the operator trusts.

A proxy says for whom it connects: in ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239) for
each request, or in a PROXY protocol header, version 1 or 2, at the start of a connection.
Anybody can say so, therefore it counts only from an address in ``trusted_proxies``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from synaptoroute.config import HttpConfig
from synaptoroute.errors import ConfigError
from synaptoroute.web.http_parser import Address, Header

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
PROXY_HEADER_BYTES_MAX: Final = 536
HOPS_MAX: Final = 16
"""Addresses of a forwarding header that are looked at, from its end."""
_KNOWN_MAX: Final = 4_096
_V1: Final = re.compile(rb"PROXY (?:TCP[46] (\S+) \S+ (\d{1,5}) \d{1,5}|UNKNOWN[^\r\n]*)\r\n")
_V1_BYTES_MAX: Final = 107
_V2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_FORWARDED_FOR: Final = re.compile(rb'for="?(\[[0-9A-Fa-f:.]+\]|[0-9.]+)', re.IGNORECASE)
_FORWARDED_PROTO: Final = re.compile(rb'proto="?([a-z]+)', re.IGNORECASE)


class BadProxyHeader(ValueError):
    """The start of a connection is a broken PROXY protocol header."""


class TrustedProxies:
    """The networks of proxies whose word on a client's address counts."""

    def __init__(self, networks: Sequence[Network] = (), *, proxy_protocol: bool = False) -> None:
        self._networks = tuple(networks)
        self.proxy_protocol = proxy_protocol
        self._known: OrderedDict[str, bool] = OrderedDict()

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            known = self._known[address] = self._holds(address)
            if len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
        return known

    def _holds(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return any(found.version == each.version and found in each for each in self._networks)

    def client_of(self, peer: Address, headers: Sequence[Header]) -> tuple[Address, bool | None]:
        """Find for whom a trusted proxy sends a request.

        The last address that is not a trusted proxy counts: what stands before it was
        written by that client itself.

        Returns:
            The client's address, and whether it speaks TLS; None where no header says.
        """
        chain: list[bytes] = []
        forwarded: list[bytes] = []
        proto = b""
        for name, value in headers:
            if name == b"x-forwarded-for":
                chain += value.split(b",")
            elif name == b"forwarded":
                forwarded += value.split(b",")
            elif name == b"x-forwarded-proto":
                proto = value.rpartition(b",")[2].strip().lower()
        if not chain and forwarded:
            found = [_FORWARDED_FOR.search(each) for each in forwarded]
            chain = [each[1] if each else b"" for each in found]
        if not proto and forwarded and (last := _FORWARDED_PROTO.search(forwarded[-1])):
            proto = last[1].lower()
        client = peer
        for hop in reversed(chain[-HOPS_MAX:]):
            address = plain_address(hop.decode("latin-1"))
            if address is None:
                break
            client = address, 0
            if address not in self:
                break
        return client, proto == b"https" if proto in (b"http", b"https") else None


@lru_cache(maxsize=_KNOWN_MAX)
def client_network(address: str) -> str:
    """The address, or for IPv6 its network of 64 bits, of which a client has every address."""
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(found) >> 64 << 64))


def proxies_of(config: HttpConfig) -> TrustedProxies:
    """The trusted proxies of a process.

    Raises:
        ConfigError: One of the networks is malformed.
    """
    networks = parse_networks(config.trusted_proxies)
    return TrustedProxies(networks, proxy_protocol=config.proxy_protocol)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks in CIDR notation, comma-separated.

    Raises:
        ConfigError: One of them is malformed.
    """
    found = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part, strict=False))
        except ValueError:
            raise ConfigError(f"trusted_proxies: {part!r} is not an address or network") from None
    return tuple(found)


def plain_address(text: str) -> str | None:
    """An IP address without brackets and port, in its usual form; None if it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return str(found)


def read_proxy_header(data: bytes) -> tuple[int, Address | None] | None:
    """Read the PROXY protocol header that a connection may begin with.

    Returns:
        Its length, 0 if there is none, and the address of the client, if it names one;
        None while it is not complete.

    Raises:
        BadProxyHeader: It is malformed.

    Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.
    """
    if data.startswith(_V2[: len(data)]) and len(data) < len(_V2):
        return None
    if data.startswith(_V2):
        return _read_v2(data)
    if not data.startswith(b"PROXY "[: len(data)]):
        return 0, None
    end = data.find(b"\r\n", 0, _V1_BYTES_MAX)
    if end < 0:
        if len(data) >= _V1_BYTES_MAX:
            raise BadProxyHeader
        return None
    found = _V1.fullmatch(data[: end + 2])
    if found is None:
        raise BadProxyHeader
    if found[1] is None:
        return end + 2, None
    host = plain_address(found[1].decode("latin-1"))
    if host is None:
        raise BadProxyHeader
    return end + 2, (host, int(found[2]))


def _read_v2(data: bytes) -> tuple[int, Address | None] | None:
    if len(data) < 16:
        return None
    kind, family, length = struct.unpack_from("!BBH", data, 12)
    if kind >> 4 != 2 or kind & 15 > 1 or 16 + length > PROXY_HEADER_BYTES_MAX:
        raise BadProxyHeader
    if len(data) < 16 + length:
        return None
    size = {0x11: 4, 0x21: 16}.get(family)
    # A health check of the proxy itself (LOCAL), or an address that is not of TCP.
    if kind & 15 == 0 or size is None:
        return 16 + length, None
    if length < 2 * size + 4:
        raise BadProxyHeader
    host = socket.inet_ntop(socket.AF_INET if size == 4 else socket.AF_INET6, data[16 : 16 + size])
    (port,) = struct.unpack_from("!H", data, 16 + 2 * size)
    return 16 + length, (plain_address(host) or host, port)
