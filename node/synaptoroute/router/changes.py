"""Changes that are measured first, promoted, reverted, or erased, as one router offers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from synaptoroute.change_models import HistoryPage
from synaptoroute.config import EngineConfig
from synaptoroute.core.mutation import DEFAULT_SET
from synaptoroute.log import Log
from synaptoroute.router.erasure import Eraser
from synaptoroute.router.history import HistoryQuery, read_history
from synaptoroute.router.promotion import Promotions
from synaptoroute.router.reverts import Reverter, SetWriters
from synaptoroute.router.set_tests import SetTests
from synaptoroute.router.writes import Writer
from synaptoroute.serving.query import QueryEngine


@dataclass(frozen=True, slots=True)
class Changes:
    """Tests, promotions, reverts and erasures.

    Attributes:
        engine: The engine, of all sets.
        writer: Writes into the set that the router is bound to.
        writers_of: Finds what writes into another set.
        route_set: That set.
    """

    engine: QueryEngine
    writer: Writer
    log: Log
    config: EngineConfig
    writers_of: Callable[[str], SetWriters]
    route_set: str = DEFAULT_SET

    async def history(self, query: HistoryQuery) -> HistoryPage:
        """Show who changed what, newest first, as far as this node keeps entries."""
        return await read_history(self.engine.database, query)

    @property
    def tests(self) -> SetTests:
        """The tests of the route set."""
        return SetTests(self.engine, self.writer, self.config, self.route_set)

    @property
    def promotions(self) -> Promotions:
        """Comparisons of route sets, and changes of aliases that depend on them."""
        return Promotions(self.engine, self.writer, self.config)

    @property
    def reverter(self) -> Reverter:
        """Reverts changes of the history."""
        return Reverter(self.engine, self.writer, self.writers_of)

    @property
    def eraser(self) -> Eraser:
        """Erases texts from every route set, and from the logs."""
        return Eraser(self.engine, self.writer, self.log)
