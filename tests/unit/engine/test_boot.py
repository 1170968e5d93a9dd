"""A boot takes over what the last run derived."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from histories import put
from set_nodes import WAIT_SECONDS, SetNode
from synaptoroute.config import EngineConfig
from synaptoroute.core.mutation import Proposal
from synaptoroute.encoder import HashEncoder
from synaptoroute.engine import Engine
from synaptoroute.engine.engine import derived_of
from synaptoroute.storage import SQLiteStorage, Stored

pytestmark = pytest.mark.unit

DIM = 16


class Watched(SQLiteStorage):
    """A storage that remembers what it read when it was opened."""

    found: Stored

    def open(self, **encoder) -> Stored:  # type: ignore[no-untyped-def, override]
        self.found = super().open(**encoder)
        return self.found


def engine_of(path: Path) -> Engine:
    return Engine(HashEncoder(dim=DIM), Watched(path), EngineConfig(lanes=1))


def fill(engine: Engine) -> None:
    mutations = [put(f"r{seed}", 4, seed, DIM) for seed in range(5)]
    engine.propose([Proposal(os.urandom(16), mutation) for mutation in mutations])


@pytest.mark.parametrize("is_running", [False, True])
def test_boot_reuses_the_centroids_of_the_checkpoint(tmp_path: Path, is_running: bool) -> None:
    """With or without threads, the checkpoint asks the owner of the tensor."""
    engine = engine_of(tmp_path / "node.sqlite")
    fill(engine)
    if is_running:
        engine.start()
    engine.storage.checkpoint()
    engine.stop()
    served = engine.scorer.tensor.checksum()
    again = engine_of(tmp_path / "node.sqlite")
    found = again.storage.found
    again.stop()

    assert found.is_from_checkpoint
    assert 5 * (4 * DIM + 8) == len(found.derived)
    assert served == again.scorer.tensor.checksum()


def test_nothing_is_derived_at_another_position(tmp_path: Path) -> None:
    """The database may be ahead of the tensor, or hold other rows at its position."""
    engine = engine_of(tmp_path / "node.sqlite")
    fill(engine)
    published = engine.published
    before = type(published.position)()
    given = [
        derived_of(engine.scorer, published.position, published.digest),
        derived_of(engine.scorer, before, published.digest),
        derived_of(engine.scorer, published.position, "0" * 32),
    ]
    engine.stop()

    assert [True, False, False] == [bool(each) for each in given]


def test_deferred_sums_are_computed_while_the_node_is_idle(tmp_path: Path) -> None:
    """The scorer does it by itself; no query has to come."""
    engine = engine_of(tmp_path / "node.sqlite")
    fill(engine)
    engine.storage.checkpoint()
    engine.stop()
    again = engine_of(tmp_path / "node.sqlite")
    again.start()
    while again.read(lambda tensor: tensor._centroids.has_deferred_sums).result():
        time.sleep(0.001)
    again.stop()

    assert engine.scorer.tensor.checksum() == again.scorer.tensor.checksum()
    assert not again.scorer.tensor.is_behind


def test_snapshot_replaces_all_route_sets_and_aliases(tmp_path: Path) -> None:
    """Sets that the peer does not have go, those of equal names go on counting."""
    peer = SetNode(tmp_path / "peer.sqlite")
    peer.put("here", "a text of default")
    for name in ("same", "new"):
        peer.put_set(name)
        peer.put(f"of_{name}", "some text", route_set=name)
    peer.alias("live", "new")
    peer.engine.storage.snapshot_to(tmp_path / "snapshot")
    expected = peer.checksums()
    peer.engine.stop()
    node = SetNode(tmp_path / "node.sqlite", unmatched_kept=5)
    node.engine.start()
    for name in ("old", "same"):
        node.put_set(name)
        node.put("before", "an earlier text", route_set=name)
    node.alias("former", "old")
    node.ask("unknown words", route_set="same")
    node.engine.install_snapshot(tmp_path / "snapshot").result(WAIT_SECONDS)
    asked = [("a text of default", ""), ("some text", "same"), ("some text", "live")]
    answers = [node.ask(text, route_set=name)[0] for text, name in asked]
    names, aliases, sums = set(node.engine.set_names), set(node.engine.aliases), node.checksums()
    kept = [each.text for each in node.engine.unmatched_of("same").newest]
    node.engine.stop()

    assert ["here", "of_same", "of_new"] == [match.route for match in answers]
    assert [None, "same", "new"] == [match.route_set for match in answers]
    assert ({"default", "same", "new"}, {"live"}) == (names, aliases)
    assert expected == sums
    assert ["unknown words"] == kept
