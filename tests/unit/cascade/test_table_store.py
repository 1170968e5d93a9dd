"""Goal: a node has the tables that calibrations name, and takes none that is another."""

from __future__ import annotations

import numpy as np
import pytest

from synaptoroute.cascade import StaticTable
from synaptoroute.cascade.table_store import NAME_DIGITS, TableStore, state_without_table
from synaptoroute.encoder import Encoder, HashEncoder, open_encoder
from synaptoroute.encoder.table_files import dump_table, parse_table
from synaptoroute.errors import ClusterError
from synaptoroute.router.cascade_duty import _read_table

pytestmark = pytest.mark.unit

ENCODER = "e" * 64


def table(seed: int, fingerprint: str = ENCODER) -> StaticTable:
    rows = np.random.default_rng(seed).integers(-9, 9, (5, 256)).astype(np.int16)
    return StaticTable(fingerprint, rows)


def name_of(found: StaticTable) -> str:
    return found.checksum[:NAME_DIGITS]


def test_named_table_is_found_and_else_the_first() -> None:
    first, second, other = table(1), table(2), table(3, "o" * 64)
    store = TableStore([first, other])
    assert (first, name_of(first)) == store.find(ENCODER, name_of(second))
    store.add(second)
    assert (second, name_of(second)) == store.find(ENCODER, name_of(second))
    assert (first, name_of(first)) == store.find(ENCODER)
    assert store.find("x" * 64) is None
    assert sorted(map(name_of, (first, second, other))) == store.names


class Peer:
    """A follower whose peer answers some bytes, or nothing."""

    def __init__(self, content: bytes | None) -> None:
        self._content = content

    async def read_table(self, _url: str, _fingerprint: str, _name: str) -> bytes:
        if self._content is None:
            raise ClusterError("a peer is gone")
        return self._content


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        dump_table(table(1))[:-1],
        dump_table(table(1))[:-1] + b"x",
        dump_table(table(2)),
        dump_table(table(1, "o" * 64)),
    ],
    ids=["gone", "empty", "short", "damaged", "another", "of another encoder"],
)
async def test_table_of_another_hash_is_not_taken(content: bytes | None) -> None:
    wanted = name_of(table(1))
    assert await _read_table(Peer(content), "", ENCODER, wanted) is None  # type: ignore[arg-type]


async def test_table_of_the_wanted_hash_is_taken() -> None:
    peer = Peer(dump_table(table(1)))
    found = await _read_table(peer, "", ENCODER, name_of(table(1)))  # type: ignore[arg-type]
    assert found is not None
    assert table(1).checksum == found.checksum == parse_table(dump_table(found), ENCODER).checksum


def test_encoder_without_a_table_says_why() -> None:
    """A table can be prepared, or there is nothing to prepare, or nothing to make it from."""
    distillable, fast, hashed = Encoder(probe=False), open_encoder("fast"), HashEncoder(64)
    try:
        assert ("off", "not_prepared") == state_without_table(distillable, "auto")
        assert ("no_table", "not_prepared") == state_without_table(distillable, True)
        assert ("off", "static_encoder") == state_without_table(fast, "auto")
        assert ("off", "static_encoder") == state_without_table(fast, True)
        assert ("no_table", "no_vocabulary") == state_without_table(hashed, True)
    finally:
        distillable.close()
        fast.close()
