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
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.errors import ProtocolError, SequencerUnavailable
from synaptoroute.sequencer.append_errors import NotPlaced, Reason, not_placed
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.node_rows import (
    NodeReport,
    NodeRows,
    NodeSeen,
    dump_node_report,
    is_plain,
    parse_document,
    value_of,
)
from synaptoroute.sequencer.scripts import (
    ALIVE_MS,
    FORGET_MS,
    Head,
    NoLog,
    Script,
    Scripts,
    head_of,
)
from synaptoroute.trust.documents import DocumentReader, canonical, sign_document
from synaptoroute.trust.statements import COORDINATOR, Signer

HEARTBEAT_SECONDS: Final = 1.0
HEARTBEAT_SECONDS_MAX: Final = 60.0
HEARTBEAT_JITTER: Final = 0.2
HEARTBEATS_PER_SECOND_MAX: Final = 40
"""Of the whole fleet: who verifies every row then spends about 1 % of a core."""
LIVE_SECONDS: Final = 1.0  # How long a list of live nodes is used for ``ack=all``


def heartbeat_seconds(live_count: int) -> float:
    """Time between the heartbeats of one node in a fleet of some size."""
    seconds = live_count / HEARTBEATS_PER_SECOND_MAX
    return min(max(seconds, HEARTBEAT_SECONDS), HEARTBEAT_SECONDS_MAX)


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


@dataclass(frozen=True, slots=True)
class HeartbeatFacts:
    """Findings of a heartbeat beside the head."""

    displaced: bytes = b""  # The row of this node that the heartbeat replaced
    live_count: int = 0  # Nodes with a heartbeat of the last seconds
    claim: bytes = b""  # What another process with this node's identity has left, see ``claim``


