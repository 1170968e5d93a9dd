"""Presence: heartbeats, the list of nodes, acknowledgements, audit reports and commands.

Every second each node reports its state and position and reads the head of the log in return.
So even without Pub/Sub it is never more than about a second behind.  Ages are measured by Redis'
clock alone.

An audit is an entry of the log.  All nodes apply it at the same place, where equal histories
have equal digests.  They report their digest for that place.

A node polls for the commands of the coordinator.  A command is kept until the node has completed
it, so a node that restarts halfway executes it again; every kind may be repeated without harm.
Only the holder of a lease can send one: the script compares the lease's token.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal, TypeVar, get_args

from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.errors import ProtocolError, SequencerUnavailable
from synaptoroute.sequencer.append_errors import NotPlaced, Reason, not_placed
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.scripts import (
    ALIVE_MS,
    FORGET_MS,
    Head,
    NoLog,
    Script,
    Scripts,
    head_of,
)

HEARTBEAT_SECONDS: Final = 1.0
HEARTBEAT_JITTER: Final = 0.2
ROW_BYTES_MAX: Final = 4_096
_TYPES: Final = {"int": int, "str": str, "bool": bool}

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT", "NodeReport", "AuditReport")


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

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.seq, self.chain)


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node as the others see it."""

    report: NodeReport
    age_ms: int  # By Redis' clock

    @property
    def is_live(self) -> bool:
        """Whether it counts for ``ack=all``."""
        return self.age_ms <= ALIVE_MS


@dataclass(frozen=True, slots=True)
class Acked:
    """Durable sequence numbers of the voters and the live nodes."""

    voters: tuple[int, ...]  # Durable seq of each voter; 0 if it never reported
    live: tuple[int, ...]  # Durable seq of each live node

    def voters_at(self, seq: int) -> int:
        return sum(held >= seq for held in self.voters)

    def nodes_at(self, seq: int) -> int:
        return sum(held >= seq for held in self.live)

    def is_quorum(self, seq: int) -> bool:
        return 2 * self.voters_at(seq) > len(self.voters)

    def is_all(self, seq: int) -> bool:
        """Whether every live node holds an entry, and there is one."""
        return bool(self.live) and min(self.live) >= seq


class Presence:
    def __init__(self, scripts: Scripts, link: Link) -> None:
        self._scripts = scripts
        self._link = link

    @property
    def _keys(self) -> Keys:
        return self._scripts.keys

    async def heartbeat(
        self, report: NodeReport, *, promise: Ballot | None = None, voters: Sequence[str] = ()
    ) -> Head | NoLog:
        """Report this node and its position; return the head of the log.

        With a promise to the current ballot, this is also the report to the ballot.  If the
        server refuses to write (a replica, a failing disk), only the head is read.

        Args:
            report: Its position must be durable and, with a promise, read after the promise.
            promise: The ballot that this node has durably promised, if any.
            voters: The voters at that position.

        Raises:
            SequencerUnavailable: No answer, or reading is not allowed either.
        """
        keys = self._keys
        args = [report.node_id, dump_node_report(report), report.epoch, report.seq, report.chain]
        try:
            answer = await self._scripts.run(
                Script.HEARTBEAT,
                [
                    keys.meta,
                    keys.nodes,
                    keys.heartbeats,
                    keys.positions(report.epoch),
                    keys.reports,
                ],
                [*args, str(promise) if promise else "-", FORGET_MS, ",".join(voters)],
            )
        except SequencerUnavailable as error:
            if error.fields.get("reason") is not Reason.REFUSED:
                raise
            return await self._scripts.head()
        return head_of(answer)

    async def report_position(self, node_id: str, position: Position) -> None:
        """Report a voter's durable position at once, so that a quorum need not wait a second."""
        key = self._keys.positions(position.epoch)
        # GT: reports may arrive out of order, and a position never decreases in an epoch.
        await self._link.call("ZADD", key, "GT", position.seq, node_id)

    async def nodes(self) -> tuple[NodeSeen, ...]:
        """List the nodes that reported in the last hour; malformed reports are left out."""
        keys = self._keys
        answer = await self._scripts.run(Script.NODES, [keys.nodes, keys.heartbeats], [])
        now_ms, seen = int(answer[0]), []
        for node_id, heard_ms, row in zip(answer[1::3], answer[2::3], answer[3::3], strict=True):
            try:
                report = parse_node_report(row)
            except ProtocolError:
                continue
            if report.node_id.encode() == node_id:
                seen.append(NodeSeen(report, max(0, now_ms - int(heard_ms))))
        return tuple(seen)

    async def acked(self, epoch: int, *, alive_ms: int = ALIVE_MS) -> Acked | NotPlaced:
        """Read the durable sequence numbers of voters and live nodes in an epoch."""
        keys = self._keys
        answer = await self._scripts.run(
            Script.ACKED, [keys.meta, keys.heartbeats, keys.positions(epoch)], [epoch, alive_ms]
        )
        if answer[0] != b"OK":
            return not_placed(answer)
        held = [int(each) for each in answer[2:]]
        voters = int(answer[1])
        return Acked(tuple(held[:voters]), tuple(held[voters:]))


def dump_node_report(report: NodeReport) -> bytes:
    row = _dump(report).encode()
    if len(row) > ROW_BYTES_MAX:
        raise ProtocolError(f"a node's row has at most {ROW_BYTES_MAX} bytes")
    return row


def parse_node_report(row: bytes) -> NodeReport:
    """Read a node's report; fields of a later release are ignored."""
    return _parse(NodeReport, row, ROW_BYTES_MAX, {"encoders": "", "tables": ""})


def _dump(value: NodeReport | AuditReport | NodeCommand) -> str:
    return json.dumps(asdict(value), sort_keys=True, separators=(",", ":"))


