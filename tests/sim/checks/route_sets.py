"""Route sets: what nodes hold is what the effective writes say, by a model that is only dicts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sim.history import History, Op
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
    SetTest,
)
from synaptoroute.core.seen import seen_of
from synaptoroute.core.sets import RouteSets

KINDS = frozenset({
    "set", "within", "without", "fork", "drop", "alias", "promote", "test", "erase", "plan",
})  # fmt: skip

Content = dict[str, tuple[str, ...]]


class _Known(NamedTuple):
    """What a plan sees of a route."""

    revision: Revision


@dataclass
class Model:
    """Sets as plain values.

    Attributes:
        routes: Texts by route, by set.
        tests: Routes by text, by set.
        aliases: Target by alias.
        changed: Where what answers changed last, by set.
        revisions: Where each route changed last, by set.
        found: Writes that took effect and must not have.
    """

    routes: dict[str, Content] = field(default_factory=dict)
    tests: dict[str, dict[str, str | None]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    changed: dict[str, Revision] = field(default_factory=dict)
    revisions: dict[str, dict[str, Revision]] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    def apply(self, op: Op) -> None:
        """Take in an effective write."""
        proposal, at = op.proposal, op.at
        assert isinstance(proposal, Proposal)
        assert at is not None
        name = proposal.route_set
        match proposal.mutation:
            case PutSet(created):
                if created not in self.routes:
                    self.routes[created], self.tests[created] = {}, {}
                    self.changed[created], self.revisions[created] = at, {}
            case ForkSet(source, into):
                self.routes[into] = dict(self.routes[source])
                self.tests[into] = dict(self.tests[source])
                self.changed[into], self.revisions[into] = at, dict(self.revisions[source])
            case DeleteSet(gone):
                if gone in self.aliases.values():
                    self.found.append(f"the set {gone} was removed under its alias")
                del self.routes[gone], self.tests[gone], self.changed[gone]
                del self.revisions[gone]
            case PutAlias(alias, target, target_revision=measured):
                if measured is not None and measured != self.changed.get(target):
                    self.found.append(f"{target} was promoted at another content than measured")
                if target not in self.routes:
                    self.found.append(f"an alias names {target}, which is not there")
                self.aliases[alias] = target
            case PutRoute(route, texts):
                self.routes[name][route] = tuple(sorted(texts))
                self.changed[name] = self.revisions[name][route] = at
            case DeleteRoute(route):
                del self.routes[name][route], self.revisions[name][route]
                self.changed[name] = at
            case CommitPlan():
                self._carry_out(proposal.mutation, name, at)
            case PutTests(tests):
                self.tests[name].update({test.text: test.route for test in tests})
                self.changed[name] = at
            case EraseTexts(hashes):
                self._erase(frozenset(hashes), at)

    def _carry_out(self, plan: CommitPlan, name: str, at: Revision) -> None:
        routes = {route: _Known(revision) for route, revision in self.revisions[name].items()}
        tests = {text: SetTest(text, route) for text, route in self.tests[name].items()}
        texts = [test.text for test in plan.tests]
        if plan.seen != seen_of(routes, plan.removed, None, tests, texts):  # type: ignore[arg-type]
            self.found.append(f"a plan of {name} took effect although what it saw had changed")
        for route in plan.removed:
            del self.routes[name][route], self.revisions[name][route]
        labels = {test.text: test.route for test in plan.tests}
        if plan.removed or labels.items() - self.tests[name].items():
            self.changed[name] = at
        self.tests[name].update(labels)

    def switch(self, at: Revision) -> None:
        """Take in a switch of the encoder: it gives every row another vector."""
        self.changed.update({name: at for name, routes in self.routes.items() if routes})

    def _erase(self, hashes: frozenset[str], at: Revision) -> None:
        for name, routes in self.routes.items():
            left = {
                route: tuple(text for text in texts if text_hash(text) not in hashes)
                for route, texts in routes.items()
            }
            kept = {route: texts for route, texts in left.items() if texts}
            tests = {
                text: route
                for text, route in self.tests[name].items()
                if text_hash(text) not in hashes
            }
            for route, texts in routes.items():
                if route not in kept:
                    del self.revisions[name][route]
                elif kept[route] != texts:
                    self.revisions[name][route] = at
            if (kept, tests) != (routes, self.tests[name]):
                self.routes[name], self.tests[name] = kept, tests
                self.changed[name] = at


def misplaced(
    history: History, nodes: Mapping[str, RouteSets], switches: Iterable[Revision]
) -> list[str]:
    """Find sets of nodes that do not follow from the effective writes, once all is healed.

    Args:
        history: What clients saw.
        nodes: The sets of each node.
        switches: Where the encoder was switched, which changes what answers in every set.
    """
    applied = [
        op for op in history.ops.values() if op.outcome == "applied" and op.at and op.kind in KINDS
    ]
    model, switched = Model(), deque(sorted(switches))
    for op in sorted(applied, key=_place):
        while switched and tuple(switched[0]) < _place(op):
            model.switch(switched.popleft())
        try:
            model.apply(op)
        except KeyError as missing:
            return [f"{op.kind} took effect on {missing}, which is not there"]
    found = list(model.found)
    for node, sets in nodes.items():
        held = {name: number for name, number in sets.numbers.items() if number}
        routes = {
            name: {
                route.name: tuple(sorted(route.utterances))
                for route in sets.tables[number].routes.values()
            }
            for name, number in held.items()
        }
        tests = {
            name: {test.text: test.route for test in sets.tables[number].tests.values()}
            for name, number in held.items()
        }
        aliases = {name: alias.target for name, alias in sets.aliases.items()}
        for what, mine, expected in (
            ("routes", routes, model.routes),
            ("tests", tests, model.tests),
            ("aliases", aliases, model.aliases),
        ):
            if mine != expected:
                found.append(f"{node} holds the {what} {mine}, {expected} were accepted")
    return found


def _place(op: Op) -> tuple[int, int]:
    assert op.at is not None
    return op.at.epoch, op.at.seq
