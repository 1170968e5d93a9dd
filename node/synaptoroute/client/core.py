"""Decisions of a client, without any transport: addresses, retries, versions, deadlines.

``Session`` is the state of one client, ``Call`` that of one call.  A transport asks the call
what to do next, sends one request, and tells what came of it:

    call = session.begin(request)
    while True:
        attempt = call.next()           # raises when the call has failed for good
        sleep(attempt.pause_seconds)
        ... send, then call.lost(...) or call.answered(...)

Rule 1: a read may be sent again.  A write has an idempotency key, the same in each attempt, so
it may be sent again, too.  Rule 2: an address that asks for time (``Retry-After``) is not asked
before.  An address that does not answer rests, and is asked earlier only if no other is left.
Rule 3: attempts, waits and the whole call are limited, in seconds.
"""

from __future__ import annotations

import email.utils
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NoReturn, TypeVar

from synaptoroute.client.errors import (
    CallTimeout,
    ClientError,
    ConnectionFailed,
    Outcome,
    UnexpectedAnswer,
    class_of,
)

ResultT = TypeVar("ResultT")
Version = tuple[int, int]
Body = bytes | Callable[[], Iterable[bytes]] | None
"""Bytes, or a function that makes a new stream for each attempt."""

JSON: Final = "application/json"
CONNECT_SECONDS: Final = 5.0
CALL_SECONDS: Final = 30.0
ATTEMPT_SECONDS: Final = 10.0
PROBLEM_BYTES_MAX: Final = 65_536
DEADLINE_MS_MAX: Final = 600_000
_RETRIED: Final = frozenset({408, 429, 502, 503})
_RESTING_CODES: Final = frozenset({"not_ready", "shutting_down", "overloaded", "encoder_error"})
"""Refusals that hold for every call at this address, not for this one alone."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long a call is tried.

    Attributes:
        attempts_max: Most requests of one call.
        first_wait_seconds: Wait after every address was tried once; doubled each round.
        wait_seconds_max: Longest such wait.
        total_wait_seconds_max: All waits of one call together, those for Retry-After included.
        rest_seconds: How long an address that does not answer rests; doubled each time.
        rest_seconds_max: Longest rest.
        refusal_seconds_max: Longest time for which ``Retry-After`` keeps an address from other
            calls, however much it says.
        retries_refused_connections: Whether a call goes on when every address refused its
            connection; without it, the call fails at once.
    """

    attempts_max: int = 8
    first_wait_seconds: float = 0.1
    wait_seconds_max: float = 5.0
    total_wait_seconds_max: float = 30.0
    rest_seconds: float = 0.5
    rest_seconds_max: float = 30.0
    refusal_seconds_max: float = 60.0
    retries_refused_connections: bool = True


