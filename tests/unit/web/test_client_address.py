"""The address of a client, by the word of trusted proxies only."""

from __future__ import annotations

import pytest

from synaptoroute.errors import ConfigError
from synaptoroute.web.client_address import (
    BadProxyHeader,
    TrustedProxies,
    parse_networks,
    read_proxy_header,
)

pytestmark = pytest.mark.unit

PROXIES = TrustedProxies(parse_networks("10.0.0.0/8, 192.168.1.1, fd00::/8"))
PEER = ("10.0.0.1", 4_000)


@pytest.mark.parametrize(
    ("headers", "host", "is_secure"),
    [
        ([], "10.0.0.1", None),
        ([(b"x-forwarded-for", b"192.0.2.7")], "192.0.2.7", None),
        ([(b"x-forwarded-for", b"1.1.1.1, 192.0.2.7")], "192.0.2.7", None),
        ([(b"x-forwarded-for", b"1.1.1.1, 192.0.2.7, 10.9.9.9")], "192.0.2.7", None),
        ([(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"192.0.2.7")], "192.0.2.7", None),
        ([(b"x-forwarded-for", b"192.0.2.7:5000")], "192.0.2.7", None),
        ([(b"x-forwarded-for", b"[2001:db8::1]:5000")], "2001:db8::1", None),
        ([(b"x-forwarded-for", b"::ffff:192.0.2.7")], "192.0.2.7", None),
        ([(b"x-forwarded-for", b"1.1.1.1, junk")], "10.0.0.1", None),
        ([(b"x-forwarded-for", b"10.2.2.2")], "10.2.2.2", None),
        ([(b"forwarded", b"for=192.0.2.7;proto=https")], "192.0.2.7", True),
        ([(b"forwarded", b'for=1.1.1.1, For="[2001:db8::1]:80";proto=http')], "2001:db8::1", False),
        ([(b"forwarded", b"for=_hidden")], "10.0.0.1", None),
        ([(b"forwarded", b"for=1.1.1.1"), (b"x-forwarded-for", b"192.0.2.7")], "192.0.2.7", None),
        ([(b"x-forwarded-proto", b"http, https")], "10.0.0.1", True),
        ([(b"x-forwarded-proto", b"https"), (b"x-forwarded-for", b"192.0.2.7")], "192.0.2.7", True),
    ],
)
def test_last_address_that_is_no_trusted_proxy_is_the_client(
    headers: list[tuple[bytes, bytes]], host: str, is_secure: bool | None
) -> None:
    client, found_secure = PROXIES.client_of(PEER, headers)

    assert (host, is_secure) == (client[0], found_secure)


def test_trust_is_by_network() -> None:
    for address in ("10.255.0.1", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1"):
        assert address in PROXIES
    for address in ("11.0.0.1", "192.168.1.2", "fe80::1%eth0", "2001:db8::1", "", "unix"):
        assert address not in PROXIES
    assert "10.0.0.1" not in TrustedProxies()


def test_malformed_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        parse_networks("10.0.0.0/8, proxy.example")
    assert () == parse_networks(" ")


V2 = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET / HTTP/1.1\r\n", (0, None)),
        (b"PROXY UNKNOWN\r\nGET", (15, None)),
        (b"PROXY TCP4 192.0.2.7 10.0.0.2 5 80\r\nGET", (36, ("192.0.2.7", 5))),
        (b"PROX", None),
        (b"P", None),
        (b"PROXY TCP4 192.0.2.7", None),
        (V2[:5], None),
        (V2 + b"\x20\x00\x00\x00rest", (16, None)),
        (V2 + b"\x21\x31\x00\x01xrest", (17, None)),
        (V2 + b"\x21\x11\x00\x0c" + bytes(11), None),
    ],
)
def test_proxy_header_is_read(data: bytes, expected: object) -> None:
    assert expected == read_proxy_header(data)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 a b 5 80\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.2 5\r\n",
        b"PROXY " + b"x" * 200,
        V2 + b"\x31\x11\x00\x0c" + bytes(12),
        V2 + b"\x25\x11\x00\x0c" + bytes(12),
        V2 + b"\x21\x11\x00\x03abc",
        V2 + b"\x21\x11\xff\xff",
    ],
)
def test_malformed_proxy_header_is_refused(data: bytes) -> None:
    with pytest.raises(BadProxyHeader):
        read_proxy_header(data)