class Presence:
    def __init__(self, scripts: Scripts, link: Link, rows: NodeRows) -> None:
        self.rows = rows
        self.facts = HeartbeatFacts()  # Of the last heartbeat
        self._scripts = scripts
        self._link = link
        self._live: frozenset[bytes] = frozenset()
        self._live_at = -LIVE_SECONDS

    @property
    def _keys(self) -> Keys:
        return self._scripts.keys

    async def heartbeat(
        self,
        report: NodeReport,
        *,
        signer: Signer | None = None,
        promise: Ballot | None = None,
        voters: Sequence[str] = (),
    ) -> Head | NoLog:
        """Report this node and its position; return the head of the log.

        With a promise to the current ballot, this is also the report to the ballot.  If the
        server refuses to write (a replica, a failing disk), only the head is read.

        Args:
            report: Its position must be durable and, with a promise, read after the promise.
            signer: Signs the row as this node.
            promise: The ballot that this node has durably promised, if any.
            voters: The voters at that position.

        Raises:
            SequencerUnavailable: No answer, or reading is not allowed either.
        """
        keys = self._keys
        row = dump_node_report(report, signer)
        args = [report.node_id, row, report.epoch, report.seq, report.chain]
        try:
            answer = await self._scripts.run(
                Script.HEARTBEAT,
                [
                    keys.meta,
                    keys.nodes,
                    keys.heartbeats,
                    keys.positions(report.epoch),
                    keys.reports,
                    keys.claims,
                    keys.log(report.epoch),
                ],
                [*args, str(promise) if promise else "-", FORGET_MS, ",".join(voters)],
            )
        except SequencerUnavailable as error:
            if error.fields.get("reason") is not Reason.REFUSED:
                raise
            return await self._scripts.head()
        self.facts = HeartbeatFacts(answer[1], int(answer[2]), answer[3])
        return head_of(answer[0])

    async def report_position(self, node_id: str, position: Position) -> None:
        """Report a voter's durable position at once, so that a quorum need not wait a second."""
        key = self._keys.positions(position.epoch)
        # GT: reports may arrive out of order, and a position never decreases in an epoch.
        await self._link.call("ZADD", key, "GT", position.seq, node_id)

    async def nodes(self) -> tuple[NodeSeen, ...]:
        """List the nodes that reported in the last hour; rows that do not count are left out."""
        keys = self._keys
        answer = await self._scripts.run(Script.NODES, [keys.nodes, keys.heartbeats], [])
        now_ms = int(answer[0])
        ids, times, rows = answer[1::3], map(int, answer[2::3]), answer[3::3]
        return tuple(self.rows.read_all(zip(ids, times, rows, strict=True), now_ms))

    async def row_of(self, node_id: str) -> tuple[bytes, int, int]:
        """Read the row of a node, the age of its heartbeat, and Redis' time, both in ms.

        The row is empty if there is none.
        """
        keys = self._keys
        row = await self._link.call("HGET", keys.nodes, node_id)
        heard_ms = await self._link.call("ZSCORE", keys.heartbeats, node_id)
        seconds, microseconds = await self._link.call("TIME")
        now_ms = int(seconds) * 1_000 + int(microseconds) // 1_000
        age_ms = now_ms - float(heard_ms or "nan")
        if row is None or not math.isfinite(age_ms):
            return b"", 0, now_ms
        return bytes(row), max(0, int(age_ms)), now_ms

    async def end(self, report: NodeReport, signer: Signer) -> None:
        """Leave a last report, so that the next process of this node need not wait."""
        await self._link.call(
            "HSET", self._keys.nodes, report.node_id, dump_node_report(report, signer)
        )

    async def claim(self, node_id: str, text: str, kept_ms: int) -> None:
        """Leave word that this process has the identity of a node that is alive."""
        await self._link.call("HSET", self._keys.claims, node_id, text)
        await self._link.call("PEXPIRE", self._keys.claims, kept_ms)

    async def claims(self) -> dict[str, str]:
        """Name the processes that were refused as the second of their identity, by node."""
        flat = await self._link.call("HGETALL", self._keys.claims)
        found: dict[str, str] = {}
        for node_id, text in zip(flat[::2], flat[1::2], strict=False):
            with contextlib.suppress(ProtocolError, UnicodeDecodeError):
                document = self.rows.read_claim(node_id.decode(), text)
                found[node_id.decode()] = f"boot {document.get('boot')} at {document.get('url')}"
        return found

    async def acked(self, epoch: int, *, alive_ms: int = ALIVE_MS) -> Acked | NotPlaced:
        """Read the durable sequence numbers of voters and live nodes in an epoch."""
        keys = self._keys
        answer = await self._scripts.run(
            Script.ACKED, [keys.meta, keys.heartbeats, keys.positions(epoch)], [epoch, alive_ms]
        )
        if answer[0] != b"OK":
            return not_placed(answer)
        voters = int(answer[1])
        held = [int(each) for each in answer[2 : 2 + voters]]
        flat = answer[2 + voters :]
        live = dict(zip(flat[::2], map(int, flat[1::2]), strict=True))
        if self.rows.is_verifying:
            # Heartbeats in Redis are claims: a stranger does not count, and a node whose
            # heartbeat somebody removed still does.
            live = {node: live.get(node, 0) for node in await self._live_nodes()}
        return Acked(tuple(held), tuple(live.values()))

    async def _live_nodes(self) -> frozenset[bytes]:
        if time.monotonic() - self._live_at > LIVE_SECONDS:
            seen = await self.nodes()
            self._live = frozenset(each.report.node_id.encode() for each in seen if each.is_live)
            self._live_at = time.monotonic()
        return self._live


# --- audits -----------------------------------------------------------------------


KEPT_MS: Final = 3_600_000
REPORT_BYTES_MAX: Final = 4_096
AUDIT: Final = "audit 1"  # Purpose of the signature of a report


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
    """Reports to audits.  A node signs its report with the place of the audit."""

    def __init__(self, scripts: Scripts, link: Link, reader: DocumentReader) -> None:
        self._scripts = scripts
        self._link = link
        self._reader = reader

    async def report(
        self, seq: int, node_id: str, report: AuditReport, signer: Signer | None = None
    ) -> None:
        key = self._scripts.keys.audit(seq)
        document = {**asdict(report), "node": node_id, "seq": seq}
        if signer is not None:
            document = sign_document(signer, AUDIT, document)
        await self._scripts.run(Script.AUDIT, [key], [node_id, canonical(document), KEPT_MS])

    async def reports(self, seq: int) -> dict[str, AuditReport]:
        """Read the reports to an audit by node; forged and malformed ones are left out."""
        flat = await self._link.call("HGETALL", self._scripts.keys.audit(seq))
        found: dict[str, AuditReport] = {}
        for node_id, row in zip(flat[::2], flat[1::2], strict=False):
            with contextlib.suppress(ProtocolError, UnicodeDecodeError):
                name = node_id.decode()
                document = parse_document(row, REPORT_BYTES_MAX)
                is_signed = bool(self._reader.check(AUDIT, document, by=name))
                if is_signed and (document.get("node"), document.get("seq")) != (name, seq):
                    continue  # A report to another audit
                found[name] = value_of(AuditReport, document)
        return found


