"""HTTP requests to nodes, with proofs instead of secrets.

An address may have come from Redis, so nothing is sent to it that somebody else could use: see
``trust.requests``.  The first request to an address asks for a nonce; each answer brings the
nonce of the next request.  Redirects are never followed.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import httpx

from synaptoroute.errors import ClusterError, NotReady, ProtocolError
from synaptoroute.sequencer.addresses import check_address
from synaptoroute.sequencer.names import PeerNames
from synaptoroute.tracing import SPAN, fail
from synaptoroute.trust.nonces import NONCE_SECONDS
from synaptoroute.trust.requests import (
    ANSWER_HEADER,
    NONCE_HEADER,
    PROOF_HEADER,
    Boot,
    ProvenRequest,
    SignedAnswer,
    key_id_of,
    prove,
    read_answer,
    read_boot,
)
from synaptoroute.trust.statements import Signer, Verifier
from synaptoroute.web.tls import ClientTls

NONCE_PATH: Final = "/peer/v1/nonce"
PEER_PREFIX: Final = "/peer/"
BOOT_BYTES_MAX: Final = 16_384
ADDRESSES_MAX: Final = 4_096
NONCES_KEPT_MAX: Final = 32  # For each address
NONCE_KEPT_SECONDS: Final = NONCE_SECONDS / 2
NONCE_CHARACTERS_MAX: Final = 256
CONNECT_SECONDS: Final = 2.0
READ_SECONDS: Final = 30.0
PART_BYTES: Final = 1 << 20
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


class PeerDown(ClusterError):
    """Nothing listens at a peer's address."""


class PeerTooOld(ClusterError):
    """A peer does not know the request: it runs an earlier release."""


@dataclass(frozen=True, slots=True)
class Target:
    """A node to ask.

    Attributes:
        url: Its base address.
        node: The identity that it must have; empty for whoever is there.
        is_own_setting: Whether the address is from the settings of this process.
    """

    url: str
    node: str = ""
    is_own_setting: bool = False


class Answer:
    """An answer whose head has arrived; its body is verified when it was read whole."""

    def __init__(self, response: httpx.Response, signed: SignedAnswer | None) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.signed = signed
        self._response = response

    async def parts(self) -> AsyncIterator[bytes]:
        """Read the body in parts.

        Raises:
            ProtocolError: After the last part: it is not the body that the node has signed.
        """
        digest = hashlib.sha256()
        # Raw: a small answer must not become a large one in memory.
        async for part in self._response.aiter_raw(PART_BYTES):
            # Large parts on a thread: the hash of a megabyte takes longer than a query.
            if len(part) < PART_BYTES // 8:
                digest.update(part)
            else:
                await asyncio.to_thread(digest.update, part)
            yield part
        if self.signed is not None and digest.hexdigest() != self.signed.sha256:
            raise ProtocolError("an answer is not the one that its node has signed", forged=True)

    async def read(self, bytes_max: int) -> bytes:
        """Read and verify the whole body."""
        body = bytearray()
        async for part in self.parts():
            body += part
            if len(body) > bytes_max:
                raise ProtocolError("a node sends more than was asked for")
        return bytes(body)


