"""``AsyncHttpClient``: sends requests to the nodes of a cluster, on an event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from synaptoroute.client.core import (
    ATTEMPT_SECONDS,
    CALL_SECONDS,
    Attempt,
    Call,
    Request,
    RetryPolicy,
    json_request,
)
from synaptoroute.client.library import httpx
from synaptoroute.client.transport import (
    LIMITS,
    UNSENT,
    describe,
    make_session,
    placed,
    timeout_of,
    trace_headers,
    verification,
)
from synaptoroute.core.mutation import DEFAULT_SET
from synaptoroute.forks import guard

ResultT = TypeVar("ResultT")
SelfT = TypeVar("SelfT", bound="AsyncHttpClient")


class AsyncHttpClient:
    """Sends requests to the nodes of a cluster; belongs to one event loop."""

    def __init__(
        self,
        urls: str | Sequence[str] | None = None,
        *,
        api_key: str | None = None,
        timeout_seconds: float = CALL_SECONDS,
        attempt_seconds: float = ATTEMPT_SECONDS,
        retry: RetryPolicy | None = None,
        read_your_writes: bool = True,
        min_version: str | None = None,
        ca_file: Path | str | None = None,
        client_cert_file: Path | str | None = None,
        client_key_file: Path | str | None = None,
        tls: ssl.SSLContext | Literal[False] | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Make a client; it connects with its first call.

        Args:
            urls: Base addresses, one text with commas or a list; None for ``SYNAPTOROUTE_URL``,
                else ``http://127.0.0.1:8080``.
            api_key: None for ``SYNAPTOROUTE_API_KEY``; an empty text sends no key.
            timeout_seconds: Time of a call, with all its attempts and waits.
            attempt_seconds: Longest attempt, so that a node that hangs does not take the whole
                time of a call.
            retry: Limits of attempts and waits.
            read_your_writes: Whether reads are at least as new as the writes of this client.
            min_version: Version that reads need from the beginning, such as ``version`` of
                another client.
            ca_file: Authorities of the nodes' certificates; None for ``SYNAPTOROUTE_CA``.
            client_cert_file: Client certificate; None for ``SYNAPTOROUTE_CLIENT_CERT``.
            client_key_file: Its key; None for ``SYNAPTOROUTE_CLIENT_KEY``.
            tls: TLS context in place of the three files; False verifies no certificate.
            headers: Further headers of every request.
            transport: Transport of httpx in place of its own.

        Raises:
            ConfigError: An address, the key or a file cannot be used.
        """
        self._route_set = ""
        self._session = make_session(
            urls,
            api_key=api_key,
            timeout_seconds=timeout_seconds,
            attempt_seconds=attempt_seconds,
            retry=retry,
            read_your_writes=read_your_writes,
            min_version=min_version,
            headers=headers,
        )
        self._http = httpx.AsyncClient(
            verify=verification(tls, ca_file, client_cert_file, client_key_file),
            limits=LIMITS,
            transport=transport,
            # A redirect would take the API key to another place.
            follow_redirects=False,
        )
        guard(self)

    async def __aenter__(self: SelfT) -> SelfT:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def set(self, name: str) -> Self:
        """Make a client of one route set, or for queries of an alias, that shares everything else.

        Close this client, not the one that is returned.
        """
        bound = copy(self)
        bound._route_set = "" if name == DEFAULT_SET else name
        return bound

    # --- versions --------------------------------------------------------------------

    @property
    def version(self) -> str | None:
        """Version of the newest own write, for ``min_version`` or ``see`` of another client."""
        return self._session.version

    def see(self, version: str) -> None:
        """Let further reads be at least as new as a version."""
        self._session.see(version)

    # --- requests ----------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        document: Any = None,
        headers: Mapping[str, str] | None = None,
        is_write: bool | None = None,
        timeout_seconds: float | None = None,
    ) -> Any:
        """Send any JSON request and return the JSON of its answer.

        Args:
            method: HTTP method.
            path: Path of the API.
            parameters: Parameters of the URL.
            document: Body, as JSON; None for none.
            headers: Further headers.
            is_write: Whether it changes something and so gets an idempotency key; None for
                every method but GET and HEAD.
            timeout_seconds: Time of this call; None for that of the client.
        """
        asked = json_request(
            method,
            path,
            parameters=parameters,
            document=document,
            headers=headers,
            is_write=is_write,
        )
        return await self.send(asked, timeout_seconds)

    async def send(
        self, request: Request[ResultT], timeout_seconds: float | None = None
    ) -> ResultT:
        """Send a prepared request; try again where that is safe and may help."""
        call = self._session.begin(request, timeout_seconds)
        while True:
            attempt = await _ready(call)
            try:
                # The library limits only each read and write.
                async with asyncio.timeout(attempt.read_seconds):
                    response = await self._http.send(self._request_of(request, attempt))
            except TimeoutError:
                call.lost("the answer did not end in time", was_sent=True)
                continue
            except httpx.LocalProtocolError as error:
                call.fail(describe(error))  # a header that cannot be sent
            except httpx.RequestError as error:
                call.lost(describe(error), was_sent=not isinstance(error, UNSENT))
                continue
            reply = call.answered(response.status_code, response.headers, response.content)
            if reply is not None:
                return request.read_reply(reply)

    @asynccontextmanager
    async def stream(
        self, request: Request[Any], timeout_seconds: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a request and read its answer in pieces; not tried again once it has begun."""
        call = self._session.begin(request, timeout_seconds)
        while True:
            attempt = await _ready(call)
            try:
                response = await self._http.send(self._request_of(request, attempt), stream=True)
                try:
                    body = b"" if response.is_success else await response.aread()
                    is_done = call.answered(response.status_code, response.headers, body)
                except BaseException:
                    await response.aclose()
                    raise
            except httpx.LocalProtocolError as error:
                call.fail(describe(error))  # a header that cannot be sent
            except httpx.RequestError as error:
                call.lost(describe(error), was_sent=not isinstance(error, UNSENT))
                continue
            if is_done is not None:
                break
            await response.aclose()
        try:
            yield _pieces(response, call)
        finally:
            await response.aclose()

    def _request_of(self, request: Request[Any], attempt: Attempt) -> httpx.Request:
        body = request.body
        return self._http.build_request(
            request.method,
            attempt.url + placed(request.path, self._route_set),
            params=dict(request.parameters) or None,
            content=_stream(body()) if callable(body) else body,
            headers=httpx.Headers({**trace_headers(), **attempt.headers}, encoding="utf-8"),
            timeout=timeout_of(attempt.connect_seconds, attempt.read_seconds),
        )


async def _stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _ready(call: Call) -> Attempt:
    attempt = call.next()
    if attempt.pause_seconds > 0:
        await asyncio.sleep(attempt.pause_seconds)
    return attempt


async def _pieces(response: httpx.Response, call: Call) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_bytes():
            yield piece
    except httpx.RequestError as error:
        call.fail(describe(error))
