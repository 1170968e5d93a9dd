"""HTTP/1.1 requests out of bytes: one strict grammar, without sockets and clocks.

``RequestParser`` is fed the bytes of a connection in pieces of any size and calls its sink
for each request, each piece of a body and each end of a body.  Bytes that this grammar does
not cover are refused, never repaired: whatever a proxy in front could read in another way
(RFC 9112 section 11) must not reach an application.  The answer depends on the bytes only,
not on how they were cut into pieces.

Stricter than RFC 9112 where it leaves a choice: no obsolete line folding, no bare CR or LF,
one space between the parts of the request line, one Content-Length, ``chunked`` as the only
transfer coding, at most one empty line before a request.  A path must be in its normal form
(RFC 3986 section 6.2.2): a proxy that compares prefixes then sees the path that the
application sees.  Trailers are checked and dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias
from urllib.parse import unquote

from synaptoroute.web.problems import (
    MalformedRequest,
    MethodNotAllowed,
    Problem,
    VersionNotSupported,
)

Header: TypeAlias = tuple[bytes, bytes]
Address: TypeAlias = tuple[str, int]

CHUNK_LINE_BYTES_MAX: Final = 256
CHUNK_OVERHEAD_BYTES_MAX: Final = 16_384
"""Framing of a chunked body beyond the usual: long extensions and tiny chunks."""
TRAILER_BYTES_MAX: Final = 4_096
_SIZE, _END, _TRAILER = 1, 2, 3  # lines of a chunked body
_AROUND_URL_BYTES: Final = 42  # method of up to 32 bytes, two spaces, version
_LENGTH_DIGITS_MAX: Final = 18
_REQUEST_LINE: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n"
)
_OTHER_VERSION: Final = re.compile(rb"[!-~]+ [!-~]+ HTTP/(?!1\.[01])[0-9]\.[0-9]\r\n")
# Possessive, and with an alternative for any other line: what is malformed must not take
# quadratic time.  A line that is no field gives an empty name.
_FIELDS: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)\r\n|[^\n]*+\n"
)
_FIELD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")
# A control character other than a tab, or half of a line end.
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
_PLAIN_PATH: Final = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[0-9A-Za-z._~!$&'()*+,=:@-]+)*/?")
_PATH: Final = re.compile(
    rb"(?:/(?!\.{1,2}(?:/|\Z))(?:[0-9A-Za-z._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+)*/?"
)
# Encoded letters, digits, "-", ".", "_", "~", "/", "\" and control characters.
_BAD_ESCAPE: Final = re.compile(
    rb"%(?:[01][0-9A-F]|2[DEF]|3[0-9]|4[1-9A-F]|5[0-9ACF]|6[1-9A-F]|7[0-9AEF])", re.IGNORECASE
)
_HALF_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]+)([^?#]*)(\?.*)?", re.IGNORECASE | re.DOTALL)
HOST: Final = re.compile(rb"(?:[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_SINGLE: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"authorization",
        b"x-api-key",
        b"idempotency-key",
        b"origin",
    }
)
"""Fields of which a request has one at most: of two, a proxy may read the other one."""
KNOWN_MAX: Final = 1_024
_known_hosts: set[bytes] = set()
_known_paths: dict[bytes, str] = {}


class HttpRequest:
    """One request; header names are in lower case, in the order in which they were sent."""

    __slots__ = (
        "body",
        "client",
        "declared_bytes",
        "expects_continue",
        "has_begun",
        "headers",
        "is_answered",
        "is_secure",
        "is_whole",
        "keep_alive",
        "method",
        "on_body",
        "on_disconnect",
        "path",
        "query_string",
        "raw_path",
        "version",
    )

    def __init__(self, method: str, version: str, headers: list[Header]) -> None:
        self.method = method
        self.version = version
        self.path = ""
        self.raw_path = self.query_string = b""
        self.headers = headers
        self.client: Address | None = None
        self.is_secure = False  # whether the client speaks TLS, to this process or to a proxy
        self.keep_alive = version != "1.0"
        self.expects_continue = False
        self.declared_bytes: int | None = 0  # None for a chunked body
        self.body = bytearray()  # not read yet
        self.is_whole = False  # whether the body has arrived to its end
        self.has_begun = self.is_answered = False  # the response
        # Called if the client goes away before the response.
        self.on_disconnect: Callable[[], object] | None = None
        # Called when more of the body has arrived, and when the client goes away.
        self.on_body: Callable[[], None] | None = None


class RequestRefused(Exception):
    """The bytes of a connection break the grammar or a limit; nothing after them counts."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class ParserLimits:
    url_bytes_max: int = 8_192
    head_bytes_max: int = 32_768
    headers_max: int = 100