@dataclass(frozen=True, slots=True)
class Request(Generic[ResultT]):
    """One call as data.

    Attributes:
        method: HTTP method.
        path: Path and nothing else.
        read_reply: Makes the result of an answer.
        parameters: Parameters of the URL.
        body: Its body.
        content_type: Media type of the body.
        headers: Further headers.
        is_write: Whether it changes something; it then gets an idempotency key.
        is_versioned: Whether the answer must be as new as this client's writes.
        is_query: Whether the node is told how long the answer is useful.
        can_repeat: Whether the body can be sent again.
        attempt_seconds: Longest attempt; None for that of the client.
    """

    method: str
    path: str
    read_reply: Callable[[Reply], ResultT]
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Body = None
    content_type: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_write: bool = False
    is_versioned: bool = False
    is_query: bool = False
    can_repeat: bool = True
    attempt_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A successful answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            UnexpectedAnswer: It is not JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise UnexpectedAnswer("the answer is not JSON", status=self.status) from error


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to send, after a pause."""

    url: str
    headers: Mapping[str, str]
    pause_seconds: float
    connect_seconds: float
    read_seconds: float


class _Address:
    """One base URL and how it fares."""

    __slots__ = ("failures_count", "refuses_until", "rests_until", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures_count = 0
        self.rests_until = 0.0  # it may be asked earlier if nothing else is left
        self.refuses_until = 0.0  # it asked for this time


class Session:
    """The state that all calls of one client share; thread-safe."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        headers: Mapping[str, str],
        policy: RetryPolicy,
        call_seconds: float = CALL_SECONDS,
        attempt_seconds: float = ATTEMPT_SECONDS,
        reads_own_writes: bool = True,
        version: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.policy, self.clock, self.draw = policy, clock, draw
        self.headers = dict(headers)
        self.call_seconds, self.attempt_seconds = call_seconds, attempt_seconds
        self.reads_own_writes = reads_own_writes
        self._addresses = [_Address(url) for url in urls]
        # Many clients that start together must not all begin with the first address.
        self._turn = int(draw(0, len(self._addresses)))
        self._version: Version | None = None
        self._lock = threading.Lock()
        if version is not None:
            self.see(version)

    def begin(self, request: Request[Any], timeout_seconds: float | None = None) -> Call:
        """Begin a call that may take so long; None for the time of the client."""
        seconds = self.call_seconds if timeout_seconds is None else timeout_seconds
        return Call(self, request, seconds)

    # --- versions --------------------------------------------------------------------

    @property
    def version(self) -> str | None:
        """Version of the newest own write, ``epoch.seq``."""
        with self._lock:
            found = self._version
        return None if found is None else f"{found[0]}.{found[1]}"

    def see(self, version: str) -> None:
        """Let further reads be at least as new as a version.

        Raises:
            ValueError: It is not ``epoch.seq``.
        """
        seen = parse_version(version)
        with self._lock:
            if self._version is None or seen > self._version:
                self._version = seen

    def forget(self, version: str | None) -> None:
        """Forget a version that the cluster lost, unless a newer one was seen."""
        if version is not None:
            with self._lock:
                if self._version is not None and self._version <= parse_version(version):
                    self._version = None

    # --- addresses -------------------------------------------------------------------

    def choose(self, avoided: Mapping[int, float], tried: frozenset[int]) -> tuple[int, float]:
        """Choose an address.

        Args:
            avoided: When this call may ask an address again, by its index.
            tried: Addresses that this call has asked in this round.

        Returns:
            Its index, and how many seconds it must not be asked yet.
        """
        now, count = self.clock(), len(self._addresses)
        with self._lock:
            order = [(self._turn + offset) % count for offset in range(count)]
            self._turn = (self._turn + 1) % count
            refuses = {
                index: max(self._addresses[index].refuses_until, avoided.get(index, 0.0)) - now
                for index in order
            }
            open_ones = [index for index in order if refuses[index] <= 0]
            if not open_ones:
                soonest = min(order, key=lambda index: refuses[index])
                return soonest, refuses[soonest]
            rested = [index for index in open_ones if self._addresses[index].rests_until <= now]
            fresh = [index for index in rested if index not in tried]
            if fresh or rested:
                return (fresh or rested)[0], 0.0
            untried = [index for index in open_ones if index not in tried]
            return min(
                untried or open_ones, key=lambda index: self._addresses[index].rests_until
            ), 0.0

    def url(self, index: int) -> str:
        return self._addresses[index].url

    @property
    def addresses_count(self) -> int:
        return len(self._addresses)

    def works(self, index: int) -> None:
        address = self._addresses[index]
        if address.failures_count:
            with self._lock:
                address.failures_count, address.rests_until = 0, 0.0

    def fails(self, index: int, refuses_seconds: float = 0.0) -> None:
        """Let an address rest; ``refuses_seconds`` is the time that it asked for."""
        policy, address, now = self.policy, self._addresses[index], self.clock()
        with self._lock:
            longest = policy.rest_seconds * 2**address.failures_count
            rest = min(longest, policy.rest_seconds_max) * self.draw(0.5, 1.0)
            address.failures_count = min(address.failures_count + 1, 16)
            address.rests_until = now + rest
            if refuses_seconds:
                address.refuses_until = now + min(refuses_seconds, policy.refusal_seconds_max)


