"""Identities of writes.

All route sets share one idempotency window.  The identity of a write in a set other than
``default`` begins with four bytes that follow from the set, and the rest follows from the set and
the identity that the client chose: clients of two sets that choose the same one do not meet.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from synaptoroute.core.mutation import OP_ID_BYTES

TAG_BYTES: Final = 4


def derived_op_id(*parts: str) -> bytes:
    """Derive an op_id, so that the same write, repeated, has the same one."""
    return blake2b("\x00".join(parts).encode(), digest_size=OP_ID_BYTES).digest()


def scoped_op_id(op_id: bytes, route_set: str) -> bytes:
    """The op_id of a write in a set; one that is of the set already stays as it is.

    Args:
        route_set: Name of the set; empty for ``default``, where a client's op_id is the write's.
    """
    if not route_set or is_of_set(op_id, route_set):
        return op_id
    rest = blake2b(op_id, digest_size=OP_ID_BYTES - TAG_BYTES, key=_key_of(route_set)).digest()
    return _tag_of(route_set) + rest


def is_of_set(op_id: bytes, route_set: str) -> bool:
    """Whether an op_id has the mark of a set other than ``default``."""
    return op_id[:TAG_BYTES] == _tag_of(route_set)


def _tag_of(route_set: str) -> bytes:
    return _key_of(route_set)[:TAG_BYTES]


def _key_of(route_set: str) -> bytes:
    return blake2b(route_set.encode(), digest_size=32, person=b"route-set").digest()