def _parse(
    kind: type[ValueT], row: bytes, bytes_max: int, defaults: Mapping[str, object]
) -> ValueT:
    if len(row) > bytes_max:
        raise ProtocolError(f"a {kind.__name__} has at most {bytes_max} bytes")
    types = {each.name: _TYPES[str(each.type)] for each in fields(kind)}
    try:
        parsed: Any = json.loads(row)
        values = {**defaults, **parsed}
        values = {name: values[name] for name in types}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"a {kind.__name__} is malformed") from error
    for name, expected in types.items():
        # ``type`` and not ``isinstance``: True is an int.
        if type(values[name]) is not expected:
            raise ProtocolError(f"a {kind.__name__} has a wrong {name}")
    return kind(**values)


def _parse_by_node(flat: Sequence[bytes], parse: Callable[[bytes], ItemT]) -> dict[str, ItemT]:
    """Read a hash of rows by node; malformed rows are left out."""
    found: dict[str, ItemT] = {}
    for node_id, row in zip(flat[::2], flat[1::2], strict=False):
        with contextlib.suppress(ProtocolError, UnicodeDecodeError):
            found[node_id.decode()] = parse(row)
    return found


# --- audits -----------------------------------------------------------------------


KEPT_MS: Final = 3_600_000
REPORT_BYTES_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class AuditReport:
    """One node's report to an audit.  The names of the fields are its JSON form in Redis."""

    epoch: int
    digest: str  # Of the whole state there, 32 hexadecimal digits
    is_scrubbed: bool = False  # Whether memory and disk were compared with it, row by row
    rows: int = 0
    memory_rows: int = 0  # Rows of the tensor that differ
    disk_rows: int = 0  # Rows of the database that differ

    @property
    def is_sound(self) -> bool:
        return not (self.memory_rows or self.disk_rows)


class Audits:
    def __init__(self, scripts: Scripts, link: Link) -> None:
        self._scripts = scripts
        self._link = link

    async def report(self, seq: int, node_id: str, report: AuditReport) -> None:
        key = self._scripts.keys.audit(seq)
        await self._scripts.run(Script.AUDIT, [key], [node_id, _dump(report), KEPT_MS])

    async def reports(self, seq: int) -> dict[str, AuditReport]:
        """Read the reports to an audit by node; malformed ones are left out."""
        flat = await self._link.call("HGETALL", self._scripts.keys.audit(seq))
        return _parse_by_node(flat, parse_audit_report)


def parse_audit_report(row: bytes) -> AuditReport:
    """Read an audit report; fields of a later release are ignored."""
    return _parse(AuditReport, row, REPORT_BYTES_MAX, {})


# --- commands ---------------------------------------------------------------------


CommandKind = Literal["mend", "resync", "scrub", "generate", "switch", "drop"]
COMMAND_KINDS: Final[tuple[CommandKind, ...]] = get_args(CommandKind)
COMMAND_BYTES_MAX: Final = 16_384
DONORS_MAX: Final = 64
COMMAND_AGE_MS_MAX: Final = 600_000
"""An older command is not executed: it was given for another state of the fleet."""


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """One command.  The names of the fields are its JSON form in Redis."""

    order_id: str
    # ``mend``: repair rows; ``resync``: install another node's snapshot; ``scrub``: compare
    # memory and disk with the digest; ``generate``: compute the vectors of another encoder;
    # ``switch``: change the cluster to it; ``drop``: drop such vectors
    kind: CommandKind
    reason: str
    given_ms: int  # By Redis' clock
    donors: tuple[str, ...] = ()  # Nodes from which a snapshot may come
    encoder: str = ""  # Fingerprint of the encoder concerned


class NodeCommands:
    """The commands of one namespace.  Every method raises ``SequencerUnavailable``."""

    def __init__(self, scripts: Scripts, link: Link) -> None:
        self._scripts = scripts
        self._link = link
        self._key = scripts.keys.node_commands

    async def send(self, held: Held, node_id: str, command: NodeCommand) -> bool:
        """Leave a command for a node; False if the lease is not ours any more."""
        keys = [self._scripts.keys.lease(held.name), self._key]
        args = [held.proof, node_id, _dump(command)]
        answer = await self._scripts.run(Script.NODE_COMMAND, keys, args)
        return bool(answer[0] == b"OK")

    async def pending(self, node_id: str) -> NodeCommand | None:
        row = await self._link.call("HGET", self._key, node_id)
        return None if row is None else parse_command(row)

    async def all_pending(self) -> dict[str, NodeCommand]:
        """Read every pending command by node; malformed ones are left out."""
        flat = await self._link.call("HGETALL", self._key)
        return _parse_by_node(flat, parse_command)

    async def complete(self, node_id: str) -> None:
        """Remove a node's command, because it was executed or given up."""
        await self._link.call("HDEL", self._key, node_id)


def parse_command(row: bytes) -> NodeCommand:
    if len(row) > COMMAND_BYTES_MAX:
        raise ProtocolError(f"a command has at most {COMMAND_BYTES_MAX} bytes")
    try:
        parsed: Any = json.loads(row)
        kind, given_ms, donors = parsed["kind"], parsed["given_ms"], parsed["donors"]
        encoder = parsed.get("encoder", "")
        texts = (parsed["order_id"], parsed["reason"], encoder, *donors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError("a command is malformed") from error
    is_known = kind in COMMAND_KINDS and type(given_ms) is int and len(donors) <= DONORS_MAX
    if not is_known or not all(isinstance(text, str) for text in texts):
        raise ProtocolError("a command is malformed")
    return NodeCommand(parsed["order_id"], kind, parsed["reason"], given_ms, tuple(donors), encoder)
