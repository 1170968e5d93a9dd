"""Every answer is of one set at one position, whatever changes meanwhile.

A writer changes sets, aliases, settings and routes at random and notes what each set answers from
each version on.  Each answer of concurrent queries is compared with the notes of its version.
"""

from __future__ import annotations

import asyncio
import random
import threading
from bisect import bisect_right
from dataclasses import dataclass, field, replace

import pytest

from set_nodes import PLAIN, SetNode
from synaptoroute.core.mutation import (
    DeleteAlias,
    DeleteSet,
    ForkSet,
    PutAlias,
    PutRoute,
    PutSet,
    PutSettings,
)
from synaptoroute.errors import SetNotFound
from synaptoroute.models import Match
from synaptoroute.serving.served_sets import share_of

pytestmark = pytest.mark.unit

NAMES = ("a", "b", "c")
ALIASES = ("live", "next")
NOISE = "please "
TEXTS = [f"{NOISE}do thing {number}" for number in range(4)]
TEXTS += [text.removeprefix(NOISE) for text in TEXTS]
SESSIONS = (None, "one", "two", "three")
CHANGES = 150


@dataclass(frozen=True)
class SetNotes:
    """Text by route, and whether the noise is cut out of queries."""

    routes: dict[str, str] = field(default_factory=dict)
    is_cut: bool = False


@dataclass(frozen=True)
class Notes:
    """All sets, and target and canary of each alias."""

    sets: dict[str, SetNotes]
    aliases: dict[str, tuple[str, str]] = field(default_factory=dict)

    def with_set(self, name: str, notes: SetNotes) -> Notes:
        return replace(self, sets={**self.sets, name: notes})


class ChangingNode(SetNode):
    """A node with the notes of every version, oldest first."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.notes = Notes({"default": SetNotes()})
        self.versions = [(0, 0)]
        self.history = [self.notes]

    def change(self) -> None:
        """Make one random change."""
        pick, notes = self.random.choice, self.notes
        name, known = pick(NAMES), pick(list(notes.sets))
        match self.random.randrange(8):
            case 0:
                self.note(PutSet(name), "", notes.with_set(name, SetNotes()), name in notes.sets)
                self.note(PutSettings(PLAIN), name, self.notes.with_set(
                    name, replace(self.notes.sets[name], is_cut=False)))  # fmt: skip
            case 1:
                self.note(ForkSet(known, name), "", notes.with_set(name, notes.sets[known]))
            case 2:
                left = {each: kept for each, kept in notes.sets.items() if each != name}
                self.note(DeleteSet(name), "", replace(notes, sets=left))
            case 3:
                alias, canary = pick(ALIASES), pick(list(notes.sets))
                canary = "" if canary == known else canary
                sides = {**notes.aliases, alias: (known, canary)}
                put = PutAlias(alias, known, canary=canary, canary_share=0.5)
                self.note(put, "", replace(notes, aliases=sides))
            case 4:
                alias = pick(ALIASES)
                sides = {each: kept for each, kept in notes.aliases.items() if each != alias}
                self.note(DeleteAlias(alias), "", replace(notes, aliases=sides))
            case 5:
                is_cut = pick((False, True))
                settings = replace(PLAIN, ignore=(NOISE,) if is_cut else ())
                self.note(PutSettings(settings), known, notes.with_set(
                    known, replace(notes.sets[known], is_cut=is_cut)))  # fmt: skip
            case _:
                route, text = f"r{self.random.randrange(3)}", pick(TEXTS)
                # A large write is made visible in slices.
                more = [f"{known} {route} {each}" for each in range(600 * pick((0, 0, 0, 0, 1)))]
                rows = self.encoder.encode_utterances([text, *more])
                put_route = PutRoute(route, (text, *more), tuple(row.tobytes() for row in rows))
                routes = {**notes.sets[known].routes, route: text}
                self.note(put_route, known, notes.with_set(
                    known, replace(notes.sets[known], routes=routes)))  # fmt: skip

    def note(self, mutation: object, name: str, after: Notes, is_same: bool = False) -> None:
        outcome = self.write(mutation, "" if name == "default" else name)  # type: ignore[arg-type]
        if outcome.status == "applied" and not is_same:
            self.notes = after
            self.versions.append((outcome.at.epoch, outcome.at.seq))
            self.history.append(after)

    def wrong(self, name: str, text: str, session: str | None, match: Match) -> str:
        """What is wrong with an answer; empty for nothing."""
        epoch, seq = match.version.split(".")
        notes = self.history[bisect_right(self.versions, (int(epoch), int(seq))) - 1]
        target = name or "default"
        if target in notes.aliases:
            side, canary = notes.aliases[target]
            is_canary = bool(canary) and session is not None
            is_canary = is_canary and share_of("canary", target, session or "") < 0.5
            target = canary if is_canary else side
        if target not in notes.sets or (name and match.route_set != target):
            return f"{name} was answered by {match.route_set} instead of {target}"
        of = notes.sets[target]
        read = text.removeprefix(NOISE) if of.is_cut else text
        expected = {route for route, known in of.routes.items() if known == read}
        found = {match.route} if match.reason == "exact" else set()
        is_right = found <= expected and bool(found) == bool(expected)
        return "" if is_right else f"{text!r} to {target} got {match.route}, not {expected}"


@pytest.mark.parametrize("seed", [1, 2])
def test_each_answer_is_that_of_its_set_at_its_version(seed: int) -> None:
    node, stop = ChangingNode(seed), threading.Event()
    node.engine.start()
    node.apply(PutSettings(PLAIN))
    answers: list[tuple[tuple[str, str, str | None], Match | BaseException]] = []

    def ask(number: int) -> None:
        pick = random.Random(100 * seed + number).choice

        async def run() -> None:
            while not stop.is_set():
                asked = [
                    (pick(("", *NAMES, *ALIASES)), pick(TEXTS), pick(SESSIONS)) for _ in range(8)
                ]
                found = await asyncio.gather(
                    *(node.submit(text, name, session=session) for name, text, session in asked),
                    return_exceptions=True,
                )
                answers.extend(zip(asked, found, strict=True))

        asyncio.run(run())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(CHANGES):
        node.change()
    stop.set()
    for thread in threads:
        thread.join()
    node.engine.stop()

    failures = [each for _, each in answers if isinstance(each, BaseException)]
    assert all(isinstance(each, SetNotFound) for each in failures), failures
    wrong = [node.wrong(*asked, match) for asked, match in answers if isinstance(match, Match)]
    assert [] == [each for each in wrong if each]
    assert len(wrong) > CHANGES
