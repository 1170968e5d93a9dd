"""Identity and conditions of one write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, TypeAlias

from synaptoroute.core.mutation import OP_ID_BYTES, Mutation, Proposal, Revision

Ack: TypeAlias = Literal["accepted", "applied", "quorum", "all"]


@dataclass(frozen=True, slots=True)
class Guard:
    """What makes a write safe to repeat and when it may happen.

    Attributes:
        op_id: 16 bytes that name the write; None lets the router make them.
        request_hash: 16 bytes over what the client asked; empty if unknown.
        if_match: The route must stand at this revision.
        if_none_match: The route must not exist.
        ack: Level of durability to wait for.
        ack_timeout_seconds: How long to wait for it.
    """

    op_id: bytes | None = None
    request_hash: bytes = b""
    if_match: Revision | None = None
    if_none_match: bool = False
    ack: Ack = "applied"
    ack_timeout_seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.op_id is not None and len(self.op_id) != OP_ID_BYTES:
            raise ValueError(f"an op_id has {OP_ID_BYTES} bytes, got {len(self.op_id)}")
        if len(self.request_hash) not in (0, OP_ID_BYTES):
            raise ValueError(f"a request_hash has {OP_ID_BYTES} bytes or none")

    def propose(self, mutation: Mutation) -> Proposal:
        """Make the proposal of a mutation under these conditions."""
        return Proposal(
            op_id=self.op_id or os.urandom(OP_ID_BYTES),
            mutation=mutation,
            request_hash=self.request_hash,
            if_match=self.if_match,
            if_none_match=self.if_none_match,
        )


def derived_op_id(*parts: str) -> bytes:
    """Name a write by what it is part of, so that its repetition has the same name."""
    return blake2b("\x00".join(parts).encode(), digest_size=OP_ID_BYTES).digest()
