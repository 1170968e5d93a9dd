"""The part of a router's face that looks and waits, and changes nothing."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from synaptoroute.core.mutation import Revision
from synaptoroute.errors import NotCaughtUp
from synaptoroute.models import RouteSetSettings, StoredRoute, WriteResult
from synaptoroute.replication.follower import Follower
from synaptoroute.router import reads
from synaptoroute.router.diagnostics import Surveys
from synaptoroute.router.results import RoutePage, result_of
from synaptoroute.router.writes import Writer
from synaptoroute.serving.query import QueryEngine


class Looks(ABC):
    """What a router tells of itself.

    Attributes:
        follower: How it follows the log of a cluster; None for a router on its own.
    """

    follower: Follower | None

    @property
    @abstractmethod
    def _engine(self) -> QueryEngine:
        """The engine that is looked at."""

    @property
    @abstractmethod
    def _writer(self) -> Writer:
        """Who knows what came of a write."""

    # --- versions ------------------------------------------------------------------

    async def await_version(self, version: Revision, timeout_seconds: float = 2.0) -> None:
        """Wait until a version is visible here, to read one's own write elsewhere.

        Raises:
            NotCaughtUp: It is not, in time.
            VersionLost: It belongs to a write that a later epoch left behind.
        """
        if self.follower is not None:
            await self.follower.wait_version(version, timeout_seconds)
        elif version > self._engine.published.position.revision:
            raise NotCaughtUp(f"this node stands at {self._engine.published.position.revision}")

    async def await_head(self, timeout_seconds: float = 2.0) -> None:
        """Wait until everything is visible that the log holds now.

        Raises:
            SequencerUnavailable: The log does not answer.
            NotCaughtUp: Not in time.
        """
        if self.follower is not None:
            await self.follower.wait_head(timeout_seconds)

    # --- looking -------------------------------------------------------------------

    async def aget_route(self, name: str) -> StoredRoute:
        """Show one route.

        Raises:
            RouteNotFound: No route has this name.
        """
        return await reads.get_route(self._engine, name)

    async def alist_routes(self, *, after: str = "", limit: int = 100) -> RoutePage:
        """Show up to ``limit`` routes whose names follow ``after``, in order of name."""
        return await reads.list_routes(self._engine, after, limit)

    async def aget_settings(self) -> RouteSetSettings:
        """Show the settings of the route set."""
        return await reads.get_settings(self._engine)

    async def aoutcome(self, op_id: bytes) -> WriteResult | None:
        """Find what came of a write, inside the idempotency window.

        Raises:
            RouteError: It was rejected.
        """
        outcome = await asyncio.wrap_future(self._engine.look_up(op_id))
        return None if outcome is None else result_of(outcome, op_id)

    async def achecksum(self) -> dict[str, str]:
        """Show by what two nodes compare: version, digest and the tensor's SHA-256."""
        return await reads.checksum(self._engine)

    @property
    def visible(self) -> object:
        """What stands for the state that queries see: another object after every change."""
        return self._engine.published

    @property
    def visible_version(self) -> str:
        """Version of that state, ``epoch.seq``."""
        return str(self._engine.published.position.revision)

    def check_queue(self, deadline_ms: int) -> None:
        """Refuse a query that nobody has looked at, where what waits already takes too long.

        Raises:
            Overloaded: Whatever is asked would be refused.
            NotReady: The router is not open.
        """
        engine = self._engine
        if engine.is_started:
            engine.check_queue((None,), False, deadline_ms / 1_000)

    @property
    def surveys(self) -> Surveys:
        """What operators ask beside queries and routes."""
        return Surveys(self._engine, self._writer, self.follower)

    def propagation(self) -> list[tuple[int, float]]:
        """Pairs of seq and milliseconds from the log to visible here, newest last."""
        offset_ms = self.follower.clock_lead_ms if self.follower else 0.0
        delays = self._engine.delays
        return [(seq, round(delay_us / 1_000 - offset_ms, 3)) for seq, delay_us in delays]