def parse_audit_report(row: bytes) -> AuditReport:
    """Read an audit report without its signature; fields of a later release are ignored."""
    return value_of(AuditReport, parse_document(row, REPORT_BYTES_MAX))


# --- commands ---------------------------------------------------------------------


CommandKind = Literal["mend", "resync", "scrub", "generate", "switch", "drop"]
COMMAND_KINDS: Final[tuple[CommandKind, ...]] = get_args(CommandKind)
COMMAND_BYTES_MAX: Final = 16_384
COMMAND: Final = "command 1"  # Purpose of the signature of a command
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
    """The commands of one namespace.

    A command is signed by its coordinator, for one node.  Every method raises
    ``SequencerUnavailable``.
    """

    def __init__(self, scripts: Scripts, link: Link, reader: DocumentReader) -> None:
        self._scripts = scripts
        self._link = link
        self._reader = reader
        self._key = scripts.keys.node_commands
        self._row_read = b""  # Of the command that ``pending`` found last

    async def send(
        self, held: Held, node_id: str, command: NodeCommand, signer: Signer | None = None
    ) -> bool:
        """Leave a command for a node; False if the lease is not ours any more."""
        keys = [self._scripts.keys.lease(held.name), self._key]
        document = {**asdict(command), "node": node_id}
        if signer is not None:
            document = sign_document(signer, COMMAND, document)
        answer = await self._scripts.run(
            Script.NODE_COMMAND, keys, [held.proof, node_id, canonical(document)]
        )
        return bool(answer[0] == b"OK")

    async def pending(self, node_id: str) -> NodeCommand | None:
        """Read the command that waits for a node; one that is malformed is removed.

        Raises:
            ProtocolError: It is malformed, or was not given by a coordinator for this node.
        """
        row = await self._fetch("HGET", node_id)
        if row is None:
            return None
        self._row_read = bytes(row)
        try:
            return self._read(node_id, row)
        except ProtocolError as error:
            if not error.fields.get("forged"):
                await self.complete(node_id)
            raise

    async def all_pending(self) -> dict[str, NodeCommand]:
        """Read every pending command by node; forged and malformed ones are left out."""
        flat = await self._fetch("HGETALL") or ()
        found: dict[str, NodeCommand] = {}
        for node_id, row in zip(flat[::2], flat[1::2], strict=False):
            with contextlib.suppress(ProtocolError, UnicodeDecodeError):
                found[node_id.decode()] = self._read(node_id.decode(), row)
        return found

    async def _fetch(self, command: str, *words: str) -> Any:
        """Read the key; one of another type is deleted, because it can hold no command."""
        try:
            return await self._link.call(command, self._key, *words)
        except SequencerUnavailable as error:
            if "WRONGTYPE" not in str(error.fields.get("redis_error", "")):
                raise
            await self._link.call("DEL", self._key)
            return None

    async def complete(self, node_id: str) -> None:
        """Remove the command that ``pending`` found, because it was executed or given up.

        One that a coordinator left meanwhile stays.
        """
        await self._scripts.run(Script.COMMAND_DONE, [self._key], [node_id, self._row_read])

    def _read(self, node_id: str, row: bytes) -> NodeCommand:
        document = parse_document(row, COMMAND_BYTES_MAX)
        by = self._reader.check(COMMAND, document)
        if by and not (by.startswith(COORDINATOR) and document.get("node") == node_id):
            raise ProtocolError(f"a command of {by!r} for {document.get('node')!r}", forged=True)
        return command_of(document)


def command_of(document: Mapping[str, Any]) -> NodeCommand:
    try:
        kind, given_ms, donors = document["kind"], document["given_ms"], document["donors"]
        order_id, reason = document["order_id"], document["reason"]
        encoder = document.get("encoder", "")
        texts = (order_id, reason, encoder, *donors)
    except (KeyError, TypeError) as error:
        raise ProtocolError("a command is malformed") from error
    is_known = kind in COMMAND_KINDS and type(given_ms) is int and len(donors) <= DONORS_MAX
    is_known = is_known and all(map(is_plain, (*texts, given_ms)))
    if not is_known or not all(isinstance(text, str) for text in texts):
        raise ProtocolError("a command is malformed")
    return NodeCommand(order_id, kind, reason, given_ms, tuple(donors), encoder)
