"""The HTTP client of the command line.

Rule 1: reads are retried; writes are retried because each has an Idempotency-Key.
Rule 2: ``Retry-After`` is honoured, within a limit on the total wait.  Rule 3: the HTTP
library is loaded with the first request, not at the start of the command line.
"""

from __future__ import annotations

import json
import random
import ssl
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from synaptoroute.cli.exit_codes import BadUsage, NodeRefused, NodeUnreachable
from synaptoroute.cli.options import tls_context
from synaptoroute.forks import guard
from synaptoroute.version import __version__

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 60.0
ATTEMPTS_MAX: Final = 5
WAIT_SECONDS_MAX: Final = 30.0
"""Total wait between the attempts of one request."""
FIRST_WAIT_SECONDS: Final = 0.1
PAGE_ROUTES: Final = 100
PROBLEM_BYTES_MAX: Final = 65_536

Body = bytes | Callable[[], Iterable[bytes]]
"""Request body: bytes, or a function that makes a new stream for each attempt."""


def load_httpx() -> None:
    """Import httpx without its command line, which takes longer to import than the rest."""
    if "httpx" not in sys.modules:
        sys.modules["httpx._main"] = None  # type: ignore[assignment]  # the import fails
        try:
            import httpx  # noqa: F401
        finally:
            del sys.modules["httpx._main"]


class NodeClient:
    """HTTP client of one node; used on one thread."""

    def __init__(
        self, url: str, api_key: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise BadUsage(f"the address must start with http:// or https://, got {url!r}")
        load_httpx()
        import httpx

        headers = {"User-Agent": f"synaptoroute/{__version__}"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.url = url.rstrip("/")
        try:
            self._http: httpx.Client = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
                verify=tls or tls_context() or True,
                # A redirect would take the API key to another place.
                follow_redirects=False,
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            raise BadUsage(f"invalid address: {url!r} ({error})") from error
        guard(self)

    def __enter__(self) -> NodeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **parameters: str | int) -> Any:
        return self._send("GET", path, parameters=parameters).json()

    def post(self, path: str, document: Any) -> Any:
        """Post a request that changes nothing, such as a query."""
        return self._send("POST", path, body=_json(document), content_type=_JSON).json()

    def write(
        self,
        method: str,
        path: str,
        document: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        **parameters: str | int,
    ) -> Any:
        """Send a change, which takes effect once even if it is sent several times."""
        return self._send(
            method,
            path,
            parameters=parameters,
            body=None if document is None else _json(document),
            content_type=_JSON,
            headers={"Idempotency-Key": str(uuid.uuid4()), **(headers or {})},
        ).json()

    def upload(self, path: str, body: Body, content_type: str, **parameters: str | int) -> Any:
        """Upload a stream that changes something."""
        return self._send(
            "POST",
            path,
            parameters=parameters,
            body=body,
            content_type=content_type,
            headers={"Idempotency-Key": str(uuid.uuid4())},
        ).json()

    @contextmanager
    def download(self, path: str, media_type: str) -> Iterator[Iterator[bytes]]:
        """Download a stream; it is not retried once it has started."""
        import httpx

        try:
            with self._http.stream("GET", path, headers={"Accept": media_type}) as answer:
                self._check(answer)
                yield answer.iter_bytes()
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def routes(self) -> Iterator[dict[str, Any]]:
        """Yield all routes in order of name, page by page."""
        parameters: dict[str, str | int] = {"limit": PAGE_ROUTES}
        while True:
            page = self.get("/v1/routes", **parameters)
            yield from page["routes"]
            if not page["next_after"]:
                return
            parameters["after"] = page["next_after"]

    def _send(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        body: Body | None = None,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        import httpx

        all_headers = {**(headers or {}), **({"Content-Type": content_type} if body else {})}
        retries = RetryWaits()
        while True:
            try:
                answer: httpx.Response = self._http.request(
                    method,
                    path,
                    params=dict(parameters or {}),
                    # A stream cannot be sent twice, so each attempt makes a new one.
                    content=body() if callable(body) else body,
                    headers=all_headers,
                )
                self._check(answer)
                return answer
            except httpx.TransportError as error:
                # Nobody listens at the address: another attempt would be refused as well.
                if isinstance(error, httpx.ConnectError) or not retries.wait(None):
                    raise self._unreachable(error) from error
            except NodeRefused as refusal:
                may_pass = refusal.status in (429, 503)
                if not may_pass or not retries.wait(refusal.retry_after_seconds):
                    raise

    def _check(self, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        try:
            problem = json.loads(answer.read()[:PROBLEM_BYTES_MAX])
            code, detail = str(problem["code"]), str(problem["detail"])
            if problem.get("outcome") == "unknown":
                detail += " (the write may still be applied)"
        except (ValueError, KeyError, TypeError):
            # A proxy or another server answers here with its own kind of page.
            problem, code = {}, "not_a_node"
            detail = f"{self.url} answered {answer.status_code}, but it is not a node"
        raise NodeRefused(
            detail,
            code=code,
            status=answer.status_code,
            retry_after_seconds=_seconds(answer.headers.get("Retry-After")),
            problem=problem,
        )

    def _unreachable(self, error: Exception) -> NodeUnreachable:
        why = str(error) or type(error).__name__
        return NodeUnreachable(
            f"no node answers at {self.url}: {why}; start one with `synaptoroute serve` "
            "or give another address with --url"
        )


class RetryWaits:
    """The waits between the attempts of one request."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._waits_count = 0
        self._waited_seconds = 0.0

    def wait(self, requested_seconds: float | None) -> bool:
        """Wait as the node asked, else with doubling; return False after the last attempt."""
        # Jitter, so that clients that were refused together do not return together.
        doubled = FIRST_WAIT_SECONDS * 2**self._waits_count * random.uniform(0.5, 1.0)
        seconds = doubled if requested_seconds is None else requested_seconds
        is_exhausted = self._waited_seconds + seconds > WAIT_SECONDS_MAX
        if is_exhausted or self._waits_count + 1 >= ATTEMPTS_MAX:
            return False
        self._waits_count += 1
        self._waited_seconds += seconds
        self._sleep(seconds)
        return True


def route_path(name: str) -> str:
    return f"/v1/routes/{quote(name, safe='')}"


_JSON: Final = "application/json"


def _json(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:
        return None
