"""The rows in which nodes describe themselves, and who believes them.

A node signs its whole row.  With a cluster secret a row counts only if it is signed by an
admitted key; an altered, foreign or replayed row does not exist for the reader.  The age that
Redis gives a row is a claim as well: a node whose signed counter does not advance is dead,
whatever the heartbeat says.

A row is verified when somebody reads it, and once for the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from typing import Any, Final, TypeVar

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.addresses import check_address
from synaptoroute.sequencer.scripts import ALIVE_MS
from synaptoroute.sequencer.wire import NUMBER_MAX
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.documents import SIGNED_FIELD, canonical, sign_document, verify_document
from synaptoroute.trust.statements import Signer, Verifier

ROW_BYTES_MAX: Final = 4_096
PRESENCE: Final = "presence 1"  # Purpose of the signature of a row
CLAIM: Final = "claim 1"  # Purpose of what a refused process leaves in Redis
ROWS_MAX: Final = 10_000  # Most rows that are considered
STRICT_LEVEL: Final = 2  # From this feature level on, unsigned rows do not count
CLOCK_SKEW_SECONDS: Final = 60.0
ALIVE_INTERVALS: Final = 3  # A node is live while it missed fewer heartbeats than this
INTERVAL_MS_MAX: Final = 60_000
OVERTAKEN_MS_MAX: Final = 2_000
_TYPES: Final = {"int": int, "str": str, "bool": bool}

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class NodeReport:
    """A node's report.  The names of the fields are its JSON form in Redis."""

    node_id: str
    url: str  # Address for its peers
    role: str  # ``voter`` or ``observer``
    version: str
    level: int  # Highest feature level that it understands
    fingerprint: str
    epoch: int  # Epoch, seq, chain and digest are those of its durable position
    seq: int
    chain: str
    digest: str
    state: str
    queue_count: int = 0  # Queries that wait
    lag_entries: int = 0  # Behind the newest head that it knows
    encoders: str = ""  # Fingerprints of all encoders that it has loaded, separated by commas
    tables: str = ""  # Tables of the cascade that it has, separated by commas
    boot: str = ""  # Names this run of its process: start time in ms and a nonce
    counter: int = 0  # Number of the report in this run, from 1
    time_ms: int = 0  # Redis' clock, as the node knows it
    interval_ms: int = 0  # Time until its next report
    process: str = ""  # Names its process on its host; see ``replication.incarnation``
    vote: str = ""  # Its report to the ballot that it promised last, see ``votes.vote_of``
    log_level: int = 0  # Level of the log at its position; 0 from a release that does not say
    is_ended: bool = False  # Whether the process has ended in an orderly way

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq, self.chain)

    @property
    def alive_ms(self) -> int:
        """Age up to which this report shows a live node."""
        return max(ALIVE_MS, ALIVE_INTERVALS * min(self.interval_ms, INTERVAL_MS_MAX))


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node as the others see it."""

    report: NodeReport
    age_ms: int  # By Redis' clock, or longer where the signed report shows it
    public_key: str = ""  # The key that signed the row; empty if it is not signed

    @property
    def is_live(self) -> bool:
        """Whether it counts for ``ack=all``."""
        return self.age_ms <= self.report.alive_ms and not self.report.is_ended


def dump_node_report(report: NodeReport, signer: Signer | None = None) -> bytes:
    """Write a row; signed if there is a signer."""
    document = asdict(report)
    if signer is not None:
        document = sign_document(signer, PRESENCE, document)
    row = canonical(document).encode()
    if len(row) > ROW_BYTES_MAX:
        raise ProtocolError(f"a node's row has at most {ROW_BYTES_MAX} bytes")
    return row


def parse_node_report(row: bytes) -> NodeReport:
    """Read a node's report without its signature; fields of a later release are ignored."""
    return report_of(parse_document(row, ROW_BYTES_MAX))


def report_of(document: Mapping[str, Any]) -> NodeReport:
    report = value_of(NodeReport, document)
    check_address(report.url)
    return report


def parse_document(row: bytes, bytes_max: int) -> dict[str, Any]:
    """Read a JSON object of limited size."""
    if len(row) > bytes_max:
        raise ProtocolError(f"a row has at most {bytes_max} bytes")
    try:
        document = json.loads(row)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a row is malformed") from error
    if not isinstance(document, dict):
        raise ProtocolError("a row is malformed")
    return document


def is_plain(value: object) -> bool:
    """Whether a value can be shown, compared and sent on: half a surrogate pair cannot."""
    if isinstance(value, str):
        return value.isascii() or value.encode(errors="ignore").decode() == value
    return not isinstance(value, int) or abs(value) <= NUMBER_MAX


def value_of(kind: type[ValueT], document: Mapping[str, Any]) -> ValueT:
    """Make a flat value of its fields; absent ones have their defaults."""
    values: dict[str, Any] = {}
    key: object = kind  # mypy takes an object for hashable, but not a type[ValueT]
    for name, expected, default in _layout(key):
        value = document.get(name, default)
        if value is MISSING:
            raise ProtocolError(f"a {kind.__name__} lacks {name}")
        # ``type`` and not ``isinstance``: True is an int.
        if type(value) is not expected or not is_plain(value):
            raise ProtocolError(f"a {kind.__name__} has a wrong {name}")
        values[name] = value
    return kind(**values)


@cache
def _layout(kind: type[Any]) -> tuple[tuple[str, type, object], ...]:
    """Name, type and default of each field."""
    return tuple((each.name, _TYPES[str(each.type)], each.default) for each in fields(kind))


