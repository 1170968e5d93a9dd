"""What clients of a simulated cluster saw."""

from __future__ import annotations

from dataclasses import dataclass, field

from synaptoroute.core.mutation import Revision


@dataclass
class Op:
    """One logical write: every try has the same identity.

    Attributes:
        op_id: Its identity.
        name: The route that it is about.
        kind: ``put``, ``del`` or ``cas``.
        frame: Its bytes.
        began: Step or second at which it was first sent.
        ended: Step or second at which a majority was known to hold it; None if never.
        places: Where its tries were placed, as far as an answer told.
        if_match: Revision that a ``cas`` was conditional on.
        outcome: What came of it where it was applied; empty if unknown.
        revision: Revision that it gave to its route.
        requests: Route, kind and condition of each request that was sent with this identity,
            by its hash.
    """

    op_id: bytes
    name: str
    kind: str
    frame: bytes
    proposal: object
    began: float
    ended: float | None = None
    places: list[tuple[int, int, str]] = field(default_factory=list)
    if_match: Revision | None = None
    outcome: str = ""
    at: Revision | None = None
    requests: dict[bytes, tuple[str, str, Revision | None]] = field(default_factory=dict)

    def decided_by(self, request_hash: bytes) -> None:
        """Take over what the request was that decided this write."""
        self.name, self.kind, self.if_match = self.requests[request_hash]

    @property
    def is_acknowledged(self) -> bool:
        """Whether its client was told that a majority holds it."""
        return self.ended is not None


@dataclass(frozen=True)
class Read:
    """A read that asked for a version: what was seen.

    Attributes:
        node: Who answered.
        wanted: The version that was asked for.
        got: The version at which it was answered.
        op_id: The write whose version it was.
        is_seen: Whether the node's history holds that write.
    """

    node: str
    wanted: Revision
    got: Revision
    op_id: bytes
    is_seen: bool


@dataclass(frozen=True)
class HeadRead:
    """A read of a register with ``consistency=head``.

    Attributes:
        node: Who answered.
        name: The route that is the register.
        began: Step or second at which it was sent.
        ended: Step or second at which it was answered.
        value: The write whose value was seen; empty if there was none yet.
    """

    node: str
    name: str
    began: float
    ended: float
    value: bytes


@dataclass(frozen=True)
class Answer:
    """What a client was told that waited at a node for its write.

    Attributes:
        node: Who answered.
        op_id: Identity of the write.
        request_hash: Hash of what the client asked.
        code: Error code of a rejection; empty otherwise.
        at: Place at which the write was decided.
    """

    node: str
    op_id: bytes
    request_hash: bytes
    code: str
    at: Revision


@dataclass
class History:
    """Everything that clients saw."""

    ops: dict[bytes, Op] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    head_reads: list[HeadRead] = field(default_factory=list)

    @property
    def acknowledged(self) -> list[Op]:
        """The writes whose clients were told that a majority holds them."""
        return [op for op in self.ops.values() if op.is_acknowledged]