class RequestSink(Protocol):
    """Receives what a parser finds."""

    def on_request(self, request: HttpRequest) -> None:
        """Take a request; if it is not whole, its body and its end follow."""
        ...

    def on_body(self, piece: bytes) -> None: ...

    def on_end(self) -> None: ...


class RequestParser:
    """Cuts the bytes of one connection into requests."""

    def __init__(self, sink: RequestSink, limits: ParserLimits) -> None:
        self._sink = sink
        self._limits = limits
        self._rest = b""  # a head or a line of a chunked body that is not complete
        self._clean_bytes = 0  # of the rest: searched for control characters
        self._judged_bytes = 0  # of the rest: complete lines that were judged
        self._judged_lines = 0
        self._may_skip_line = True
        self._chunk_part = 0  # what the next line of a chunked body is; 0 outside of one
        self._overhead_bytes = self._trailer_bytes = 0
        self.left_bytes = 0  # of the body, or of the chunk
        self.is_in_head = False  # whether a request has begun whose head is not complete
        self.is_paused = False
        self._paused_data = b""

    def pause(self) -> None:
        """Keep what follows until ``resume``; called by the sink."""
        self.is_paused = True

    def resume(self) -> None:
        """Read what was kept.

        Raises:
            RequestRefused: As ``feed`` does.
        """
        self.is_paused = False
        data, self._paused_data = self._paused_data, b""
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Read further bytes.

        Raises:
            RequestRefused: They break the grammar or a limit.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
            self.is_in_head = False
        at, end = 0, len(data)
        while at < end:
            if self.is_paused:
                self._paused_data += data[at:]
                return
            if self.left_bytes:
                piece = data[at : at + self.left_bytes]
                at += len(piece)
                self.left_bytes -= len(piece)
                self._sink.on_body(piece)
                if not self.left_bytes and not self._chunk_part:
                    self._sink.on_end()
                continue
            used = self._read_chunk(data, at) if self._chunk_part else self._read_head(data, at)
            if used == 0:
                self._rest = data[at:]
                self.is_in_head = not self._chunk_part
                return
            at += used

    # --- heads -----------------------------------------------------------------------

    def _read_head(self, data: bytes, at: int) -> int:
        """Read the head of a request, and a body that has arrived with it.

        Returns:
            Their length; 0 if the head is not complete.
        """
        if self._may_skip_line and data.startswith(b"\r\n", at):
            self._may_skip_line = False
            self._clean_bytes = 0
            return 2
        end = data.find(b"\r\n\r\n", at + max(0, self._clean_bytes - 4))
        if end < 0 or end + 4 - at > self._limits.head_bytes_max:
            self._judge(data[at:])
            return 0
        head = data[at : end + 2]
        request, framing = self._parse(head)
        self._clean_bytes = self._judged_bytes = self._judged_lines = 0
        self._may_skip_line = True
        self._frame(request, framing)
        begin = at + len(head) + 2
        end = begin + self.left_bytes
        if end <= len(data) and not self._chunk_part:
            request.body += data[begin:end]
            request.is_whole = True
            self.left_bytes = 0
            begin = end
        self._sink.on_request(request)
        return begin - at

    def _parse(self, head: bytes) -> tuple[HttpRequest, dict[bytes, bytes]]:
        """Read a complete head, up to the line end of its last line.

        Returns:
            The request, and its fields by name; those that may be repeated are joined.
        """
        limits = self._limits
        first = _REQUEST_LINE.match(head)
        if first is None:
            raise self._fault(head)
        found = _FIELDS.findall(head, first.end())
        if b" \r" in head or b"\t" in head:
            headers = [(name.lower(), value.rstrip(b" \t")) for name, value in found]
        else:
            headers = [(name.lower(), value) for name, value in found]
        fields = dict(headers)
        method, target, version = first.groups()
        if b"" in fields or len(headers) > limits.headers_max or len(target) > limits.url_bytes_max:
            raise self._fault(head)
        if len(fields) != len(headers):
            fields = _joined(headers)
        version = "1.1" if version == b"1" else "1.0"
        request = HttpRequest(method.decode("ascii"), version, headers)
        if (path := _known_paths.get(target)) is not None:
            request.path, request.raw_path = path, target
        else:
            _read_target(request, target)
        return request, fields

    def _frame(self, request: HttpRequest, framing: dict[bytes, bytes]) -> None:
        """Find the length of the body and what the head says of the connection."""
        host = framing.get(b"host")
        if host is None:
            if request.version != "1.0":
                raise _refused("the Host header is missing")
        elif host not in _known_hosts:
            _check_host(host)
        if b"connection" in framing:
            options = [each.strip(b" \t") for each in framing[b"connection"].lower().split(b",")]
            request.keep_alive = request.keep_alive and b"close" not in options
        if b"expect" in framing and request.version != "1.0":
            request.expects_continue = framing[b"expect"].lower() == b"100-continue"
        length, coding = framing.get(b"content-length"), framing.get(b"transfer-encoding")
        if coding is not None:
            if length is not None:
                raise _refused("Content-Length and Transfer-Encoding are sent together")
            if request.version == "1.0" or coding.lower() != b"chunked":
                raise _refused("the only Transfer-Encoding is chunked, of HTTP/1.1")
            request.declared_bytes = None
            self._chunk_part = _SIZE
            self._overhead_bytes = self._trailer_bytes = 0
        elif length is not None:
            if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX:
                raise _refused("Content-Length is not a number of bytes")
            self.left_bytes = request.declared_bytes = int(length)

    def _fault(self, head: bytes) -> RequestRefused:
        """Check a complete head for faults that the grammar does not cover."""
        try:
            self._judge(head)
        except RequestRefused as refused:
            return refused
        return _refused("the head is malformed")

    def _judge(self, data: bytes) -> None:
        """Refuse the part of a head that has arrived, at the first byte that is wrong.

        The same bytes must get the same refusal in one piece and in many, so what counts is
        the place of a fault and never how much had arrived when it was found.
        """
        limits = self._limits
        control = _CONTROL.search(data, max(0, self._clean_bytes - 1))
        bad_at = control.start() if control else len(data)
        self._clean_bytes = len(data)
        at = self._judged_bytes
        while True:
            end = data.find(b"\r\n", at)
            # The CR at the end may be the first half of a line end.
            stop = end if end >= 0 else len(data) - data.endswith(b"\r")
            limit, too_long = limits.head_bytes_max - 4, _long_head
            if self._judged_lines == 0 and limits.url_bytes_max + _AROUND_URL_BYTES < limit:
                limit, too_long = limits.url_bytes_max + _AROUND_URL_BYTES, _long_url
            if bad_at < min(stop, limit):
                raise _refused("a control character or half a line end stands in the head")
            if at < stop and limit < stop:
                raise RequestRefused(too_long(limits))
            if end < 0:
                break
            self._judge_line(data[at : end + 2])
            self._judged_lines += 1
            at = end + 2
        self._judged_bytes = at

    def _judge_line(self, line: bytes) -> None:
        if self._judged_lines == 0:
            _judge_request_line(line, self._limits)
        elif not _FIELD.fullmatch(line):
            raise _refused("a line of the head is not a name, a colon and a value")
        elif self._judged_lines > self._limits.headers_max:
            raise RequestRefused(_long_head(self._limits))

    # --- chunked bodies --------------------------------------------------------------

    def _read_chunk(self, data: bytes, at: int) -> int:
        """Read a line of a chunked body; return its length, or 0 if it is not complete."""
        if self._chunk_part == _END:
            end = data[at : at + 2]
            if end == b"\r\n":
                self._chunk_part = _SIZE
                return 2
            if end != b"\r":
                raise _bad_chunk()
            return 0
        end_at = data.find(b"\r\n", at, at + CHUNK_LINE_BYTES_MAX + 2)
        if end_at < 0:
            if len(data) - at >= CHUNK_LINE_BYTES_MAX + 2 or _CONTROL.search(data[at:]):
                raise _bad_chunk()
            return 0
        line = data[at:end_at]
        if self._chunk_part == _SIZE:
            self._begin_chunk(line)
        elif line:
            # Dropped: as a header it could say what the checks of the head forbid.
            self._trailer_bytes += len(line)
            if not _FIELD.fullmatch(line + b"\r\n") or self._trailer_bytes > TRAILER_BYTES_MAX:
                raise _bad_chunk()
        else:
            self._chunk_part = 0
            self._sink.on_end()
        return len(line) + 2

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK_LINE.fullmatch(line)
        if found is None:
            raise _bad_chunk()
        size = int(found[1], 16)
        self._overhead_bytes = max(0, self._overhead_bytes + len(line) - 16 - 2 * size)
        if self._overhead_bytes > CHUNK_OVERHEAD_BYTES_MAX:
            raise _bad_chunk()
        self.left_bytes = size
        self._chunk_part = _END if size else _TRAILER


