"""HTTP client of all nodes: metrics, JSON documents, and forwarded requests.

The coordinator has an API key of its own for the nodes: it checks what an operator may do,
and tells the nodes on whose behalf it asks.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from synaptoroute.errors import ClusterError, ConfigError, ProtocolError
from synaptoroute.sequencer.proven_http import Answer, PeerTooOld, ProvenHttp, Target
from synaptoroute_coordinator.fleet import (
    METRICS_BYTES_MAX,
    Sample,
    Telemetry,
    parse_sample,
    telemetry_of,
)

CONCURRENT_REQUESTS_MAX: Final = 32
SCRAPE_SECONDS: Final = 2.0
REQUEST_SECONDS: Final = 30.0
RESPONSE_BYTES_MAX: Final = 33_554_432
SECRET_CHARACTERS_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class NodeResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes


class FleetClient:
    """HTTP client of all nodes.  Used on one event loop.

    The addresses of nodes come from Redis, so no key is ever sent: a request proves that the
    coordinator knows the key, see ``sequencer.proven_http``.

    Args:
        http: Sends the requests.
        has_key: Whether there is an API key; without one requests carry no proof.
    """

    def __init__(self, http: ProvenHttp, *, has_key: bool) -> None:
        self._http = http
        self._has_key = has_key
        self._slots = asyncio.Semaphore(CONCURRENT_REQUESTS_MAX)
        self._samples: dict[str, Sample] = {}

    async def close(self) -> None:
        await self._http.close()

    async def fetch_telemetry(self, urls: Mapping[str, str]) -> dict[str, Telemetry]:
        """Scrape the metrics of nodes; those that do not answer are left out."""
        found = await asyncio.gather(*(self._scrape(node, url) for node, url in urls.items()))
        self._samples = {node: sample for node, sample, _ in found if sample is not None}
        return {node: telemetry for node, _, telemetry in found if telemetry is not None}

    async def _scrape(self, node: str, url: str) -> tuple[str, Sample | None, Telemetry | None]:
        try:
            async with (
                self._slots,
                asyncio.timeout(SCRAPE_SECONDS),
                # Metrics are open: there is nothing to prove.
                self._http.open_plain("GET", Target(url), "/metrics") as answer,
            ):
                body = await answer.read(METRICS_BYTES_MAX) if answer.status == 200 else b""
        except (ClusterError, ProtocolError, TimeoutError):
            return node, None, None
        if not body:
            return node, None, None
        sample = parse_sample(body.decode("utf-8", "replace"), time.monotonic())
        name = answer.headers.get("sr-node", "")
        return node, sample, telemetry_of(name, self._samples.get(node), sample)

    async def ask(
        self,
        target: Target,
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        actor: str = "",
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> NodeResponse:
        """Send one request to a node and read the whole response.

        Args:
            target: The node.
            actor: Name of the user on whose behalf it is sent.
        """
        asked = f"{path}?{query}" if query else path
        try:
            async with self._slots:
                opened = await self._opened(
                    target, method, asked, body, headers, actor, timeout_seconds
                )
                async with opened as answer:
                    content = await answer.read(RESPONSE_BYTES_MAX)
        except ProtocolError as error:
            raise ClusterError(
                f"the node at {target.url} is not trusted: {error}", outcome="unknown"
            ) from error
        except ClusterError as error:
            # The request may have been sent: a write may still be applied.
            error.fields.setdefault("outcome", "unknown")
            raise
        shown = {name.lower(): value for name, value in answer.headers.items()}
        return NodeResponse(answer.status, shown, content)

    async def _opened(
        self,
        target: Target,
        method: str,
        asked: str,
        body: bytes,
        headers: Mapping[str, str] | None,
        actor: str,
        seconds: float,
    ) -> AbstractAsyncContextManager[Answer]:
        if not self._has_key:
            return self._http.open_plain(
                method, target, asked, body=body, headers=headers, seconds=seconds
            )
        try:
            await self._http.prepare(target)
        except PeerTooOld as error:
            raise ClusterError(
                f"the node at {target.url} runs a release that takes nothing but the API key, "
                "which is sent to no node: upgrade the node",
                outcome="not_taken",
            ) from error
        except ClusterError as error:
            error.fields["outcome"] = "not_taken"
            raise
        return self._http.open(
            method, target, asked, body=body, headers=headers, actor=actor, seconds=seconds
        )

    async def document(self, target: Target, path: str) -> Any:
        """Read a JSON document of a node; None if the node refuses."""
        answer = await self.ask(target, "GET", path, timeout_seconds=SCRAPE_SECONDS * 2)
        if answer.status != 200:
            return None
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise ClusterError(f"the node at {target.url} did not answer with JSON") from error

    async def documents(self, urls: Sequence[tuple[str, str]], path: str) -> dict[str, Any]:
        """Read the same document of several nodes; those that fail are left out."""

        async def read(node: str, url: str) -> tuple[str, Any]:
            try:
                return node, await self.document(Target(url, node), path)
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
