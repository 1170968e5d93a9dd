"""Goal: the follower's rules that need no server.  Method: real engines, no log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from synaptoroute.config import ClusterConfig
from synaptoroute.core.change import EpochRecord
from synaptoroute.core.mutation import Ballot, OpenEpoch, Position
from synaptoroute.core.recovery import _is_beyond
from synaptoroute.core.replica import State
from synaptoroute.errors import ConfigError, NotReady
from synaptoroute.ports import ReplicaStatus
from synaptoroute.replication.log_bootstrap import LogBootstrap
from synaptoroute.replication.session import CLUSTER_ID_KEY, EXPLANATIONS, LogState
from synaptoroute.replication.snapshots import PeerSecret

pytestmark = pytest.mark.unit
AT = Position(3, 10, "a" * 40)


def head(epoch: int, seq: int, chain: str = "a" * 40, **more: Any) -> Any:
    """The part of a head that these rules read."""
    return SimpleNamespace(
        epoch=epoch, seq=seq, chain=chain, cluster_id="ours", epoch_id="ballot", **more
    )


def session(
    *, cluster_id: str | None = None, epoch_id: str = "ballot", secret: Path | None = None
) -> Any:
    """The part of a session that these rules read."""
    opened = OpenEpoch(epoch_id, 0, ("n",), "f", 4)
    return SimpleNamespace(
        config=ClusterConfig(peer_secret_file=secret),
        head=None,
        engine=SimpleNamespace(
            database=SimpleNamespace(meta_get={CLUSTER_ID_KEY: cluster_id}.get),
            replica_status=ReplicaStatus(State.LIVE, Ballot(), (EpochRecord(3, opened),)),
        ),
    )


@pytest.mark.parametrize(
    ("there", "is_beyond"),
    [
        (head(3, 10), False),
        (head(3, 11, "b" * 40), False),
        (head(3, 9), True),
        (head(3, 10, "b" * 40), True),
    ],
)
def test_position_beyond_the_log_proves_a_loss(there: Any, is_beyond: bool) -> None:
    """A node with more entries than the log, or another last entry, is beyond it."""
    assert is_beyond is _is_beyond(AT, Position(there.epoch, there.seq, there.chain))


@pytest.mark.parametrize(
    ("node", "at", "is_foreign"),
    [
        (session(cluster_id="ours"), AT, False),
        (session(cluster_id="theirs"), AT, True),
        (session(cluster_id=None), AT, False),
        (session(cluster_id=None, epoch_id="another ballot"), AT, True),
        (session(cluster_id="theirs"), Position(), False),
    ],
)
def test_log_of_another_cluster_is_told_by_its_identity(
    node: Any, at: Position, is_foreign: bool
) -> None:
    """Positions alone cannot tell; an empty node may join any log."""
    assert is_foreign is LogBootstrap(node, *[cast("Any", None)] * 3)._is_foreign(head(3, 50), at)


async def test_secret_of_the_peers_is_read_and_checked(tmp_path: Path) -> None:
    """A short secret would be guessed, and an empty one ignored: both are refused."""
    good, short = tmp_path / "good", tmp_path / "short"
    good.write_text("s" * 40 + "\n")
    short.write_text("\n")
    secret = PeerSecret(session(secret=good))
    await asyncio.to_thread(secret.load)

    assert b"s" * 40 == secret()
    for bad in (short, tmp_path / "absent"):
        with pytest.raises(ConfigError):
            await asyncio.to_thread(PeerSecret(session(secret=bad)).load)


def test_secret_without_a_file_follows_from_the_cluster() -> None:
    """Nodes of one cluster derive the same secret; without a cluster there is none."""
    assert PeerSecret(session(cluster_id="ours"))() == PeerSecret(session(cluster_id="ours"))()
    assert PeerSecret(session(cluster_id="ours"))() != PeerSecret(session(cluster_id="theirs"))()
    with pytest.raises(NotReady):
        PeerSecret(session())()


def test_every_log_state_has_an_explanation() -> None:
    """Every state but OPEN has a text for people."""
    assert set(LogState) == set(EXPLANATIONS)
    assert [LogState.OPEN] == [state for state, words in EXPLANATIONS.items() if not words]
