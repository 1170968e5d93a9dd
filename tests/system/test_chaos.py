"""Goal: whatever befalls Redis and nodes, nothing acknowledged is lost and no query fails.

Method: real processes under faults of each kind, judged by the checks of the simulation.
``make chaos MINUTES=30`` draws the faults for as long as one likes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.run import rage
from synaptoroute.config import DEFAULT_MODEL

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(240)]
REDIS = (("kill", "node killed"), ("wipe",), ("lossy promotion",), ("split brain",))
REAL = (("wipe", "node killed"), ("lossy promotion",))
VALKEY = (("flush",), ("old dump",), ("out of memory", "disk full"), ("database corrupt",))


@pytest.mark.parametrize(("kind", "faults"), [("redis", REDIS), ("valkey", VALKEY)])
def test_cluster_survives_faults(
    tmp_path: Path, kind: str, faults: tuple[tuple[str, ...], ...]
) -> None:
    """After each fault: one history, one state, every quorum write there, no failed query."""
    outcome = rage(tmp_path, kind, seed=1, seconds=0, chosen=faults)

    assert [] == outcome.found
    assert len(faults) == outcome.figures["checkpoints"]
    assert outcome.figures["writes held by a quorum"] > 0
    assert outcome.figures["reads of the newest state"] > 0


def test_adversary_with_the_rights_of_redis_changes_nothing(tmp_path: Path) -> None:
    """Nothing forged is applied, no secret is sent, no query fails, and writes return."""
    attacks = (("adversary",), ("adversary", "node killed"), ("adversary",))
    outcome = rage(tmp_path, "redis", seed=1, seconds=0, chosen=attacks, is_attacked=True)

    assert [] == outcome.found
    assert outcome.figures["attacks"] > 0
    assert outcome.figures["writes held by a quorum"] > 0


def test_lying_peer_gives_no_row_and_gets_no_secret(tmp_path: Path) -> None:
    """It answers at the address of a voter that is down, while a node has to catch up."""
    attacks = (("lying peer",), ("two orders",), ("lying peer",))
    outcome = rage(tmp_path, "redis", seed=2, seconds=0, chosen=attacks, is_attacked=True)

    assert [] == outcome.found
    assert outcome.figures["requests of peers to the lying peer"] > 0
    assert outcome.figures["answers of the coordinator"] > 0
    assert outcome.figures["writes held by a quorum"] > 0


@pytest.mark.accept
@pytest.mark.timeout(480)
def test_cluster_with_the_real_encoder_survives_faults(tmp_path: Path) -> None:
    """The bundled model instead of the cheap one: the same promises, and the same bits."""
    outcome = rage(tmp_path, "redis", seed=1, seconds=0, chosen=REAL, model=DEFAULT_MODEL)

    assert [] == outcome.found
    assert len(REAL) == outcome.figures["checkpoints"]
    assert outcome.figures["writes held by a quorum"] > 0