@dataclass(frozen=True, slots=True)
class _Known:
    """The verified report of a node."""

    row: bytes  # The bytes that were read last
    report: NodeReport | None  # The newest authentic report; None if there is none
    public_key: str = ""
    advanced_at: float = 0.0  # When its counter was seen to advance
    error: str = ""  # Why the row that was read last does not count


class NodeRows:
    """Reads rows and remembers what it verified.

    Args:
        verifier: Verifies the signatures.
        secret: The cluster secret; without one nothing is verified.
        is_strict: Returns whether unsigned rows are refused, too.
        clock_skew_seconds_max: Most that the time in a row may differ from Redis' clock.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        verifier: Verifier,
        secret: ClusterSecret,
        *,
        is_strict: Callable[[], bool] = bool,
        clock_skew_seconds_max: float = CLOCK_SKEW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._verifier = verifier
        self._secret = secret
        self._is_strict = is_strict
        self._skew_ms = int(clock_skew_seconds_max * 1_000)
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self.refused_count = 0  # Rows that were refused, each counted once

    def read_claim(self, node_id: str, text: bytes) -> dict[str, Any]:
        """Read what a process has left that was refused as the second of its identity.

        Raises:
            ProtocolError: The node has not signed it.
        """
        document = parse_document(text, ROW_BYTES_MAX)
        verify_document(self._verifier, CLAIM, document, by=node_id)
        return document

    @property
    def is_verifying(self) -> bool:
        """Whether rows are verified at all: whether there is a cluster secret."""
        return bool(self._secret)

    @property
    def refused(self) -> dict[str, str]:
        """Why rows are refused now, by node."""
        return {node: known.error for node, known in self._known.items() if known.error}

    def read_all(self, found: Iterable[tuple[bytes, int, bytes]], now_ms: int) -> list[NodeSeen]:
        """Read rows with their heartbeats' times; what does not count is left out."""
        seen: list[NodeSeen] = []
        present: set[str] = set()
        for number, (node_id, heard_ms, row) in enumerate(found):
            name = node_id.decode("utf-8", "replace")
            if number >= ROWS_MAX:
                break
            present.add(name)
            node = self.read(name, row, heard_ms, now_ms)
            if node is not None:
                seen.append(node)
        for name in self._known.keys() - present:
            del self._known[name]
        return seen

    def read(self, node_id: str, row: bytes, heard_ms: int, now_ms: int) -> NodeSeen | None:
        """Read the row of a node; None if it does not count."""
        known = self._known.get(node_id)
        if known is None or known.row != row:
            known = self._known[node_id] = self._update(node_id, known, row, now_ms)
        report = known.report
        is_strict = bool(self._secret) and self._is_strict()
        if report is None or (known.error and not known.public_key):
            return None
        if is_strict and not known.public_key:
            return None
        age_ms = max(0, now_ms - heard_ms)
        if known.public_key:
            age_ms = max(age_ms, self._signed_age_ms(known, report, now_ms))
        return NodeSeen(report, age_ms, known.public_key)

    def _signed_age_ms(self, known: _Known, report: NodeReport, now_ms: int) -> int:
        """The age that the signed fields show; 0 if they do not show more than a heartbeat."""
        still_ms = int((self._clock() - known.advanced_at) * 1_000)
        apart_ms = abs(now_ms - report.time_ms)
        shown_ms = still_ms if still_ms > report.alive_ms else 0
        return max(shown_ms, apart_ms if apart_ms > self._skew_ms else 0)

    def _update(self, node_id: str, known: _Known | None, row: bytes, now_ms: int) -> _Known:
        try:
            report, public_key = self._verify(node_id, row)
            if known is not None and known.report is not None and known.public_key:
                self._check_successor(known, report, public_key, now_ms)
        except ProtocolError as error:
            self.refused_count += 1
            # The newest authentic report stays: it ages, and its node soon replaces the row.
            kept = known if known is not None and known.public_key else _Known(row, None)
            return replace(kept, row=row, error=str(error))
        if known is not None and _is_overtaken(known.report, report):
            return replace(known, row=row)
        return _Known(row, report, public_key, self._clock())

    def _verify(self, node_id: str, row: bytes) -> tuple[NodeReport, str]:
        document = parse_document(row, ROW_BYTES_MAX)
        report = report_of(document)
        if report.node_id != node_id:
            raise ProtocolError("a row of another node")
        if not self._secret or SIGNED_FIELD not in document:
            return report, ""
        return report, verify_document(self._verifier, PRESENCE, document, by=node_id).public_key

    def _check_successor(
        self, known: _Known, report: NodeReport, public_key: str, now_ms: int
    ) -> None:
        """Refuse a row that cannot follow what is known: unsigned, foreign or replayed."""
        before = known.report
        assert before is not None
        still_ms = (self._clock() - known.advanced_at) * 1_000
        is_live = still_ms <= before.alive_ms
        if is_live and public_key != known.public_key:
            raise ProtocolError(f"the name of {report.node_id!r} is used with another key")
        if not public_key:
            return  # A node that went back to a release that signs nothing
        if report.boot == before.boot:
            if report.counter <= before.counter and not _is_overtaken(before, report):
                raise ProtocolError(f"an old row of {report.node_id!r}")
        elif report.boot < before.boot and abs(now_ms - report.time_ms) > self._skew_ms:
            raise ProtocolError(f"an old row of {report.node_id!r}")


def _is_overtaken(before: NodeReport | None, report: NodeReport) -> bool:
    """Whether two reports of one run arrived in the wrong order, on two connections."""
    if before is None or not report.boot or report.boot != before.boot:
        return False
    is_near = 0 <= before.time_ms - report.time_ms <= OVERTAKEN_MS_MAX
    return report.counter < before.counter and is_near
