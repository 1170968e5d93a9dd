"""Reads that must not be older than what the client knows.

``SR-Min-Version`` names a version that the client has seen, usually that of its own
write; the node answers when it has come so far.  ``consistency=head`` asks the log
for its newest entry first.  Either way the answer says what it is: ``SR-Version``.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from fastapi import Header, Query
from starlette.requests import Request

from synaptoroute.core.mutation import Revision
from synaptoroute.server.responses import runtime_of
from synaptoroute.web.refusals import InvalidParameter

TIMEOUT_SECONDS_DEFAULT: Final = 2.0
TIMEOUT_SECONDS_MAX: Final = 30.0
VERSION_PATTERN: Final = r"^[0-9]{1,16}\.[0-9]{1,16}$"
_VERSION = re.compile(VERSION_PATTERN)
_READING: Final = frozenset({"/v1/query", "/v1/query/batch"})

MinVersion = Annotated[
    str | None,
    Header(
        alias="SR-Min-Version",
        description="Answer at this version or a later one; 503 `not_caught_up` if this node "
        "does not come so far in time.",
        json_schema_extra={"pattern": VERSION_PATTERN},
        examples=["1.42"],
    ),
]
MinVersionTimeout = Annotated[
    float,
    Header(
        alias="SR-Min-Version-Timeout",
        description="Seconds to wait for that version.",
        gt=0,
        le=TIMEOUT_SECONDS_MAX,
        allow_inf_nan=False,
    ),
]
Consistency = Annotated[
    Literal["local", "head"],
    Query(description="`head` asks the log for its newest entry first and waits for it."),
]


async def keep_pace(
    request: Request,
    min_version: MinVersion = None,
    timeout_seconds: MinVersionTimeout = TIMEOUT_SECONDS_DEFAULT,
    consistency: Consistency = "local",
) -> None:
    """Wait until this node is as new as a read asks; a dependency of endpoints that read.

    Raises:
        InvalidParameter: The version is malformed.
        NotCaughtUp: Not in time.
        VersionLost: A later epoch left the version behind.
        SequencerUnavailable: The log does not answer.
    """
    if request.method not in ("GET", "HEAD") and request.url.path not in _READING:
        return
    if min_version is not None:
        if not _VERSION.fullmatch(min_version):
            raise InvalidParameter("SR-Min-Version must be epoch.seq, such as 1.42")
        epoch, _, seq = min_version.partition(".")
        version = Revision(int(epoch), int(seq))
        await runtime_of(request).router.await_version(version, timeout_seconds)
    if consistency == "head":
        await runtime_of(request).router.await_head(timeout_seconds)
