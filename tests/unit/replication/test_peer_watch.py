"""Goal: what a round of questions to the peers proves.  Method: answers without a network."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fleet_views import seen
from synaptoroute.core.mutation import Ballot, Position
from synaptoroute.replication.peer_watch import PEERS_KEY, PeerDirectory, PeerWatch, Round
from synaptoroute.replication.readiness import PeersSay
from synaptoroute.sequencer.peers import PeerHead

pytestmark = pytest.mark.unit
OWN = "a"


class Session:
    """The part of a session that these rules read."""

    def __init__(self, peer_urls: str = "", kept: str = "") -> None:
        self.node_id = OWN
        self.config = SimpleNamespace(peer_urls=peer_urls)
        self.facts = {PEERS_KEY: kept} if kept else {}
        self.engine = SimpleNamespace(
            replica_status=SimpleNamespace(voters=("a", "b", "c")),
            database=SimpleNamespace(meta_get=self.facts.get),
        )

    async def on_applier(self, task: Any) -> None:
        """Run a task with a storage that keeps facts."""
        task(SimpleNamespace(storage=SimpleNamespace(meta_set=self.facts.__setitem__)))


def directory(session: Session) -> PeerDirectory:
    """The addresses that a session knows."""
    return PeerDirectory(cast("Any", session))


def judged(heads: str, down: str = "", silent: str = "", voters: str = "abc") -> PeersSay:
    """What a round says in which nobody is ahead."""
    watch = PeerWatch(cast("Any", Session()), cast("Any", None), directory(Session()))
    answers = {node: PeerHead(node, "", Position(), Ballot(), "") for node in heads}
    return watch._judge(Round(answers, frozenset(down), frozenset(silent)), tuple(voters))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (judged("b", silent="c"), PeersSay.CURRENT),
        (judged("b", down="c"), PeersSay.CURRENT),
        (judged("", silent="bc"), PeersSay.SILENT),
        (judged("", down="b", silent="c"), PeersSay.SILENT),
        (judged("", down="bc"), PeersSay.NONE),
        (judged(""), PeersSay.NONE),
        (judged("d", down="bc"), PeersSay.CURRENT),
        (judged("d", silent="bc"), PeersSay.SILENT),
        (judged("", voters="a"), PeersSay.CURRENT),
        (judged("", down="b", voters="a"), PeersSay.CURRENT),
        (judged("", silent="b", voters="a"), PeersSay.SILENT),
        (judged("b", voters="a"), PeersSay.CURRENT),
        (judged("b", silent="cd", voters="bcd"), PeersSay.SILENT),
    ],
)
def test_majority_or_everybody_who_runs_confirms(said: PeersSay, expected: PeersSay) -> None:
    """Silence is no evidence, except that nothing listens where a peer was."""
    assert expected is said


async def test_addresses_are_kept_voters_first() -> None:
    """Those of the node itself and of nodes that serve no peers are not."""
    session = Session()
    known = directory(session)
    await known.learn([seen("x"), seen("c", age_ms=9_000), seen("b"), seen("a"), seen("y", url="")])
    again = directory(Session(kept=session.facts[PEERS_KEY]))
    again.load()

    assert {"b", "c", "x"} == set(known.urls)
    assert dict(known.urls) == dict(again.urls)
    assert {node: f"http://{node}" for node in "bcx"} == dict(json.loads(session.facts[PEERS_KEY]))


async def test_empty_list_does_not_replace_a_known_one() -> None:
    """A Redis that was emptied knows nobody; the peers are where they were."""
    session = Session()
    known = directory(session)
    await known.learn([seen("b")])
    await known.learn([])

    assert {"b": "http://b"} == dict(known.urls)


async def test_seeds_stand_under_their_address_until_they_are_known() -> None:
    """A seed that is also learned is asked once."""
    session = Session(peer_urls="http://b, http://z")
    known = directory(session)
    assert 2 == len(known)
    await known.learn([seen("b")])

    assert {"b": "http://b", "http://z": "http://z"} == dict(known.urls)
    assert 2 == len(known)


@pytest.mark.parametrize("kept", ["", "nonsense", "{", "[1]", '{"a": 1}'])
def test_unreadable_list_is_no_list(kept: str) -> None:
    """It is only a hint where to ask."""
    known = directory(Session(kept=kept))
    known.load()

    assert {} == dict(known.urls)