class Call:
    """One call, from its first attempt to its answer; used by one thread or task."""

    def __init__(self, session: Session, request: Request[Any], timeout_seconds: float) -> None:
        self._session, self._request = session, request
        self._ends_at = session.clock() + timeout_seconds
        self._attempts_count = 0
        self._waited_seconds = 0.0
        self._rounds_count = 0
        self._tried: set[int] = set()
        self._avoided: dict[int, float] = {}
        self._index = 0
        self._attempt_ends_at = self._ends_at
        self._error: ClientError | None = None
        self._may_be_taken = False  # whether an attempt may have reached a node
        self._sent_version: str | None = None
        self._has_refused_only = True
        self._is_used_up = False  # a body that can be sent once was sent
        given = {name.lower(): value for name, value in request.headers.items()}
        self.idempotency_key = None
        if request.is_write:
            self.idempotency_key = given.get("idempotency-key") or str(uuid.uuid4())

    def next(self) -> Attempt:
        """Return the next request to send.

        Raises:
            ClientError: The call has failed for good.
        """
        session, policy = self._session, self._session.policy
        if self._is_used_up:
            self._give_up()
        if self._attempts_count >= policy.attempts_max:
            self._give_up()
        if len(self._tried) >= session.addresses_count:
            if self._has_refused_only and not policy.retries_refused_connections:
                self._give_up()
            self._tried.clear()
            self._rounds_count += 1
        self._index, pause = session.choose(self._avoided, frozenset(self._tried))
        if self._rounds_count and not self._tried:
            longest = policy.first_wait_seconds * 2 ** (self._rounds_count - 1)
            # Jitter, so that clients that were refused together do not return together.
            pause = max(pause, min(longest, policy.wait_seconds_max) * session.draw(0.5, 1.0))
        left = self._ends_at - session.clock() - pause
        self._waited_seconds += pause
        if left <= 0 or self._waited_seconds > policy.total_wait_seconds_max:
            self._give_up(pause)
        self._attempts_count += 1
        longest = self._request.attempt_seconds or session.attempt_seconds
        seconds = max(0.001, min(left, longest))
        self._attempt_ends_at = session.clock() + pause + seconds
        return Attempt(
            session.url(self._index),
            self._headers(seconds),
            pause,
            min(seconds, CONNECT_SECONDS),
            seconds,
        )

    @property
    def is_late(self) -> bool:
        """Whether the time of the attempt has passed while its answer arrives."""
        return self._session.clock() > self._attempt_ends_at

    def lost(self, detail: str, *, was_sent: bool) -> None:
        """Note that an attempt got no answer; ``was_sent`` if a node may have the request."""
        self._session.fails(self._index)
        self._tried.add(self._index)
        self._may_be_taken |= was_sent and self._request.is_write
        self._has_refused_only &= not was_sent
        self._is_used_up |= was_sent and not self._request.can_repeat
        self._error = ConnectionFailed(f"{self._session.url(self._index)}: {detail}")

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """Note an answer; return it, or None if the call goes on.

        Raises:
            ClientError: The answer is an error that another attempt would not change.
        """
        headers = {name.lower(): value for name, value in headers.items()}
        if 200 <= status < 300 or status == 304:
            self._session.works(self._index)
            if self._request.is_write and (version := headers.get("sr-version")):
                self._note_version(version)
            return Reply(status, headers, body)
        self._has_refused_only = False
        error = self._error = self._error_of(status, headers, body)
        wait = error.retry_after_seconds
        if error.code == "version_lost" and self._sent_version is not None:
            # Told once: the write is gone, and further reads must not wait for it.
            self._session.forget(self._sent_version)
        if not self._is_retried(status, error):
            if not isinstance(error, UnexpectedAnswer):
                self._session.works(self._index)
            raise self._complete(error)
        self._tried.add(self._index)
        self._is_used_up |= not self._request.can_repeat
        self._may_be_taken |= self._request.is_write and error.outcome != "not_taken"
        if error.code in _RESTING_CODES or isinstance(error, UnexpectedAnswer):
            self._session.fails(self._index, wait or 0.0)
        elif wait:
            self._avoided[self._index] = self._session.clock() + wait
        return None

    def fail(self, detail: str) -> NoReturn:
        """End the call whose answer broke off after its beginning."""
        self._error = ConnectionFailed(f"{self._session.url(self._index)}: {detail}")
        raise self._complete(self._error)

    # --- parts -----------------------------------------------------------------------

    def _headers(self, seconds: float) -> dict[str, str]:
        request, session = self._request, self._session
        headers = {**session.headers, **request.headers}
        if request.content_type:
            headers["Content-Type"] = request.content_type
        if self.idempotency_key is not None:
            headers["Idempotency-Key"] = self.idempotency_key
        names = {name.lower() for name in request.headers}
        if request.is_versioned and session.reads_own_writes and "sr-min-version" not in names:
            self._sent_version = session.version
            if self._sent_version is not None:
                headers["SR-Min-Version"] = self._sent_version
        if request.is_query and "sr-deadline-ms" not in names:
            headers["SR-Deadline-Ms"] = str(min(DEADLINE_MS_MAX, max(1, int(seconds * 1_000))))
        return headers

    def _is_retried(self, status: int, error: ClientError) -> bool:
        if status in _RETRIED or (isinstance(error, UnexpectedAnswer) and status == 504):
            return True
        # A write whose deadline passed may be decided by now, and its key finds the outcome.
        return status == 504 and self._request.is_write and error.outcome == "unknown"

    def _note_version(self, version: str) -> None:
        with suppress(ValueError):  # of a proxy; the next answer of a node has one
            self._session.see(version)

    def _error_of(self, status: int, headers: Mapping[str, str], body: bytes) -> ClientError:
        wait = parse_retry_after(headers.get("retry-after"), headers.get("date"))
        try:
            problem = json.loads(body[:PROBLEM_BYTES_MAX])
            code, detail = str(problem["code"]), str(problem["detail"])
        except (ValueError, KeyError, TypeError):
            problem = _of_decisions(body)
            if problem is None:
                # A proxy or another server answers here with its own kind of page.
                url = self._session.url(self._index)
                return UnexpectedAnswer(
                    f"{url} answered {status}, but not as a node does",
                    status=status,
                    retry_after_seconds=wait,
                )
            code, detail = problem["code"], problem["detail"]
        outcome: Outcome | None = None
        if self._request.is_write and problem.get("outcome") in ("unknown", "not_taken"):
            outcome = problem["outcome"]
        return class_of(status)(
            detail,
            code=code,
            status=status,
            retry_after_seconds=wait,
            outcome=outcome,
            request_id=headers.get("x-request-id", ""),
            node=headers.get("sr-node", ""),
            problem=problem,
        )

    def _give_up(self, pause_seconds: float = 0.0) -> NoReturn:
        if self._error is None and pause_seconds > 0:
            detail = f"every address asked for a pause, the shortest of {pause_seconds:.1f} s more"
            self._error = CallTimeout(detail, retry_after_seconds=pause_seconds)
        elif self._error is None:
            self._error = CallTimeout("the time of the call passed")
        raise self._complete(self._error)

    def _complete(self, error: ClientError) -> ClientError:
        """Add what is known of a write."""
        if self._request.is_write:
            error.idempotency_key = self.idempotency_key
            retryable = error.status is None or error.status in (*_RETRIED, 504)
            if self._may_be_taken and retryable:
                error.outcome = "unknown"
            elif error.outcome is None and retryable:
                error.outcome = "not_taken"
        return error


