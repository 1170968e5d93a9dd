"""Rows of a running node written again, and the whole state served anew from the database.

Nothing is believed: the rows must be of the owners that the table names, and lead to the
digest that is claimed, before a byte is written; afterwards the database is read back and
verified as at a boot, and what it holds becomes replica and tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from synaptoroute.core.change import SlotWrite
from synaptoroute.core.digest import sum_state
from synaptoroute.core.mutation import Position
from synaptoroute.core.table import RouteTable
from synaptoroute.errors import ClusterError, NotReady
from synaptoroute.ports import AppliedState, EnginePort


def mend(engine: EnginePort, rows: Sequence[SlotWrite], at: Position, digest: str) -> Future[None]:
    """Write rows again and serve what the database then holds; queries go on meanwhile.

    Args:
        engine: Of this node.
        rows: Of slots that have an owner already, the same one.
        at: The position at which they were compared.
        digest: That of the state with these rows.
    """

    def task(state: AppliedState) -> None:
        replica = state.replica
        table = replica.table
        is_own = all(table.row_hashes.get(row.slot) == row.row_hash for row in rows)
        if not is_own:
            if replica.position != at:
                raise NotReady("the state changed while rows were compared")
            _check(table, rows, digest)
        stored = state.storage.repair_rows(rows, replica.digest if is_own else digest)
        engine.adopt(stored)

    return engine.run_on_applier(task)


def _check(table: RouteTable, rows: Sequence[SlotWrite], digest: str) -> None:
    """Refuse rows that do not make this state that of the donor.

    Raises:
        ClusterError: They do not.
    """
    owned = {
        slot: (route.route_id, text)
        for route in table.routes.values()
        for slot, text in zip(route.slots, route.utterances, strict=True)
    }
    if any(owned.get(row.slot) != (row.route_id, row.utterance) for row in rows):
        raise ClusterError("a row has another owner")
    hashes = dict(table.row_hashes) | {row.slot: row.row_hash for row in rows}
    imports = tuple(table.imports.values())
    if sum_state(table.settings, hashes, table.routes.values(), imports).hex() != digest:
        raise ClusterError("the rows do not lead to the donor's digest")
