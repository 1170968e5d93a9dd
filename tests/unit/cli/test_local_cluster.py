"""``synaptoroute up``: the files by which its nodes know each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from synaptoroute.cli.local_cluster import LocalCluster
from synaptoroute.trust.genesis import read_genesis
from synaptoroute.trust.identity import NodeIdentity

pytestmark = pytest.mark.unit


def _cluster(folder: Path, redis_url: str | None = None) -> LocalCluster:
    cluster = LocalCluster(3, folder, 0, redis_url=redis_url)
    cluster._make_genesis()
    return cluster


def test_voters_of_a_new_cluster_are_pinned(tmp_path: Path) -> None:
    """By the keys that the nodes use, and once only."""
    settings = _cluster(tmp_path)._trust_settings()
    keys = read_genesis(Path(settings["genesis_file"]), "local")

    assert keys == {
        f"node-{n}": NodeIdentity.load(tmp_path / f"node-{n}.key").public_key for n in range(3)
    }
    _cluster(tmp_path)
    assert keys == read_genesis(Path(settings["genesis_file"]), "local")
    assert (tmp_path / "genesis.json").stat().st_mode & 0o077 == 0


def test_cluster_that_others_may_have_founded_is_not_pinned(tmp_path: Path) -> None:
    """Neither on a server of the operator, nor one of a release before."""
    assert "genesis_file" not in _cluster(tmp_path, "redis://127.0.0.1:1")._trust_settings()
    (tmp_path / "node-0.sqlite").touch()
    assert "genesis_file" not in _cluster(tmp_path)._trust_settings()
