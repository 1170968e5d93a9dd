"""Authors are written only where every reader of the log understands them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from synaptoroute.author import AUTHOR
from synaptoroute.core.codec import decode_proposal, describe_frame, encode_proposal
from synaptoroute.core.mutation import DeleteRoute, ImportChunk
from synaptoroute.router.writes import WriteOptions, Writer

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("level", "is_local", "has_log", "author"),
    [
        (1, False, True, ""),
        (1, False, False, ""),
        (1, True, True, ""),
        (1, True, False, "alice"),
        (2, False, True, "alice"),
        (2, True, True, "alice"),
    ],
)
def test_author_waits_for_the_level_of_the_log(
    level: int, is_local: bool, has_log: bool, author: str
) -> None:
    """An earlier release would refuse the entry; a new log of one node is of the newest level."""
    status = SimpleNamespace(level=level, epochs=("one",) if has_log else ())
    engine: Any = SimpleNamespace(replica_status=status)
    log: Any = SimpleNamespace(is_local=is_local)
    token = AUTHOR.set("alice")
    try:
        writer = Writer(engine, log)

        assert author == writer._author_of(DeleteRoute("a"))
        assert writer._author_of(ImportChunk("i", 0, ())) == ""
    finally:
        AUTHOR.reset(token)


def test_frame_with_an_author_is_of_level_two_and_reads_back() -> None:
    bare = encode_proposal(WriteOptions(b"x" * 16).propose(DeleteRoute("a")))
    signed = encode_proposal(WriteOptions(b"x" * 16).propose(DeleteRoute("a"), "alice"))

    assert (1, 2) == (bare[4], signed[4])
    assert decode_proposal(signed).author == "alice"
    assert (DeleteRoute, {"name": "a", "author": "alice"}) == describe_frame(signed)
