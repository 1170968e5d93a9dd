"""Who votes: the set of nodes whose majority decides what survives.

Rule: the set is a logged value and changes by one node at a time, so that any
majority before a change meets any majority after it.  That a majority holds the
last change before the next one is appended is the sequencer's part (``voters.lua``):
source: D. Ongaro, "bug in single-server membership changes", raft-dev, 2015.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from synaptoroute.core.change import Change, Outcome
from synaptoroute.core.mutation import Revision, VoterAdd, VoterRemove

VOTERS_MAX: Final = 99


def is_majority(present: Iterable[str], voters: Iterable[str]) -> bool:
    """Whether more than half of the voters are present; nobody is never a majority."""
    wanted = set(voters)
    return 2 * len(wanted.intersection(present)) > len(wanted)


def plan_voters(voters: tuple[str, ...], mutation: VoterAdd | VoterRemove, at: Revision) -> Change:
    """Plan a change of the voters by one node."""
    name = mutation.node_id
    is_adding = isinstance(mutation, VoterAdd)
    if is_adding == (name in voters):
        return Change(Outcome("unchanged", at))
    if is_adding and len(voters) >= VOTERS_MAX:
        return _refused(at, f"a cluster has at most {VOTERS_MAX} voters")
    if not is_adding and len(voters) == 1:
        return _refused(at, "the last voter cannot be removed")
    after = {*voters, name} if is_adding else set(voters) - {name}
    return Change(Outcome("applied", at), voters=tuple(sorted(after)))


def _refused(at: Revision, message: str) -> Change:
    return Change(Outcome("rejected", at, code="invalid_request", message=message))
