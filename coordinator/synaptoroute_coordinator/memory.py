"""Saves traffic and alarms, and reads what an earlier coordinator saved.

Only the active coordinator saves; every coordinator reads once.  The content is compressed JSON
of bounded size.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import zlib
from typing import Any, Final

from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.saved_state import SavedState
from synaptoroute_coordinator.alarms import AlarmKeeper
from synaptoroute_coordinator.drift import DriftWatch
from synaptoroute_coordinator.traffic import (
    SavedTraffic,
    TrafficHistory,
    TrafficSnapshot,
    parse_saved,
)

FORMAT: Final = 1
DOCUMENT_BYTES_MAX: Final = 67_108_864
COUNTS_MAX: Final = 20_000
"""With more counts of nodes, these are not saved."""
SHRINK: Final = 0.8
_MALFORMED: Final = (KeyError, TypeError, ValueError, OverflowError)

_log = logging.getLogger(__name__)


class Memory:
    """State that a coordinator keeps over its restart.  Used on one event loop."""

    def __init__(
        self,
        saved: SavedState,
        traffic: TrafficHistory,
        alarms: AlarmKeeper,
        drifts: DriftWatch,
        bytes_max: int,
    ) -> None:
        self._saved = saved
        self._traffic = traffic
        self._alarms = alarms
        self._drifts = drifts
        self._bytes_max = bytes_max
        self._is_loaded = bytes_max == 0

    async def load(self) -> None:
        """Take what was saved, once; a state that cannot be used is left and overwritten later.

        Raises:
            SequencerUnavailable: Redis does not answer; to be called again.
        """
        if self._is_loaded:
            return
        try:
            content = await self._saved.load()
            if content is not None:
                self._restore(*await asyncio.to_thread(_read, content))
        except ProtocolError as error:
            _log.warning("the history of traffic and alarms begins anew: %s", error)
        self._is_loaded = True

    def _restore(self, document: Any, traffic: SavedTraffic) -> None:
        try:
            self._alarms.restore(document["alarms"], time.monotonic())
            self._drifts.restore(map(str, document["drifting"]))
        except _MALFORMED as error:
            raise ProtocolError(f"the saved state is malformed: {error}") from error
        self._traffic.restore(traffic, time.time())

    async def save(self) -> int:
        """Save everything that fits, unless what was saved before is not loaded yet.

        Returns:
            Bytes that were written.

        Raises:
            SequencerUnavailable: Redis does not answer, or refuses.
        """
        if not self._is_loaded or not self._bytes_max:
            return 0
        others = {
            "format": FORMAT,
            "alarms": self._alarms.document(),
            "drifting": sorted(e.route_set for e in self._drifts.drifts if e.is_drifting),
        }
        traffic = self._traffic.snapshot()
        # A large history takes seconds, in which the lease must be renewed.
        content = await asyncio.to_thread(_pack_most, others, traffic, self._bytes_max)
        if content is None:
            return 0
        await self._saved.store(content)
        return len(content)


def _pack_most(others: dict[str, Any], traffic: TrafficSnapshot, bytes_max: int) -> bytes | None:
    """Compress as many series as fit; None if not even the others do."""
    has_counts, series_max = traffic.counts_size <= COUNTS_MAX, len(traffic.series)
    while True:
        document = {**others, "traffic": traffic.document(series_max, has_counts=has_counts)}
        content = pack(document)
        if len(content) <= bytes_max:
            return content
        if series_max == 0 and not has_counts:
            return None
        if has_counts:
            has_counts = False
        else:
            share = SHRINK * bytes_max / len(content)
            series_max = min(int(share * series_max), series_max - 1)


def _read(content: bytes) -> tuple[Any, SavedTraffic]:
    document = unpack(content)
    try:
        return document, parse_saved(document["traffic"])
    except _MALFORMED as error:
        raise ProtocolError(f"the saved state is malformed: {error}") from error


def pack(document: Any) -> bytes:
    return zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 6)


def unpack(content: bytes) -> Any:
    """Read a saved document; blocks.

    Raises:
        ProtocolError: It is malformed, too large, or of another format.
    """
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(content, DOCUMENT_BYTES_MAX)
        if not reader.eof:
            raise ProtocolError("the saved state is too large or cut off")
        document = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise ProtocolError(f"the saved state is malformed: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ProtocolError("the saved state has another format")
    return document
