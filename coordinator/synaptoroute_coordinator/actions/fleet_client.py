"""HTTP client of all nodes: metrics, JSON documents, and forwarded requests.

The coordinator has an API key of its own for the nodes: it checks what an operator may do,
and the nodes see one name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from synaptoroute.errors import ClusterError, ConfigError
from synaptoroute.web.tls import ClientTls
from synaptoroute_coordinator.fleet import Sample, Telemetry, parse_sample, telemetry_of

CONCURRENT_REQUESTS_MAX: Final = 32
SCRAPE_SECONDS: Final = 2.0
REQUEST_SECONDS: Final = 30.0
RESPONSE_BYTES_MAX: Final = 33_554_432
SECRET_CHARACTERS_MAX: Final = 4_096
_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)


@dataclass(frozen=True, slots=True)
class NodeResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes


class FleetClient:
    """HTTP client of all nodes.  Used on one event loop."""

    def __init__(
        self, key: str = "", tls: ClientTls | None = None, *, allow_plain: bool = False
    ) -> None:
        self._tls = tls
        self._is_tls_needed = tls is not None and not allow_plain
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(REQUEST_SECONDS, connect=SCRAPE_SECONDS),
            verify=True if tls is None else tls.http_context,
            # A redirect would take the API key to another place.
            follow_redirects=False,
            # No proxy of the environment: nodes are inside the cluster, and a proxy would see
            # the API key.
            trust_env=False,
        )
        self._slots = asyncio.Semaphore(CONCURRENT_REQUESTS_MAX)
        self._samples: dict[str, Sample] = {}

    async def close(self) -> None:
        await self._client.aclose()

    async def fetch_telemetry(self, urls: Mapping[str, str]) -> dict[str, Telemetry]:
        """Scrape the metrics of nodes; those that do not answer are left out."""
        found = await asyncio.gather(*(self._scrape(node, url) for node, url in urls.items()))
        self._samples = {node: sample for node, sample, _ in found if sample is not None}
        return {node: telemetry for node, _, telemetry in found if telemetry is not None}

    async def _scrape(self, node: str, url: str) -> tuple[str, Sample | None, Telemetry | None]:
        if self._is_tls_needed and not url.startswith("https://"):
            return node, None, None
        try:
            async with self._slots:
                answer = await self._client.get(f"{url}/metrics", timeout=SCRAPE_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._report(url, error)
            return node, None, None
        if answer.status_code != 200:
            return node, None, None
        sample = parse_sample(answer.text, time.monotonic())
        name = answer.headers.get("sr-node", "")
        return node, sample, telemetry_of(name, self._samples.get(node), sample)

    def _report(self, url: str, error: Exception) -> None:
        if self._tls is not None:
            is_closed = isinstance(error, httpx.ReadError | httpx.RemoteProtocolError)
            self._tls.report(url, error, is_closed=is_closed)

    async def ask(
        self,
        url: str,
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> NodeResponse:
        """Send one request to a node and read the whole response."""
        if self._is_tls_needed and not url.startswith("https://"):
            raise ClusterError(f"the node at {url} has no TLS, which this coordinator requires")
        target = f"{url}{path}" + (f"?{query}" if query else "")
        try:
            async with (
                self._slots,
                self._client.stream(
                    method, target, content=body, headers=headers, timeout=timeout_seconds
                ) as answer,
            ):
                # The limit is checked while reading, so that one node cannot use up the memory.
                content = bytearray()
                async for part in answer.aiter_bytes():
                    content += part
                    if len(content) > RESPONSE_BYTES_MAX:
                        raise ClusterError("the response of a node is too large", outcome="unknown")
                shown = {name.lower(): value for name, value in answer.headers.items()}
                return NodeResponse(answer.status_code, shown, bytes(content))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._report(url, error)
            # Without a connection nothing was sent; otherwise a write may still be applied.
            is_sent = not isinstance(error, _NOT_SENT)
            raise ClusterError(
                f"the node at {url} does not answer: {error!r}",
                outcome="unknown" if is_sent else "not_taken",
            ) from error

    async def document(self, url: str, path: str) -> Any:
        """Read a JSON document of a node; None if the node refuses."""
        answer = await self.ask(url, "GET", path, timeout_seconds=SCRAPE_SECONDS * 2)
        if answer.status != 200:
            return None
        try:
            return httpx.Response(200, content=answer.body).json()
        except ValueError as error:
            raise ClusterError(f"the node at {url} did not answer with JSON") from error

    async def documents(self, urls: Sequence[tuple[str, str]], path: str) -> dict[str, Any]:
        """Read the same document of several nodes; those that fail are left out."""

        async def read(node: str, url: str) -> tuple[str, Any]:
            try:
                return node, await self.document(url, path)
            except ClusterError:
                return node, None

        found = await asyncio.gather(*(read(node, url) for node, url in urls))
        return {node: document for node, document in found if document is not None}


def read_secret(path: Path | None, what: str) -> str:
    """Read a secret from a file; empty without a file."""
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="utf-8")[:SECRET_CHARACTERS_MAX].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the {what} from {path}: {error}") from error
    if not text:
        raise ConfigError(f"the file {path} of the {what} is empty")
    return text
