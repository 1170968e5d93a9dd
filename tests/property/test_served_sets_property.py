"""What a node serves of each route set follows from that set alone, after any log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings

from replicas import EMPTY, fresh, log_of
from route_sets import keep_rows, rebuilt, unit_rows
from set_logs import busy_set_logs
from strategies import DIM
from synaptoroute.core.change import Commit
from synaptoroute.core.mutation import Position, Proposal
from synaptoroute.core.replica import Replica
from synaptoroute.encoder import HashEncoder
from synaptoroute.engine.tensors import other_switched_tensors, switched_tensor
from synaptoroute.models import Match
from synaptoroute.scoring import Scratch
from synaptoroute.serving.preparation import TextPreparation
from synaptoroute.serving.query import Query
from synaptoroute.serving.queue import QueryQueue
from synaptoroute.serving.scorer import Scorer
from synaptoroute.serving.served_set import Asked, ServedSet
from synaptoroute.tensor import Tensor

pytestmark = pytest.mark.property

TEXTS = ("where is my bill", "Where is my bill ", "keine Rechnung", "not this", "nothing known")
VECTORS = unit_rows(len(TEXTS), DIM, 5)


@dataclass
class Follower:
    """A replica, the scorer that follows it, and the rows of each set in a dictionary."""

    replica: Replica = field(default_factory=fresh)
    rows: dict[int, dict[int, bytes]] = field(default_factory=lambda: {0: {}})

    def __post_init__(self) -> None:
        self.encoder = HashEncoder(8)
        self.encoder.dim = DIM  # it only tokenizes here; the log brings the vectors
        queue = QueryQueue(workers=1, queue_requests_max=8, write_texts_max=8)
        tensor = Tensor(DIM, EMPTY.settings)
        self.scorer = Scorer(tensor, self.encoder, queue, Position(), "0" * 32)

    def follow(self, commit: Commit) -> None:
        for part in commit.change.parts():
            if part.is_set_removed:
                del self.rows[part.set_number]
                continue
            if part.forked_from is not None:
                self.rows[part.set_number] = dict(self.rows[part.forked_from])
            keep_rows(self.rows.setdefault(part.set_number, {}), part)
        if commit.change.encoder is None:
            self.scorer.publish([commit])
            self.scorer.drain()
            return
        sets = self.replica.sets
        tensor = switched_tensor(commit, sets.default)
        others = [
            self.scorer.sets.make(*each, self.encoder)
            for each in other_switched_tensors(commit, sets)
        ]
        self.scorer.sets.replace(others, sets.aliases.values(), sets.records.get(0))
        preparation = TextPreparation(tensor, self.encoder)
        position = commit.entry.position
        self.scorer.adopt(tensor, position, commit.digest, self.encoder, preparation)


def served_after(log: list[Proposal]) -> Iterator[Follower]:
    """The follower after each entry of a log."""
    follower = Follower()
    for entry in log_of(log):
        for commit in follower.replica.receive(entry).commits:
            follower.replica.advance()
            follower.follow(commit)
            yield follower


def answers_of(served: ServedSet, version: str) -> list[str]:
    """Answers to some texts, as the bytes of their bodies."""
    queries = [Query(text, 3, None, True) for text in TEXTS]
    tokens = served.encoder.tokenize(TEXTS)
    asked = Asked(queries, VECTORS, tokens, version, "node")
    found = [match for _, match in served.score(asked, Scratch(), is_counted=False)]
    return [match.model_dump_json() for match in found if isinstance(match, Match)]


def assert_as_alone(follower: Follower, numbers: Mapping[str, int]) -> None:
    """Each set has the tensor, and gives the answers, of a node that has nothing else."""
    sets, at = follower.replica.sets, follower.replica.position.revision
    for name, number in numbers.items():
        served = follower.scorer.sets.by_name[name]
        table = sets.tables[number]
        record = sets.records.get(number)
        assert (number, record and record.revision) == (served.number, served.revision)
        alone = rebuilt(table, follower.rows[number], DIM, at)
        assert alone.checksum() == served.tensor.checksum()
        assert dict(alone.routes) == dict(served.tensor.routes)
        other = ServedSet(alone, follower.encoder)
        assert answers_of(other, "1.1") == answers_of(served, "1.1")


@settings(max_examples=60, deadline=None)
@given(busy_set_logs())
def test_each_set_is_served_as_if_it_were_alone(log: list[Proposal]) -> None:
    follower = None
    for step, follower in enumerate(served_after(log)):
        sets = follower.replica.sets
        assert sets.numbers == {
            name: served.number for name, served in follower.scorer.sets.by_name.items()
        }
        assert sets.aliases == follower.scorer.sets.aliases
        if step % 5 == 0:
            assert_as_alone(follower, sets.numbers)
    assert follower is not None
    assert_as_alone(follower, follower.replica.sets.numbers)
