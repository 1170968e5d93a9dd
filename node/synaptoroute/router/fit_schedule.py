"""Which route set is fitted next: one fit at a time on a node, the most changed set first.

A set is looked at only after a change in it, so sets that nobody changes cost nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from synaptoroute.core.mutation import DEFAULT_SET, Position, Revision
from synaptoroute.errors import SetNotFound, SynaptoRouteError
from synaptoroute.router.decision_fits import (
    POLL_SECONDS,
    REFIT_SECONDS_MIN,
    RETRY_SECONDS,
    SETTLE_SECONDS,
    DecisionFitter,
)
from synaptoroute.serving.query import QueryEngine

_NEVER: Final = Revision(-1, 0)
_log = logging.getLogger(__name__)


class FitSchedule:
    """The fits of all route sets of one router.  Used on the event loop."""

    def __init__(
        self,
        engine: Callable[[], QueryEngine],
        make: Callable[[str], DecisionFitter],
        *,
        is_on: bool = True,
    ) -> None:
        """Prepare; ``start`` begins to look.

        Args:
            engine: Returns the engine.
            make: Makes what fits one set, by its name; empty for ``default``.
            is_on: Whether sets are fitted by themselves.
        """
        self._engine, self._make, self._is_on = engine, make, is_on
        self._fitters: dict[str, DecisionFitter] = {}
        self._looked_at: Position | None = None
        self._revisions: dict[str, Revision] = {}  # Of each set when it was looked at
        self._due: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def fitter_of(self, name: str) -> DecisionFitter:
        """The fitter of one set; empty for ``default``."""
        found = self._fitters.get(name)
        if found is None:
            found = self._make(name)
            if not name or name in self._engine().set_names:  # else it would never be dropped
                self._fitters[name] = found
        return found

    def start(self, spread_seconds: float = 0.0) -> None:
        """Begin to look, unless it is off; a member of a cluster spreads its fits."""
        if self._is_on and self._task is None:
            self._task = asyncio.create_task(self._run(spread_seconds), name="decision-fits")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.close()

    def close(self) -> None:
        """End the threads of the fits; a fit that runs is finished and not written."""
        for fitter in self._fitters.values():
            fitter.close()

    async def _run(self, spread_seconds: float) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                fitter = await self.next_due()
                if fitter is None:
                    continue
                await asyncio.sleep(SETTLE_SECONDS + spread_seconds * random.random())
                if (await fitter.look()).is_due:  # else another node was faster
                    await fitter.fit_now(is_forced=False)
                    fitter.close()
            except SynaptoRouteError as error:  # no log, no room, stopping: tried again later
                _log.debug("the confidence could not be fitted: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # a bug: answers go on with the numbers that they have
                _log.exception("the fit of the confidence failed: %s", error)
                await asyncio.sleep(REFIT_SECONDS_MIN)

    async def next_due(self) -> DecisionFitter | None:
        """The fitter of the most changed set among those that are due now; None for none."""
        await self._look()
        ready = [self.fitter_of(name) for name in self._due]
        ready = [each for each in ready if each.outlook.is_due and not each.is_waiting]
        return max(ready, key=lambda each: each.outlook.changed_share, default=None)

    async def _look(self) -> None:
        """Look at the sets that changed since."""
        engine = self._engine()
        position = engine.published.position
        if position != self._looked_at:
            names = engine.set_names
            for name in self._fitters.keys() - names - {""}:
                self._fitters.pop(name).close()
                self._revisions.pop(name, None)
            self._due &= {"", *names}
            for each in names:
                record = engine.set_record(each)
                revision = position.revision if record is None else record.revision
                if self._revisions.get(each, _NEVER) != revision:
                    await self._look_at("" if each == DEFAULT_SET else each)
                    self._revisions[each] = revision
            self._looked_at = position
        for name in list(self._due):
            if not self.fitter_of(name).outlook.is_due:
                self._due.discard(name)

    async def _look_at(self, name: str) -> None:
        try:
            outlook = await self.fitter_of(name).look()
        except SetNotFound:  # it was removed meanwhile
            return
        if outlook.is_due:
            self._due.add(name)
