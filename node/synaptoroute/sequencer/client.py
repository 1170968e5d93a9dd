"""Connections to the sequencer, from one URL.

The retries of the client library are off: it cannot know whether a write whose answer was lost
has happened, and on a subscription it would hide that messages were missed.  So every failure is
raised, with the one fact that matters: whether anything was sent.

URLs: ``redis://``, ``rediss://`` (TLS), ``unix://``, and for Sentinel
``redis+sentinel://host:port,host:port/service/db`` (``rediss+sentinel`` with TLS),
where every new connection asks for the current master.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import redis.exceptions
from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from synaptoroute.errors import ConfigError
from synaptoroute.forks import guard
from synaptoroute.sequencer.append_errors import Reason, unavailable
from synaptoroute.tracing import SPAN, fail

CONNECTIONS_MAX: Final = 8
PASSWORD_BYTES_MAX: Final = 4_096
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379

IO_ERRORS: Final = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.InvalidResponse,
    OSError,
    EOFError,
)


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS settings: how the server is verified and how this node identifies itself."""

    ca_file: Path | None = None  # None for the certificates of the system
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class SentinelAccess:
    """How Sentinels are reached, apart from their addresses."""

    user: str = ""
    password_file: Path | None = None  # None if they need no password
    is_tls: bool = False  # With the certificates of the master


NO_SENTINEL_ACCESS: Final = SentinelAccess()
"""Sentinels that need no password and no TLS."""


class PasswordFile(CredentialProvider):
    """Credentials whose password is read at every connection, so that it can rotate."""

    def __init__(self, path: Path, user: str | None = None) -> None:
        self._path = path
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Read the file; a trailing line break is not part of the password."""
        with self._path.open("rb") as file:
            password = file.read(PASSWORD_BYTES_MAX).decode().rstrip("\r\n")
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Read the file without blocking the event loop."""
        return await asyncio.to_thread(self.get_credentials)


