"""What a write's headers ask for, as the router's ``WriteOptions``.

Source: RFC 9110 section 13 (conditional requests) and the IETF draft on the
Idempotency-Key header.  Conditions are judged at the write's place in the order,
never here.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from synaptoroute.core.mutation import OP_ID_BYTES, Revision
from synaptoroute.errors import PreconditionFailed
from synaptoroute.router import WriteOptions
from synaptoroute.web.refusals import InvalidParameter

Ack = Literal["accepted", "applied", "quorum", "all"]
ACKS: Final[tuple[Ack, ...]] = get_args(Ack)
ACK_TIMEOUT_SECONDS_DEFAULT: Final = 5.0
ACK_TIMEOUT_SECONDS_MAX: Final = 60.0

IDEMPOTENCY_KEY_PATTERN: Final = r"^[!-~][ -~]{0,254}$"
_IDEMPOTENCY_KEY = re.compile(IDEMPOTENCY_KEY_PATTERN)
_OUR_TAG = re.compile(r'"(\d{1,18})\.(\d{1,18})"')
_ENTITY_TAG = re.compile(r'(?:W/)?"[!#-~\x80-\xff]*"')


def etag(revision: str) -> str:
    """A revision as an entity tag."""
    return f'"{revision}"'


def parse_if_match(value: str | None) -> Revision | None:
    """Read ``If-Match``; None for no header or ``*``, which every such write implies.

    Raises:
        PreconditionFailed: An entity tag that no route of this project ever had.
        InvalidParameter: Not one strong entity tag.
    """
    if value is None or value.strip() == "*":
        return None
    found = _OUR_TAG.fullmatch(value.strip())
    if found:
        return Revision(int(found[1]), int(found[2]))
    if _ENTITY_TAG.fullmatch(value.strip()):
        raise PreconditionFailed("If-Match names a revision that the route never had")
    raise InvalidParameter('If-Match must be one entity tag, such as "1.42" with its quotes')


def parse_if_none_match(value: str | None) -> bool:
    """Read ``If-None-Match`` of a write: only ``*``, "the route must not exist".

    Raises:
        InvalidParameter: Anything else.
    """
    if value is None:
        return False
    if value.strip() != "*":
        raise InvalidParameter("If-None-Match of a write must be *")
    return True


def is_unchanged(value: str | None, revision: str) -> bool:
    """Whether ``If-None-Match`` of a read names the current revision (a 304)."""
    if value is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in value.split(",")]
    return "*" in tags or etag(revision) in tags


def parse_op_id(value: str | None, namespace: str) -> bytes | None:
    """Turn ``Idempotency-Key`` into the identity of the write.

    Raises:
        InvalidParameter: Not 1 to 255 printable ASCII characters.
    """
    if value is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(value):
        raise InvalidParameter("Idempotency-Key must be 1 to 255 printable ASCII characters")
    try:
        return uuid.UUID(value).bytes
    except ValueError:
        pass
    named = f"{namespace}\n{value}".encode()
    return hashlib.blake2b(named, digest_size=OP_ID_BYTES).digest()


def request_hash(method: str, path: str, document: Any) -> bytes:
    """Sixteen bytes over what was asked, so that a reused key is noticed."""
    body = json.dumps(document, sort_keys=True, separators=(",", ":"))
    asked = "\n".join((method, path, body))
    return hashlib.blake2b(asked.encode(), digest_size=OP_ID_BYTES).digest()


def parse_guard(
    headers: Mapping[str, str],
    *,
    namespace: str,
    asked: bytes,
    ack: Ack = "applied",
    ack_timeout_seconds: float = ACK_TIMEOUT_SECONDS_DEFAULT,
) -> WriteOptions:
    """Gather a write's identity and conditions from its headers and parameters.

    Raises:
        InvalidParameter, PreconditionFailed: A header that cannot be followed.
    """
    op_id = parse_op_id(headers.get("idempotency-key"), namespace)
    return WriteOptions(
        op_id=op_id,
        request_hash=asked if op_id is not None else b"",
        if_match=parse_if_match(headers.get("if-match")),
        if_none_match=parse_if_none_match(headers.get("if-none-match")),
        ack=ack,
        ack_timeout_seconds=ack_timeout_seconds,
    )


def reached(ack: Ack, asked: Ack) -> bool:
    """Whether the level of durability reached is at least the one asked for."""
    return ACKS.index(ack) >= ACKS.index(asked)
