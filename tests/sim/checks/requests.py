"""Requests: of several with one op_id, the one that the log took first decides for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from sim.history import History
from synaptoroute.core.mutation import Revision


def confused(
    history: History, winners: Mapping[bytes, bytes], bases: Mapping[int, int]
) -> list[str]:
    """Answers that belong to another request than the one that was asked.

    Args:
        history: What clients saw.
        winners: Hash of the request that decided each op_id, in the history that survived.
        bases: Last seq that each epoch kept of the epochs before it.
    """
    found: list[str] = []
    taken: dict[tuple[bytes, Revision], set[bytes]] = defaultdict(set)
    for answer in history.answers:
        name = answer.op_id.hex()[-4:]
        if answer.code != "idempotency_conflict":
            taken[answer.op_id, answer.at].add(answer.request_hash)
            continue
        is_kept = all(
            answer.at.seq <= base for epoch, base in bases.items() if epoch > answer.at.epoch
        )
        if is_kept and winners.get(answer.op_id) == answer.request_hash:
            found.append(f"{answer.node} refused the request that decided {name}")
    for (op_id, at), hashes in taken.items():
        if len(hashes) > 1:
            found.append(f"{len(hashes)} requests with {op_id.hex()[-4:]} were answered with {at}")
    return found
