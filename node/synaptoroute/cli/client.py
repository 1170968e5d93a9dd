"""The client of the command line: ``synaptoroute.client`` with errors that lead to exit codes.

The HTTP library is loaded with the first client, not at the start of the command line.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import quote

from synaptoroute.cli.exit_codes import BadUsage, NodeRefused, NodeUnreachable
from synaptoroute.cli.options import route_set, tls_context
from synaptoroute.errors import ConfigError
from synaptoroute.forks import guard

if TYPE_CHECKING:
    from synaptoroute.client.errors import ClientError

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 60.0
CALL_SECONDS: Final = 300.0
UPLOAD_SECONDS: Final = 3_600.0
ATTEMPTS_MAX: Final = 5
PAGE_ROUTES: Final = 100

Body = bytes | Callable[[], Iterable[bytes]]
"""Request body: bytes, or a function that makes a new stream for each attempt."""


class NodeClient:
    """Client of one node, or of several whose addresses are separated by commas."""

    def __init__(
        self, url: str, api_key: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        from synaptoroute.client.core import RetryPolicy
        from synaptoroute.client.http_sync import HttpClient

        self.url = url.rstrip("/")
        try:
            self._http = HttpClient(
                url,
                api_key=api_key or "",
                timeout_seconds=CALL_SECONDS,
                attempt_seconds=READ_SECONDS,
                # Nobody listens at the address: another attempt would be refused as well.
                retry=RetryPolicy(attempts_max=ATTEMPTS_MAX, retries_refused_connections=False),
                tls=tls or tls_context(),
            )
        except ConfigError as error:
            raise BadUsage(error.message) from error
        guard(self)

    def __enter__(self) -> NodeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **parameters: str | int) -> Any:
        return self._request("GET", path, parameters, None, None, is_write=False)

    def post(self, path: str, document: Any) -> Any:
        """Post a request that changes nothing, such as a query."""
        return self._request("POST", path, {}, document, None, is_write=False)

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
        return self._request(method, path, parameters, document, headers, is_write=True)

    def upload(
        self,
        path: str,
        body: Body,
        content_type: str,
        parameters: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Upload a stream that changes something."""
        from synaptoroute.client.core import Reply, Request

        request = Request(
            "POST",
            placed(path),
            Reply.json,
            _texts(parameters or {}),
            body,
            content_type,
            headers=headers or {},
            is_write=True,
            # The node answers when all texts are encoded.  A second attempt would begin again.
            attempt_seconds=UPLOAD_SECONDS,
        )
        with self._telling():
            return self._http.send(request, UPLOAD_SECONDS)

    @contextmanager
    def download(self, path: str, media_type: str) -> Iterator[Iterator[bytes]]:
        """Download a stream; it is not retried once it has started."""
        from synaptoroute.client.core import Reply, Request

        request = Request(
            "GET", placed(path), Reply.json, headers={"Accept": media_type}, is_versioned=True
        )
        with self._telling(), self._http.stream(request) as pieces:
            yield pieces

    def routes(self) -> Iterator[dict[str, Any]]:
        """Yield all routes in order of name, page by page."""
        parameters: dict[str, str | int] = {"limit": PAGE_ROUTES}
        while True:
            page = self.get("/v1/routes", **parameters)
            yield from page["routes"]
            if not page["next_after"]:
                return
            parameters["after"] = page["next_after"]

    def _request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | int],
        document: Any,
        headers: Mapping[str, str] | None,
        *,
        is_write: bool,
    ) -> Any:
        with self._telling():
            return self._http.request(
                method,
                placed(path),
                parameters=_texts(parameters),
                document=document,
                headers=headers,
                is_write=is_write,
            )

    @contextmanager
    def _telling(self) -> Iterator[None]:
        from synaptoroute.client.errors import ClientError

        try:
            yield
        except ClientError as error:
            self._tell(error)

    def _tell(self, error: ClientError) -> NoReturn:
        """Raise the error as one that leads to an exit code."""
        if error.status is None:
            raise NodeUnreachable(
                f"no node answers at {self.url}: {error.message}; start one with "
                "`synaptoroute serve` or give another address with --url"
            ) from error
        # A proxy or another server answers with its own kind of page.
        code = error.code if error.problem else "not_a_node"
        detail = error.message
        if error.outcome == "unknown":
            detail += " (the write may still be applied)"
        raise NodeRefused(
            detail,
            code=code,
            status=error.status,
            retry_after_seconds=error.retry_after_seconds,
            problem=error.problem,
        ) from error


def placed(path: str) -> str:
    """Path of an endpoint for the route set of the running command."""
    name = route_set()
    if not name:
        return path
    from synaptoroute.web.set_paths import is_of_a_set, path_in_a_set

    return path_in_a_set(path, set_segment(name)) if is_of_a_set(path) else path


def set_segment(name: str) -> str:
    """The name of a route set or an alias as a part of a path.

    Raises:
        BadUsage: It is malformed.
    """
    # A dot segment such as ".." would be resolved before it is sent: the command would be about
    # ``default``.
    from synaptoroute.core.names import is_set_name
    from synaptoroute.models import normal_name

    normal = normal_name(name)
    if not is_set_name(normal):
        raise BadUsage(
            f"{name!r} is no name of a route set or an alias: 1 to 128 letters, digits, '_', '.',"
            " ':', '-', '@' and inner spaces, beginning with a letter or a digit"
        )
    return quote(normal, safe="")


def route_path(name: str) -> str:
    return f"/v1/routes/{quote(name, safe='')}"


def _texts(parameters: Mapping[str, str | int]) -> dict[str, str]:
    return {name: str(value) for name, value in parameters.items()}
