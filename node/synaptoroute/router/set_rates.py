"""Rates of the writes to each route set, kept by each node for the writes that it takes."""

from __future__ import annotations

from typing import Final

from synaptoroute.core.change import SetRecord
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import ImportAbort, Proposal
from synaptoroute.errors import TooLarge
from synaptoroute.web.key_limits import Rates

WRITES: Final = "writes_per_second_max"
WRITE_BYTES: Final = "write_bytes_per_second_max"


class SetRates:
    """How fast each set is written to at this node.  Used on one thread."""

    def __init__(self) -> None:
        self._rates = Rates()

    def take(self, proposal: Proposal, record: SetRecord) -> None:
        """Count a write against the limits of its set.

        Raises:
            LimitExceeded: The set is over one of them.
        """
        # What an import staged can always be dropped.
        if isinstance(proposal.mutation, ImportAbort):
            return
        limits, number = record.limits, record.number
        if limits.writes_per_second_max:
            self._rates.take(number, WRITES, limits.writes_per_second_max)
        if limits.write_bytes_per_second_max:
            try:
                size = len(encode_proposal(proposal))
            except TooLarge:
                size = limits.write_bytes_per_second_max
            self._rates.take(number, WRITE_BYTES, limits.write_bytes_per_second_max, size)