def _refused(detail: str) -> RequestRefused:
    return RequestRefused(Problem(400, MalformedRequest.code, detail))


def _bad_chunk() -> RequestRefused:
    return _refused("the chunked body is malformed, or has too long extensions or trailers")


def _judge_request_line(line: bytes, limits: ParserLimits) -> None:
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        if _OTHER_VERSION.fullmatch(line):
            detail = "the versions served are HTTP/1.1 and HTTP/1.0"
            raise RequestRefused(Problem(505, VersionNotSupported.code, detail))
        raise _refused("the request line is not a method, a target and HTTP/1.1")
    if len(found[2]) > limits.url_bytes_max:
        raise RequestRefused(_long_url(limits))


def _joined(headers: list[Header]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in fields:
            if name in _SINGLE:
                raise _refused(f"the header {name.decode()} is sent twice")
            value = fields[name] + b"," + value
        fields[name] = value
    return fields


def _check_host(host: bytes) -> None:
    if not HOST.fullmatch(host):
        raise _refused("the Host header is not a host and a port")
    if len(_known_hosts) < KNOWN_MAX:
        _known_hosts.add(host)


def _read_target(request: HttpRequest, target: bytes) -> None:
    """Find path and query string, and refuse a path that others may read as another path."""
    if not target.startswith(b"/"):
        target = _read_other_form(request, target)
    path, mark, query = target.partition(b"?")
    if b"#" in target:
        raise _refused("the target holds a fragment")
    if mark:
        if _HALF_ESCAPE.search(query):
            raise _refused("the query string holds an incomplete percent encoding")
        request.query_string = query
    request.raw_path = path
    if _PLAIN_PATH.fullmatch(path) or path == b"*":
        request.path = path.decode("ascii")
        if path == target and path != b"*" and len(_known_paths) < KNOWN_MAX:
            _known_paths[path] = request.path
        return
    if not _PATH.fullmatch(path) or _BAD_ESCAPE.search(path):
        raise _refused(
            "the path is not in its normal form: no empty or dot segments, no ';' or '\\', "
            "percent encodings only of characters that need them, and none of '/'"
        )
    request.path = unquote(path.decode("ascii"))


def _read_other_form(request: HttpRequest, target: bytes) -> bytes:
    """The path and query of a target that does not start with a slash."""
    if request.method == "CONNECT":
        problem = Problem(405, MethodNotAllowed.code, "this server is not a proxy")
        raise RequestRefused(problem)
    if target == b"*" and request.method == "OPTIONS":
        return target
    found = _ABSOLUTE.fullmatch(target)
    if found is None or not HOST.fullmatch(found[1]):
        raise _refused("the target is not a path")
    # RFC 9112 section 3.2.2: the target's authority counts instead of the Host header.
    headers = [each for each in request.headers if each[0] != b"host"]
    request.headers = [(b"host", found[1]), *headers]
    return (found[2] or b"/") + (found[3] or b"")


def _long_url(limits: ParserLimits) -> Problem:
    return Problem(414, "too_large", f"the URL must be at most {limits.url_bytes_max} bytes")


def _long_head(limits: ParserLimits) -> Problem:
    return Problem(
        431,
        "too_large",
        f"a request has at most {limits.headers_max} headers, "
        f"of {limits.head_bytes_max} bytes together",
    )