def _of_decisions(body: bytes) -> dict[str, Any] | None:
    """An error in the form of ``/v1/decisions``, as a problem document; None if it is none."""
    try:
        error = json.loads(body[:PROBLEM_BYTES_MAX])["error"]
        code = error.get("code") or error["type"]
        return {**error, "code": str(code), "detail": str(error["message"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def parse_version(version: str) -> Version:
    """Read ``epoch.seq``.

    Raises:
        ValueError: It is malformed.
    """
    epoch, dot, seq = version.partition(".")
    if not (dot and epoch.isascii() and epoch.isdigit() and seq.isascii() and seq.isdigit()):
        raise ValueError(f"a version is epoch.seq, such as 1.42, got {version[:40]!r}")
    return int(epoch), int(seq)


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """Read ``Retry-After``; None if it is absent or malformed.

    Args:
        value: Seconds, or a date.
        date: Header ``Date`` of the answer, from which a date counts; no clock of this machine
            takes part.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            until, now = map(email.utils.parsedate_to_datetime, (value, date or ""))
            seconds = (until - now).total_seconds()
        except (ValueError, TypeError):  # also a date without its zone
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def encode(document: Any) -> bytes:
    """Write a document as JSON."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False).encode()


def json_request(
    method: str,
    path: str,
    *,
    parameters: Mapping[str, str] | None = None,
    document: Any = None,
    headers: Mapping[str, str] | None = None,
    is_write: bool | None = None,
) -> Request[Any]:
    """A request whose body and answer are JSON; ``is_write`` says whether it changes something."""
    writes = method not in ("GET", "HEAD") if is_write is None else is_write
    has_body = document is not None
    return Request(
        method,
        path,
        lambda reply: reply.json(),
        dict(parameters or {}),
        encode(document) if has_body else None,
        JSON if has_body else "",
        dict(headers or {}),
        is_write=writes,
        is_versioned=not writes,
    )