class ProvenHttp:
    """Sends requests with proofs.  Used on one event loop.

    Args:
        signer: Returns what signs as this process; it may change, see ``PeerSecret``.
        verifier: Returns what verifies nodes.
        key_hash: SHA-256 of the API key whose rights the requests need, if any.
        tls: Certificates for ``https``.
        allow_plain: Ask nodes without TLS although there are certificates.
    """

    def __init__(
        self,
        signer: Callable[[], Signer],
        verifier: Callable[[], Verifier],
        *,
        key_hash: bytes = b"",
        tls: ClientTls | None = None,
        allow_plain: bool = False,
    ) -> None:
        self._tls = tls
        self._is_tls_needed = tls is not None and not allow_plain
        # No proxy of the environment: nodes are inside the cluster.
        self._http = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"},
            verify=True if tls is None else tls.http_context,
            trust_env=False,
            follow_redirects=False,
        )
        self._names = PeerNames()
        self._signer = signer
        self._verifier = verifier
        self._key_hash = key_hash
        self._known: OrderedDict[str, tuple[Boot, deque[tuple[str, float]]]] = OrderedDict()

    async def close(self) -> None:
        await self._http.aclose()

    async def boot(self, url: str, seconds: float = CONNECT_SECONDS) -> Boot:
        """Ask which run of which node is at an address.  Sends nothing but a random number.

        Raises:
            PeerDown: Nothing listens there.
            PeerTooOld: It runs a release without this request.
            NotReady: It is starting.
            ClusterError: No answer, or a refusal.
            ProtocolError: The answer is not the word of a member.
        """
        challenge = secrets.token_hex(16)
        target = f"{NONCE_PATH}?challenge={challenge}"
        async with self._sent("GET", url, target, b"", {}, seconds) as response:
            check_status(response.status_code)
            body = await Answer(response, None).read(BOOT_BYTES_MAX)
        boot = read_boot(self._verifier(), body, challenge)
        url = url.rstrip("/")
        self._known[url] = (boot, deque([(boot.nonce, time.monotonic())], NONCES_KEPT_MAX))
        self._known.move_to_end(url)
        while len(self._known) > ADDRESSES_MAX:
            self._known.popitem(last=False)
        return boot

    @asynccontextmanager
    async def open(
        self,
        method: str,
        target: Target,
        path_and_query: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        actor: str = "",
        seconds: float = READ_SECONDS,
    ) -> AsyncIterator[Answer]:
        """Send one request to a node.  Raises as ``boot`` does.

        Yields:
            Its answer, whatever the status; one that is not an error is signed.
        """
        url = target.url.rstrip("/")
        sent_target = _on_wire(url, path_and_query)
        for is_last in (False, True):
            boot, nonce = await self._nonce(target, is_new=is_last)
            request = ProvenRequest(
                method=method,
                target=sent_target,
                sha256=hashlib.sha256(body).hexdigest(),
                node=boot.node,
                url="" if target.is_own_setting else url,
                nonce=nonce,
                actor=actor,
                key_id=key_id_of(self._key_hash) if self._key_hash else "",
            )
            proof = {PROOF_HEADER: prove(self._signer(), request, self._key_hash)}
            given = {**(headers or {}), **proof}
            async with self._sent(method, url, path_and_query, body, given, seconds) as response:
                # A nonce that was kept may be of a former run of the node.
                if response.status_code == 401 and not is_last:
                    continue
                yield self._checked(url, response, request, boot)
                return

    async def prepare(self, target: Target) -> None:
        """Have a nonce of a node ready.  Raises as ``boot`` does."""
        known = self._known.get(target.url.rstrip("/"))
        if known is None or not known[1]:
            check_address(target.url)
            await self.boot(target.url)

    @asynccontextmanager
    async def open_plain(
        self,
        method: str,
        target: Target,
        path_and_query: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        seconds: float = READ_SECONDS,
    ) -> AsyncIterator[Answer]:
        """Send a request without a proof; nothing of the answer is signed."""
        check_address(target.url)
        given = headers or {}
        async with self._sent(method, target.url, path_and_query, body, given, seconds) as response:
            yield Answer(response, None)

    def _checked(
        self, url: str, response: httpx.Response, request: ProvenRequest, boot: Boot
    ) -> Answer:
        text = response.headers.get(ANSWER_HEADER, "")
        signed = None
        if text:
            signed = read_answer(self._verifier(), text, request, boot.public_key)
            if signed.status != response.status_code:
                raise ProtocolError("an answer with another status than was signed", forged=True)
        elif response.status_code < 400:
            raise ProtocolError("an answer without a signature", forged=True)
        nonce = response.headers.get(NONCE_HEADER, "")
        known = self._known.get(url)
        if known is not None and known[0] == boot and 0 < len(nonce) <= NONCE_CHARACTERS_MAX:
            known[1].append((nonce, time.monotonic()))
        return Answer(response, signed)

    async def _nonce(self, target: Target, *, is_new: bool) -> tuple[Boot, str]:
        check_address(target.url)
        url = target.url.rstrip("/")
        if is_new:
            await self.boot(url)
        while True:
            found = self._take(url)
            if found is not None:
                break
            await self.boot(url)
        if target.node and found[0].node != target.node:
            raise ProtocolError(
                f"{found[0].node!r} is at the address of {target.node!r}", forged=True
            )
        return found

    def _take(self, url: str) -> tuple[Boot, str] | None:
        """Take a nonce that was kept for an address."""
        known = self._known.get(url)
        while known is not None and known[1]:
            nonce, at = known[1].popleft()
            if time.monotonic() - at < NONCE_KEPT_SECONDS:
                return known[0], nonce
        return None

    @asynccontextmanager
    async def _sent(
        self,
        method: str,
        url: str,
        path_and_query: str,
        body: bytes,
        headers: Mapping[str, str],
        seconds: float,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request within the trace of the running one, if that is traced."""
        if (span := SPAN.get()) is None:
            async with self._sent_plain(
                method, url, path_and_query, body, headers, seconds
            ) as response:
                yield response
            return
        path = path_and_query.partition("?")[0]
        address = httpx.URL(url)
        attributes: dict[str, str | int | bool] = {
            "http.request.method": method,
            "server.address": address.host,
        }
        if address.port is not None:
            attributes["server.port"] = address.port
        # Other paths have names of routes in them.
        is_fixed = path.startswith(PEER_PREFIX)
        traced = span.child(f"{method} {path}" if is_fixed else method, "CLIENT", attributes)
        given = {**headers, **span.headers(traced)}
        try:
            async with self._sent_plain(
                method, url, path_and_query, body, given, seconds
            ) as response:
                if traced is not None:
                    traced.set_attribute("http.response.status_code", response.status_code)
                yield response
        except Exception as error:
            if traced is not None:
                fail(traced, type(error).__name__)
            raise
        finally:
            if traced is not None:
                traced.end()

    @asynccontextmanager
    async def _sent_plain(
        self,
        method: str,
        url: str,
        path_and_query: str,
        body: bytes,
        headers: Mapping[str, str],
        seconds: float,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request; errors of the HTTP client become ``ClusterError``."""
        url = url.rstrip("/")
        if self._is_tls_needed and not url.startswith("https://"):
            raise ClusterError(f"the peer at {url} has no TLS, which is required")
        timeout = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        request = self._http.build_request(
            method,
            url + path_and_query,
            content=body,
            # As they were read: a header may hold the bytes of UTF-8 (``SR-Note``).
            headers=httpx.Headers(dict(headers), encoding="latin-1"),
            timeout=timeout,
        )
        try:
            await self._names.find(request.url.host, min(seconds, CONNECT_SECONDS))
        except ClusterError as error:
            reason = f"the node at {url} does not answer: {error.message}"
            raise ClusterError(reason, outcome="not_taken") from error
        try:
            # A redirect could lead anywhere.
            response = await self._http.send(request, stream=True, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if self._tls is not None:
                is_closed = isinstance(error, httpx.ReadError | httpx.RemoteProtocolError)
                self._tls.report(url, error, is_closed=is_closed)
            kind = PeerDown if _is_refused(error) else ClusterError
            # Without a connection nothing was sent; otherwise a write may still be applied.
            outcome = "not_taken" if isinstance(error, _NOT_SENT) else "unknown"
            raise kind(f"the node at {url} does not answer: {error!r}", outcome=outcome) from error
        try:
            encoding = response.headers.get("content-encoding", "identity")
            if encoding != "identity":
                raise ProtocolError(f"an answer in the encoding {encoding!r}")
            yield response
        except httpx.HTTPError as error:
            raise ClusterError(
                f"the node at {url} broke off: {error!r}", outcome="unknown"
            ) from error
        finally:
            await response.aclose()


def _on_wire(url: str, path_and_query: str) -> str:
    """The path and the query as they are sent; a prefix in the address is a proxy's matter."""
    try:
        prefix = httpx.URL(url).raw_path.rstrip(b"/")
        return httpx.URL(url + path_and_query).raw_path[len(prefix) :].decode("ascii")
    except (httpx.InvalidURL, UnicodeDecodeError) as error:
        raise ClusterError(f"{url} is no address", outcome="not_taken") from error


def check_status(status: int) -> None:
    """Raise the error of an answer that is not 200."""
    if status == 404:
        raise PeerTooOld("a peer does not know the request")
    if status == 503:
        raise NotReady("a peer is not ready")
    if status != 200:
        raise ClusterError(f"a peer refused with status {status}", status=status)


def _is_refused(error: BaseException | None) -> bool:
    """Whether a connection was refused, as a host does on whose port nothing listens."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return True
        if isinstance(error, BaseExceptionGroup):
            return all(_is_refused(each) for each in error.exceptions)
        error = error.__cause__ or error.__context__
    return False
