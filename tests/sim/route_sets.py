"""Writes of a simulated cluster that concern route sets: their content, forks, aliases."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from synaptoroute.core.erasure import text_hash
from synaptoroute.core.mutation import (
    CommitPlan,
    DeleteRoute,
    DeleteSet,
    EraseTexts,
    ForkSet,
    Proposal,
    PutAlias,
    PutRoute,
    PutSet,
    PutTests,
    Revision,
    SetLimits,
    SetTest,
)
from synaptoroute.core.seen import seen_of
from synaptoroute.core.sets import RouteSets

KINDS: Final = ("set", "within", "without", "fork", "drop", "alias", "promote", "test", "erase",
                "plan")  # fmt: skip
"""Kinds of writes.

A set with a limit, a route put into one or deleted in one, a fork, a removal, an alias, an alias
that is bound to what was measured, a test, the erasure of a text, a plan that removes a route and
puts a test.
"""
SETS: Final = ("s1", "s2", "s3")
ALIAS: Final = "live"
SHARED_TEXTS: Final = 4
"""Different texts of routes in sets: few, so that an erasure meets several routes."""
ROUTES_MAX: Final = 3


def proposal_of(
    kind: str, number: int, subject: str, sets: RouteSets, vector: bytes, op_id: bytes
) -> Proposal:
    """Make a write as a client of a node would that holds these sets.

    Args:
        kind: One of ``KINDS``.
        number: Number of the write.
        subject: A set, ``set/route`` or ``set>other``.
        sets: The sets of the node.
        vector: What the encoder of the node makes of any text.
        op_id: Identity of the write.
    """
    name, _, route = subject.partition("/")
    source, _, into = subject.partition(">")
    text = f"shared {number % SHARED_TEXTS}"
    match kind:
        case "set":
            return Proposal(op_id, PutSet(name, SetLimits(routes_max=ROUTES_MAX)))
        case "within":
            put = PutRoute(route, (f"text {number}", text), (vector, vector))
            return Proposal(op_id, put, route_set=name, note=f"write {number}")
        case "without":
            return Proposal(op_id, DeleteRoute(route), route_set=name)
        case "fork":
            return Proposal(op_id, ForkSet(source, into))
        case "drop":
            return Proposal(op_id, DeleteSet(name))
        case "alias":
            return Proposal(op_id, PutAlias(ALIAS, name, at_ms=number))
        case "promote":
            held = sets.records.get(sets.numbers.get(name, -1))
            measured = held.revision if held else Revision(0, 0)
            return Proposal(op_id, PutAlias(ALIAS, name, target_revision=measured, at_ms=number))
        case "test":
            return Proposal(op_id, PutTests((SetTest(text, f"r{number % 3}"),)), route_set=name)
        case "plan":
            return Proposal(op_id, _plan_of(name, route, text, number, sets), route_set=name)
        case _:
            return Proposal(op_id, EraseTexts((text_hash(text),)))


def _plan_of(name: str, route: str, text: str, number: int, sets: RouteSets) -> CommitPlan:
    """A plan for what a node holds of a set: the route goes, if it is there."""
    table = sets.table_of(name)
    routes, tests = (table.routes, table.tests) if table else ({}, {})
    removed = (route,) if route in routes else ()
    seen = seen_of(routes, removed, None, tests, (text,))
    return CommitPlan("", 0, seen, removed, tests=(SetTest(text, f"r{number % 3}"),))


def subject_of(kind: str, first: str, second: str, route: str) -> str:
    """The subject of a write: two sets and a route, as far as the kind needs them."""
    if kind == "fork":
        return f"{first}>{second}"
    return f"{first}/{route}" if kind in ("within", "without", "plan") else first


def with_vector(proposal: Proposal, vector: bytes) -> Proposal:
    """A write to a set with vectors of another encoder."""
    put = proposal.mutation
    assert isinstance(put, PutRoute)
    return replace(proposal, mutation=replace(put, vectors=(vector,) * len(put.utterances)))
