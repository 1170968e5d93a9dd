"""The grammar of requests: what is refused, what is read, and that cuts change nothing."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from http_bytes import Parsed, exchange, parse
from synaptoroute.web.http_parser import (
    CHUNK_OVERHEAD_BYTES_MAX,
    TRAILER_BYTES_MAX,
    ParserLimits,
)

pytestmark = pytest.mark.unit

HEAD = b"GET / HTTP/1.1\r\nHost: n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n"

MALFORMED = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": HEAD + b"Host: n\r\n\r\n",
    "two keys": HEAD + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    "two keys of another header": HEAD + b"X-API-Key: a\r\nX-Api-Key: b\r\n\r\n",
    "two media types": POST + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n",
    "two idempotency keys": HEAD + b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n",
    "two origins": HEAD + b"Origin: http://n\r\nOrigin: http://evil.example\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "host with path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with user": b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "host with comma": b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
    "host with letters as port": b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: n\r\n\r\n",
    "two spaces before version": b"GET /  HTTP/1.1\r\nHost: n\r\n\r\n",
    "space after version": b"GET / HTTP/1.1 \r\nHost: n\r\n\r\n",
    "tab in request line": b"GET\t/ HTTP/1.1\r\nHost: n\r\n\r\n",
    "lower case version": b"GET / http/1.1\r\nHost: n\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: n\n\n",
    "bare LF after a field": HEAD + b"A: b\nC: d\r\n\r\n",
    "bare CR": HEAD + b"A: b\rC: d\r\n\r\n",
    "CR CR LF": HEAD + b"A: b\r\r\n\r\n",
    "folded line": HEAD + b"A: b\r\n c\r\n\r\n",
    "first field folded": b"GET / HTTP/1.1\r\n Host: n\r\n\r\n",
    "space before colon": HEAD + b"A : b\r\n\r\n",
    "no colon": HEAD + b"A\r\n\r\n",
    "empty name": HEAD + b": b\r\n\r\n",
    "NUL in value": HEAD + b"A: b\x00c\r\n\r\n",
    "control in value": HEAD + b"A: b\x0bc\r\n\r\n",
    "DEL in value": HEAD + b"A: b\x7f\r\n\r\n",
    "NUL in name": HEAD + b"A\x00: b\r\n\r\n",
    "NUL in target": b"GET /\x00 HTTP/1.1\r\nHost: n\r\n\r\n",
    "bytes in target": b"GET /\xff HTTP/1.1\r\nHost: n\r\n\r\n",
    "two empty lines first": b"\r\n\r\n" + HEAD + b"\r\n",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "quoted chunked": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "coding with VT": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "coding of 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "same length twice": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "length list": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "hex length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "empty length": POST + b"Content-Length:\r\n\r\n",
    "length with space": POST + b"Content-Length: 5 5\r\n\r\nhello",
    "length of other digits": POST + "Content-Length: \u0665\r\n\r\n".encode() + b"hello",
    "huge length": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "authority as target": b"GET n:80 HTTP/1.1\r\nHost: n\r\n\r\n",
    "target without slash": b"GET livez HTTP/1.1\r\nHost: n\r\n\r\n",
    "other scheme": b"GET ftp://n/ HTTP/1.1\r\nHost: n\r\n\r\n",
    "user in target": b"GET http://u@n/ HTTP/1.1\r\nHost: n\r\n\r\n",
    "asterisk of GET": b"GET * HTTP/1.1\r\nHost: n\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: n\r\n\r\n",
    "fragment after query": b"GET /a?b#c HTTP/1.1\r\nHost: n\r\n\r\n",
    "half percent in path": b"GET /%4 HTTP/1.1\r\nHost: n\r\n\r\n",
    "bad percent in path": b"GET /%zz HTTP/1.1\r\nHost: n\r\n\r\n",
    "bad percent in query": b"GET /?a=%zz HTTP/1.1\r\nHost: n\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "chunk size of nothing": CHUNKED + b"\r\nabc\r\n0\r\n\r\n",
    "chunk size with sign": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size with underscore": CHUNKED + b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "huge chunk size": CHUNKED + b"f" * 16 + b"\r\n",
    "chunk size with space": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "chunk with bare LF": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk too long": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "chunk without end": CHUNKED + b"3\r\nabc0\r\n\r\n",
    "long extension": CHUNKED + b"3;" + b"a" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    "LF in extension": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "many extensions": CHUNKED
    + (b"1;" + b"a" * 200 + b"\r\nx\r\n") * (CHUNK_OVERHEAD_BYTES_MAX // 180)
    + b"0\r\n\r\n",
    "malformed trailer": CHUNKED + b"0\r\nA : b\r\n\r\n",
    "folded trailer": CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n",
    "long trailers": CHUNKED
    + b"0\r\n"
    + b"A: 0123456789\r\n" * (TRAILER_BYTES_MAX // 12)
    + b"\r\n",
}

ABNORMAL_PATHS = [
    b"/%2d/settings", b"/%2D/settings", b"/-%2fsettings", b"/-%2Fsettings", b"//-/settings",
    b"/v1/../-/settings", b"/./-/settings", b"/v1/%2e%2e/-/settings", b"/.%2e/-/settings",
    b"/-//settings", b"/-/./settings", b"/-/..", b"/..", b"/.", b"/;a/-/settings", b"/-;a/settings",
    b"/\\-/settings", b"/%5c-/settings", b"/%5C..%5C-/settings", b"/%6detrics", b"/metri%63s",
    b"/pee%72/x", b"/%70eer/x", b"/-%00/settings", b"/%0a", b"/%7f", b"/%7e", b"/%5f", b"/%30",
    b"/v1/routes/a%2Fb", b"/a|b", b'/a"b', b"/a<b>", b"/a{b}", b"/a^b", b"/a`b", b"//",
]  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_malformed_request_is_refused_and_the_connection_ends(data: bytes) -> None:
    sent, is_ended = await exchange([data + NEXT])

    assert sent.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 ")), sent
    assert b'"code":"malformed_request"' in sent
    assert is_ended
    assert 1 == sent.count(b"HTTP/1.1 ")


@pytest.mark.parametrize("path", ABNORMAL_PATHS)
async def test_path_that_a_proxy_may_read_as_another_is_refused(path: bytes) -> None:
    sent, is_ended = await exchange([b"GET %b HTTP/1.1\r\nHost: n\r\n\r\n" % path])

    assert sent.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"malformed_request"' in sent
    assert is_ended


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"/v1/routes/two%20words", "/v1/routes/two words"),
        (b"/v1/routes/%C3%A9", "/v1/routes/é"),
        (b"/v1/routes/a.b:c-d_e/", "/v1/routes/a.b:c-d_e/"),
        (b"/v1/ops/..a/.b", "/v1/ops/..a/.b"),
        (b"/v1/routes?after=%2d%2F&x={}|;", "/v1/routes"),
        (b"http://other:80/livez?a", "/livez"),
        (b"HTTP://other", "/"),
        (b"https://[::1]:1?a", "/"),
    ],
)
def test_path_in_its_normal_form_is_read(target: bytes, path: str) -> None:
    parsed = Parsed()
    parsed.feed(b"GET %b HTTP/1.1\r\nHost: n\r\n\r\n" % target)

    assert [path] == [request.path for request in parsed.requests]
    assert parsed.problem is None


def test_authority_of_the_target_replaces_the_host() -> None:
    requests, _ = parse([b"GET http://Other:80/ HTTP/1.1\r\nHost: n\r\nA: b\r\n\r\n"])

    assert [(b"host", b"Other:80"), (b"a", b"b")] == requests[0][4]


async def test_connect_is_refused() -> None:
    sent, is_ended = await exchange([b"CONNECT n:80 HTTP/1.1\r\nHost: n:80\r\n\r\n"])

    assert sent.startswith(b"HTTP/1.1 405 ")
    assert b'"code":"method_not_allowed"' in sent
    assert is_ended


async def test_other_versions_are_refused_by_name() -> None:
    for line in (b"GET / HTTP/2.0", b"PRI * HTTP/2.0", b"GET / HTTP/1.2", b"GET / HTTP/3.0"):
        sent, is_ended = await exchange([line + b"\r\nHost: n\r\n\r\n"])
        assert sent.startswith(b"HTTP/1.1 505 "), sent
        assert b"version_not_supported" in sent
        assert is_ended


def test_trailers_are_dropped() -> None:
    """They become headers neither of their own request nor of the next."""
    data = CHUNKED + b"3\r\nabc\r\n0\r\nAuthorization: Bearer k\r\nContent-Length: 9\r\n\r\n" + NEXT
    requests, problem = parse([data])

    assert problem is None
    assert [b"abc", b""] == [request[6] for request in requests]
    for request in requests:
        assert not {b"authorization", b"content-length"} & {name for name, _ in request[4]}


def test_empty_line_before_a_request_is_skipped_once() -> None:
    requests, problem = parse([b"\r\n" + NEXT + b"\r\n" + NEXT])

    assert problem is None
    assert 2 == len(requests)


@pytest.mark.parametrize(
    ("limits", "data", "status"),
    [
        (ParserLimits(url_bytes_max=20), b"GET /%b HTTP/1.1\r\nHost: n\r\n\r\n" % (b"a" * 20), 414),
        (ParserLimits(url_bytes_max=20), b"GET /" + b"a" * 100, 414),
        (ParserLimits(head_bytes_max=100), HEAD + b"A: " + b"b" * 100, 431),
        (ParserLimits(head_bytes_max=100), HEAD + b"A: " + b"b" * 100 + b"\r\n\r\n", 431),
        (ParserLimits(head_bytes_max=100), HEAD + b"A: b\r\n" * 20 + b"\r\n", 431),
        (ParserLimits(headers_max=2), HEAD + b"A: b\r\n" * 2 + b"\r\n", 431),
        (ParserLimits(headers_max=3), HEAD + b"A: b\r\n" * 2 + b"\r\n", None),
    ],
)
def test_limits_of_the_head_hold_at_every_cut(
    limits: ParserLimits, data: bytes, status: int | None
) -> None:
    whole = parse([data], limits)
    assert status == (whole[1].status if whole[1] else None)
    for cut in range(1, len(data)):
        assert whole == parse([data[:cut], data[cut:]], limits), cut
    assert whole == parse([data[at : at + 1] for at in range(len(data))], limits)


def test_head_of_exactly_the_limit_is_read_at_every_cut() -> None:
    data = HEAD + b"A: bcd\r\n\r\n"
    limits = ParserLimits(head_bytes_max=len(data))
    assert 1 == len(parse([data], limits)[0])
    assert parse([data], limits) == parse([data[at : at + 1] for at in range(len(data))], limits)
    assert 431 == parse([data], ParserLimits(head_bytes_max=len(data) - 1))[1].status


# --- any bytes -------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [
        *MALFORMED.values(), HEAD + b"\r\n", NEXT, CHUNKED, POST, b"\r\n", b"\r", b"\n", b" ", b":",
        b"\x00", b"0\r\n\r\n", b"3\r\nabc\r\n", b"Content-Length: 3\r\n\r\nabc", b"A: b\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Host: n\r\n", b"GET ", b"/a%20b", b" HTTP/1.1\r\n",
        b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n",
    ]
)  # fmt: skip
_BYTES = st.lists(_PIECES | st.binary(max_size=8), max_size=8).map(b"".join)
_CUTS = st.lists(st.integers(0, 4_000), max_size=6)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(places)]


@settings(max_examples=1_000, deadline=None)
@given(_BYTES, _CUTS)
@example(b"\r\n\r\n", [1])
def test_cuts_change_no_request_and_no_refusal(data: bytes, cuts: list[int]) -> None:
    whole = parse([data])
    assert whole == parse(_cut(data, cuts))
    assert whole == parse([data[at : at + 1] for at in range(len(data))])


@pytest.mark.parametrize("data", [*MALFORMED.values(), CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n"])
def test_example_cut_at_every_byte_gives_the_same(data: bytes) -> None:
    data = NEXT + data[:700] + NEXT
    whole = parse([data])
    for cut in range(1, len(data)):
        assert whole == parse([data[:cut], data[cut:]]), cut


@settings(max_examples=200, deadline=None)
@given(_BYTES, _CUTS)
async def test_cuts_change_no_response(data: bytes, cuts: list[int]) -> None:
    whole = await exchange([data])
    split = await exchange(_cut(data, cuts))
    # A client that waits for 100 Continue gets it if its body comes later.
    assert whole == (split[0].replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""), split[1])


@settings(max_examples=1_000, deadline=None)
@given(_BYTES)
def test_what_is_read_is_read_alike_by_h11(data: bytes) -> None:
    """Every request that this parser accepts, an independent strict parser accepts too."""
    requests, _ = parse([data])
    other = h11.Connection(h11.SERVER, max_incomplete_event_size=65_536)
    other.receive_data(data)
    for method, path, query, _, headers, _, body, is_whole in requests:
        if not is_whole:
            return
        try:
            head = other.next_event()
        except h11.RemoteProtocolError as error:
            # RFC 9112 section 2.2 lets an empty line pass, h11 does not.
            assert "no request line received" == str(error)  # noqa: PT017
            return
        assert isinstance(head, h11.Request), head
        assert method.encode() == head.method
        if not head.target.startswith(b"http"):
            assert (path + b"?" + query).rstrip(b"?") == head.target.rstrip(b"?")
            # h11 reads a field that is repeated with the same value once.
            assert headers == [(name, value) for name, value in head.headers]
        received = b""
        while isinstance(event := other.next_event(), h11.Data):
            received += event.data
        assert body == received
        assert isinstance(event, h11.EndOfMessage), event
        if other.their_state is not h11.DONE:
            return
        other.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        other.send(h11.EndOfMessage())
        if other.our_state is not h11.DONE:
            return
        other.start_next_cycle()


def test_regular_expressions_take_linear_time() -> None:
    """A head of the largest size is judged in a few milliseconds."""
    limits = ParserLimits(url_bytes_max=4_000_000, head_bytes_max=8_000_000)
    for data in (
        HEAD + b"A:" + b" " * 2_000_000 + b"\x01\r\n\r\n",
        HEAD + b"A" * 2_000_000 + b"\r\n\r\n",
        b"GET " + b"/a" * 1_000_000 + b"\x01 HTTP/1.1\r\n\r\n",
        b"GET " + b"/%41" * 500_000 + b" HTTP/1.1\r\nHost: n\r\n\r\n",
        b"GET /?" + b"%" * 2_000_000 + b" HTTP/1.1\r\nHost: n\r\n\r\n",
    ):
        assert parse([data], limits)[1] is not None