@dataclass(frozen=True)
class Connector:
    """Address of the sequencer and the options of its connections."""

    url: str = field(repr=False)  # See the module; credentials in it are percent-encoded
    password_file: Path | None = None  # Replaces a password in the URL
    tls: Tls = field(default_factory=Tls)
    socket_timeout_seconds: float = 1.0  # Longest wait for a connection, and for an answer
    is_replica: bool = False  # With a Sentinel URL: connect to a replica, not to the master
    sentinel: SentinelAccess = NO_SENTINEL_ACCESS

    def __post_init__(self) -> None:
        parts = self._parts
        if parts.scheme not in ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"):
            raise ConfigError(
                f"the URL of Redis begins with {parts.scheme!r}; "
                "use redis://, rediss://, unix:// or redis+sentinel://"
            )
        if parts.query or parts.fragment:
            raise ConfigError("the URL of Redis takes no query and no fragment")
        if self.is_sentinel:
            _ = self._sentinels, self._service
        elif parts.scheme == "unix":
            if not parts.path:
                raise ConfigError("a unix:// URL needs the path of a socket")
        else:
            _ = self._address, self._database(parts.path)

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    @property
    def is_sentinel(self) -> bool:
        """Whether Sentinel resolves the address of the master."""
        return self._parts.scheme.endswith("+sentinel")

    @property
    def label(self) -> str:
        """The URL without credentials, for people."""
        host = self._parts.netloc.rpartition("@")[2]
        return f"{self._parts.scheme}://{host}{self._parts.path}"

    @property
    def is_tls(self) -> bool:
        return self._parts.scheme.startswith("rediss")

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the address is a socket file or the loopback."""
        if self.is_sentinel:
            return all(_is_loopback(host) for host, _ in self._sentinels)
        return self._parts.scheme == "unix" or _is_loopback(self._address[0])

    @property
    def _address(self) -> tuple[str, int]:
        return _split_address(self._parts.netloc.rpartition("@")[2], _PORT)

    @property
    def _sentinels(self) -> list[tuple[str, int]]:
        hosts = self._parts.netloc.rpartition("@")[2].split(",")
        return [_split_address(host, _SENTINEL_PORT) for host in hosts]

    @property
    def _service(self) -> tuple[str, int]:
        name, _, database = self._parts.path.lstrip("/").partition("/")
        if not name:
            raise ConfigError("a Sentinel URL names its service: /service or /service/db")
        return name, self._database(database)

    @staticmethod
    def _database(path: str) -> int:
        number = path.strip("/") or "0"
        if not number.isdecimal():
            raise ConfigError(f"{number!r} is not the number of a database")
        return int(number)

    def _options(self, timeout_seconds: float) -> dict[str, Any]:
        user, _, password = self._parts.netloc.rpartition("@")[0].partition(":")
        options: dict[str, Any] = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": self.socket_timeout_seconds,
            "driver_info": None,
            "redis_connect_func": _greet,
        }
        if self.password_file is not None:
            options["credential_provider"] = PasswordFile(self.password_file, unquote(user))
        elif password or user:
            options |= {"username": unquote(user) or None, "password": unquote(password)}
        if self._parts.scheme.startswith("rediss"):
            options |= self._tls_options()
        return options

    def _tls_options(self) -> dict[str, Any]:
        files = {
            "ssl_ca_certs": self.tls.ca_file,
            "ssl_certfile": self.tls.cert_file,
            "ssl_keyfile": self.tls.key_file,
        }
        found: dict[str, Any] = {
            name: str(path) for name, path in files.items() if path is not None
        }
        # Said here, as the defaults of the client library have changed before.
        return found | {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        }

    def link(self, *, timeout_seconds: float | None = None) -> Link:
        """Create a pool of connections for one purpose; nothing is opened yet."""
        seconds = timeout_seconds or self.socket_timeout_seconds
        options = self._options(seconds)
        if self.is_sentinel:
            return self._sentinel_link(options, seconds)
        parts = self._parts
        if parts.scheme == "unix":
            pool = ConnectionPool(UnixDomainSocketConnection, path=unquote(parts.path), **options)
        else:
            host, port = self._address
            database = self._database(parts.path)
            kind = SSLConnection if parts.scheme == "rediss" else Connection
            pool = ConnectionPool(kind, host=host, port=port, db=database, **options)
        return Link(pool, seconds)

    def _sentinel_options(self, seconds: float) -> dict[str, Any]:
        options: dict[str, Any] = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": seconds,
            "socket_connect_timeout": self.socket_timeout_seconds,
            "driver_info": None,
        }
        if self.sentinel.password_file is not None:
            provider = PasswordFile(self.sentinel.password_file, self.sentinel.user)
            options["credential_provider"] = provider
        if self.sentinel.is_tls:
            options |= self._tls_options()
        return options

    def sentinel_links(self) -> dict[str, Link]:
        """Create a link to each Sentinel, by its address; the caller closes them."""
        seconds = self.socket_timeout_seconds
        kind = SSLConnection if self.sentinel.is_tls else Connection
        options = self._sentinel_options(seconds)
        return {
            f"{host}:{port}": Link(ConnectionPool(kind, host=host, port=port, **options), seconds)
            for host, port in self._sentinels
        }

    @property
    def service(self) -> str:
        """Name of the service that the Sentinels watch."""
        return self._service[0]

    def _sentinel_link(self, options: dict[str, Any], seconds: float) -> Link:
        service, database = self._service
        make: Any = Sentinel
        sentinel_options = {"ssl": self.sentinel.is_tls, **self._sentinel_options(seconds)}
        sentinel = make(self._sentinels, sentinel_kwargs=sentinel_options)
        is_tls = self._parts.scheme.startswith("rediss")
        find = sentinel.slave_for if self.is_replica else sentinel.master_for
        client = find(service, db=database, ssl=is_tls, **options)
        return Link(client.connection_pool, seconds, sentinel)


class Link:
    """A pool of connections for one purpose, with typed failures.

    Used on the event loop that first used it.
    """

    def __init__(
        self, pool: ConnectionPool, timeout_seconds: float, sentinel: Sentinel | None = None
    ) -> None:
        self._pool = pool
        self._sentinel = sentinel
        self._timeout_seconds = timeout_seconds
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)
        guard(self)

    async def call(self, *words: Any, script: str = "") -> Any:
        """Send one command and return its answer.

        Args:
            words: The command and its arguments.
            script: Name of the script that it calls, for traces.

        Raises:
            SequencerUnavailable: The ``reason`` is ``unreachable`` (nothing was sent),
                ``interrupted`` (the outcome is unknown) or ``refused`` (the server refused
                before it did anything).
            redis.exceptions.NoScriptError: The script is not loaded there.
        """
        if (span := SPAN.get()) is None:
            return await self._call(words)
        name = f"{words[0]} {script}" if script else words[0]
        # Never the arguments: they are names and texts of routes.
        traced = span.child(name, "CLIENT", command_attributes(words[0], script))
        try:
            return await self._call(words)
        except Exception as error:
            if traced is not None:
                fail(traced, type(error).__name__)
            raise
        finally:
            if traced is not None:
                traced.end()

    async def _call(self, words: Sequence[Any]) -> Any:
        async with self._free:
            connection = await self.connect()
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await connection.send_command(*words)
                    return await connection.read_response()
            except redis.exceptions.NoScriptError:
                raise
            except redis.exceptions.ResponseError as error:
                raise unavailable(
                    Reason.REFUSED, f"Redis refused the call: {error}", redis_error=str(error)
                ) from error
            except redis.exceptions.BusyLoadingError as error:
                raise unavailable(Reason.REFUSED, "Redis is loading its data") from error
            except IO_ERRORS as error:
                # The answer may still arrive: the connection must not be used again.
                await self.drop(connection)
                raise unavailable(
                    Reason.INTERRUPTED, f"Redis did not answer: {_say(error)}"
                ) from error
            except BaseException:
                # Cancelled between command and answer: the next caller would read this answer.
                await self.drop(connection)
                raise
            finally:
                await self._pool.release(connection)

    async def connect(self) -> AbstractConnection:
        """Take a working connection; the caller releases it.

        Raises:
            SequencerUnavailable: ``unreachable``, or ``refused`` for wrong credentials.
        """
        try:
            pool: Any = self._pool
            taken: AbstractConnection = await pool.get_connection()
            return taken
        except (redis.exceptions.AuthenticationError, redis.exceptions.ResponseError) as error:
            raise unavailable(
                Reason.REFUSED, f"Redis refused the connection: {error}", redis_error=str(error)
            ) from error
        except IO_ERRORS as error:
            raise unavailable(
                Reason.UNREACHABLE, f"Redis cannot be reached: {_say(error)}"
            ) from error

    async def release(self, connection: AbstractConnection) -> None:
        """Return a connection that must not be used again."""
        await self.drop(connection)
        await self._pool.release(connection)

    @staticmethod
    async def drop(connection: AbstractConnection) -> None:
        """Close a connection at once, without waiting for the other side."""
        with contextlib.suppress(*IO_ERRORS):
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        with contextlib.suppress(*IO_ERRORS):
            await self._pool.aclose()
        if self._sentinel is not None:
            with contextlib.suppress(*IO_ERRORS):
                await self._sentinel.aclose()


def command_attributes(command: str, script: str) -> dict[str, str | int | bool]:
    """Attributes of the span of a command, by OpenTelemetry's conventions."""
    attributes: dict[str, str | int | bool] = {
        "db.system.name": "redis",
        "db.operation.name": command,
    }
    if script:
        attributes["db.stored_procedure.name"] = script
    return attributes


async def _greet(connection: AbstractConnection) -> None:
    # A frozen server, or a proxy without a server, accepts connections, too.  A write sent to
    # it would have an unknown outcome; after an answered PING it is known to be alive.
    await connection.on_connect()
    await connection.send_command("PING", check_health=False)
    await connection.read_response()


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _split_address(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        if not parts.hostname:
            raise ValueError("a host is missing")
        return parts.hostname, parts.port or port
    except ValueError as error:
        raise ConfigError(f"{text!r} is not the address of a server: {error}") from error


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__


def split_urls(text: str) -> list[str]:
    """Split addresses by commas or spaces; the commas within a Sentinel URL stay."""
    return [url for url in re.split(r"[,\s]+(?=[a-z+]+://)", text.strip(", \n\t")) if url]
