"""An engine with several route sets, written to and asked through its port."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synaptoroute.config import EngineConfig
from synaptoroute.core.change import Outcome
from synaptoroute.core.mutation import (
    ForkSet,
    Mutation,
    Proposal,
    PutAlias,
    PutRoute,
    PutSet,
    PutSettings,
    Settings,
)
from synaptoroute.encoder import HashEncoder, TextEncoder
from synaptoroute.engine import Engine
from synaptoroute.models import Match
from synaptoroute.serving.query import Query
from synaptoroute.storage import SQLiteStorage

PLAIN = Settings(aggregation="blend", threshold=0.7)
WAIT_SECONDS = 20.0


class SetNode:
    """A node that is its own log."""

    def __init__(
        self, path: Path | None = None, encoder: TextEncoder | None = None, **settings: object
    ) -> None:
        self.encoder = encoder or HashEncoder()
        storage = SQLiteStorage(path) if path is not None else SQLiteStorage(":memory:")
        config = EngineConfig.model_validate({"lanes": 2, **settings})
        self.engine = Engine(self.encoder, storage, config)

    def write(self, mutation: Mutation, route_set: str = "") -> Outcome:
        """Apply a mutation and return its outcome once queries see it."""
        op_id = os.urandom(16)
        future = self.engine.expect_outcome(op_id)
        self.engine.propose([Proposal(op_id, mutation, route_set=route_set)])
        return future.result(WAIT_SECONDS)

    def apply(self, mutation: Mutation, route_set: str = "") -> None:
        outcome = self.write(mutation, route_set)
        assert outcome.status == "applied", outcome

    def put_set(self, name: str, settings: Settings = PLAIN) -> None:
        """Create a set with settings that need no fit."""
        self.apply(PutSet(name))
        self.apply(PutSettings(settings), name)

    def put(self, name: str, *utterances: str, route_set: str = "") -> None:
        vectors = self.encoder.encode_utterances(utterances)
        rows = tuple(vector.astype("<f4").tobytes() for vector in vectors)
        self.apply(PutRoute(name, utterances, rows), route_set)

    def fork(self, name: str, into: str) -> None:
        self.apply(ForkSet(name, into))

    def alias(self, name: str, target: str, **sides: Any) -> None:
        self.apply(PutAlias(name, target, **sides))

    async def submit(self, text: str, route_set: str = "", **options: Any) -> Match:
        """Ask a started node."""
        loop = asyncio.get_running_loop()
        explain = options.pop("explain", False)
        query = Query(text, 1, None, explain, route_set=route_set, **options)
        query.loop, query.future = loop, loop.create_future()
        self.engine.submit(query)
        return await asyncio.wait_for(query.future, WAIT_SECONDS)

    def ask(self, *texts: str, route_set: str = "", **options: Any) -> list[Match]:
        """Ask a started node from a thread without an event loop."""

        async def all_of_them() -> Sequence[Match]:
            return await asyncio.gather(
                *(self.submit(text, route_set, **options) for text in texts)
            )

        return list(asyncio.run(all_of_them()))

    def checksums(self) -> dict[str, str]:
        """Of the tensor of every set."""
        return {
            name: self.engine.read(lambda tensor: tensor.checksum(), name).result(WAIT_SECONDS)
            for name in self.engine.set_names
        }
