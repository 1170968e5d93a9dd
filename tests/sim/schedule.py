"""Random schedules: from a seed, commands for a world."""

from __future__ import annotations

import random

from sim.route_sets import SETS, subject_of
from sim.world import Kinds, World
from synaptoroute.core.codec import LEVEL

LENGTHS = (200, 400, 800)
CALM = (1, 4, 12, 30)
ROUTES = ("a", "b", "c", "d")
LOG_BYTES_MAX = 2_500
SET_WRITES = ("set", "set", *("within",) * 8, "without", "fork", "fork", "drop", "alias", "promote",
              "promote", "test", "erase", "plan", "plan")  # fmt: skip
REGISTER = "x"
"""A route that is only ever put: each value that a read sees names its write."""


class Schedule:
    """Draws one command after another; the same seed, the same commands."""

    def __init__(
        self, seed: int, kinds: Kinds | None = None, focus: str = "", level: int = LEVEL
    ) -> None:
        self.seed, self.focus, self.level = seed, focus, level
        self.draw = random.Random(seed)
        self.length = LENGTHS[seed % 3]
        self.calm = CALM[seed // 3 % 4]
        self.voters, self.observers = (3, 5)[seed // 12 % 2], 1 + seed // 48 % 2
        self.changes_voters = seed // 24 % 2 == 1
        self.world = World(self.voters, self.observers, kinds, level)
        self._writes = 0
        # Drawn apart, so that the rest of a seed's schedule stays as it is without a replica.
        self._replica_draw = random.Random(f"{seed} replica")
        self._has_replica = focus == "replica" or (not focus and seed // 10 % 2 == 1)

    def run(self) -> World:
        """Run the whole schedule, heal, and return the world."""
        for _ in range(self.length):
            line = self.next_line()
            if line:
                self.world.do(line)
            if self._has_replica and self._replica_draw.random() < 0.1:
                self.world.do(self._replica())
        self.world.heal()
        return self.world

    def next_line(self) -> str:
        """Draw the next command; empty for none."""
        draw = self.draw
        name = f"n{draw.randrange(len(self.world.nodes))}"
        if self.focus and draw.random() < (0.8 if self.focus == "head" else 0.3):
            return self._focused(name)
        node, dice = self.world.node(name), draw.random()
        if dice >= 0.84 and self.calm > 1 and draw.random() < 1 - 1 / self.calm:
            dice *= 0.84  # fewer faults
        if dice < 0.16:
            return self._write(name)
        if dice < 0.18 and self._writes:
            return f"read {name} {1 + draw.randrange(self._writes)}"
        if dice < 0.40:
            return self._deliver(name) if node.inbox else f"turn {name}"
        if dice < 0.45:
            return f"report {name}"
        if dice < 0.46:
            return self._look_after(name)
        if dice < 0.84:
            fate = draw.random()
            return f"turn {name}" + (" lost" if fate < 0.03 else " cut" if fate < 0.05 else "")
        return self._fault(name, node.is_up, node.is_cut, draw.random())

    def _write(self, name: str) -> str:
        draw = self.draw
        fate = " lost" if draw.random() < 0.1 else ""
        if self._writes and draw.random() < 0.2:
            number = 1 + draw.randrange(self._writes)
        else:
            self._writes += 1
            number = self._writes
        kinds = ("put", "put", "put", "cas", "cas", "del")
        if self.focus == "learn":
            kinds = ("put", "del", "say", "say", "say", "learn", "learn", "fit", "queue")
            if draw.random() < 0.03:
                kinds = ("off",)
        if self.focus == "sets" and draw.random() < 0.8:
            kind = draw.choice(SET_WRITES)
            subject = subject_of(kind, draw.choice(SETS), draw.choice(SETS), draw.choice(ROUTES))
            return f"write {name} {number} {kind} {subject}{fate}"
        kind = draw.choice(kinds)
        return f"write {name} {number} {kind} {draw.choice(ROUTES)}{fate}"

    def _deliver(self, name: str) -> str:
        draw = self.draw
        inbox = self.world.node(name).inbox
        index = 0 if draw.random() < 0.85 else draw.randrange(len(inbox))
        fate = draw.random()
        return f"deliver {name} {index}" + (
            " lost" if fate < 0.12 else " dup" if fate < 0.2 else ""
        )

    def _look_after(self, name: str) -> str:
        """What coordinators and operators do on good days."""
        draw = self.draw
        if self.changes_voters and draw.random() < 0.5:
            other = f"n{draw.randrange(len(self.world.nodes))}"
            return f"voter {draw.choice(('add', 'add', 'remove'))} {other} {name}"
        return f"trim {draw.randrange(8)}"

    def _fault(self, name: str, is_up: bool, is_cut: bool, dice: float) -> str:
        draw = self.draw
        if dice < 0.24:
            return f"crash {name}" if is_up and draw.random() < 0.5 else f"start {name}"
        if dice < 0.40:
            return f"mend {name}" if is_cut else f"cut {name}"
        if dice < 0.56:
            index = 0 if draw.random() < 0.7 else 1 + draw.randrange(3)
            return f"attach {name} {index}"
        if dice < 0.70:
            fate = draw.choice(("alive", "dead"))
            stay = [n.name for n in self.world.nodes if draw.random() < 0.5]
            return f"failover {draw.choice((0, 1, 2, 4, 8, 16))} {fate} {' '.join(stay)}".strip()
        if dice < 0.76:
            return draw.choice(("empty", "flush", "restart", "restart"))
        if dice < 0.80:
            return draw.choice(("keep", "restore"))
        if dice < 0.84:
            return "bury"
        if dice < 0.92:
            return f"trim {draw.randrange(8)}"
        if dice < 0.94:
            return f"tick {draw.choice((500, 2_000, 8_000))}"
        if dice < 0.95:
            return f"forge {name}" if draw.random() < 0.5 else self._hijack()
        if dice < 0.97:
            return f"disk {name} {draw.choice(('full', 'free', 'free'))}"
        return self._rare(name)

    def _focused(self, name: str) -> str:
        """Draw from the faults against which one mechanism stands."""
        draw = self.draw
        if self.focus == "trim":
            inbox = self.world.node(name).inbox
            return draw.choice(
                (
                    self._write(name),
                    self._write(name),
                    f"trim {draw.randrange(3)}",
                    f"crash {name}",
                    f"start {name}",
                    f"deliver {name} 0 lost" if inbox else f"trim {draw.randrange(3)}",
                )
            )
        if self.focus == "head":
            return self._reads(name)
        if self.focus == "room":
            if not self.world.log_bytes_max:
                return f"limit {LOG_BYTES_MAX}"
            lines = [self._write(name), self._write(name), f"report {name}", f"turn {name}"]
            return draw.choice(lines)
        if self.focus == "import":
            number = draw.randrange(3)
            steps = [f"import {name} {number} {step}" for step in ("begin", "chunk", "chunk")]
            idle = [f"look {name}", f"expire {name}", f"expire {name}", f"turn {name}"]
            return draw.choice([*steps, *idle, f"import {name} {number} commit"])
        if self.focus == "hijack":
            return self._hijack() if draw.random() < 0.2 else f"turn {name}"
        if self.focus == "split":
            return self._split(name)
        if self.focus == "replica":
            inbox = self.world.node(name).inbox
            turn = f"turn {name}"
            return draw.choice((turn, turn, f"deliver {name} 0 lost" if inbox else turn))
        if self.focus in ("learn", "sets"):
            turns = [f"turn {name}", f"report {name}", self._write(name), self._write(name)]
            rare = [f"finalize {name}", f"switch {name}"] if draw.random() < 0.2 else []
            return draw.choice([*turns, *rare])
        if self.focus == "encoder":
            turns = [f"turn {name}"] * 8
            faults = ["flush", "empty", f"cut {name}", f"mend {name}"]
            return draw.choice([*turns, f"switch {name}", f"switch {name}", *faults])
        meta = self.world.server.store.meta
        if meta is not None and meta["state"] == "recovering" and draw.random() < 0.5:
            stay = [n.name for n in self.world.nodes if draw.random() < 0.5]
            return f"failover {draw.choice((0, 0, 1, 2, 4))} alive {' '.join(stay)}".strip()
        return draw.choice((f"attach {name} {draw.randrange(3)}", f"turn {name}", f"turn {name}"))

    def _reads(self, name: str) -> str:
        """Reads and writes of a register, while servers are replaced."""
        draw, dice = self.draw, self.draw.random()
        if dice < 0.22:
            self._writes += 1
            return f"write {name} {self._writes} put {REGISTER}"
        if dice < 0.40:
            return f"ask {name} {REGISTER}"
        if dice < 0.60:
            return f"answer {name}"
        if dice < 0.90:
            is_heard = bool(self.world.node(name).inbox)
            return f"deliver {name} 0" if is_heard and dice < 0.80 else f"turn {name}"
        if dice < 0.97:
            return f"report {name}"
        if dice < 0.98:
            return f"attach {name} 0"
        if dice < 0.985:
            return "bury"
        stay = [n.name for n in self.world.nodes if draw.random() < 0.3]
        return f"failover {draw.choice((0, 0, 1, 2))} alive {' '.join(stay)}".strip()

    def _split(self, name: str) -> str:
        """Two logs of genuine entries for one epoch, and recoveries that have to choose."""
        draw, dice = self.draw, self.draw.random()
        if dice < 0.20:
            return self._write(name)
        if dice < 0.25:
            self._writes += 1
            return f"write {name} {self._writes} put {REGISTER}"
        if dice < 0.29:
            return f"ask {name} {REGISTER}" if dice < 0.27 else f"answer {name}"
        if dice < 0.60:
            return f"turn {name}" if dice < 0.40 else f"report {name}"
        if dice < 0.80:
            return f"deliver {name} 0" if self.world.node(name).inbox else f"turn {name}"
        if dice < 0.90:
            return f"attach {name} {draw.randrange(3)}"
        if dice < 0.96:
            names = [n.name for n in self.world.nodes if draw.random() < 0.4]
            return f"split {' '.join(names)}".strip()
        return draw.choice(("restart", "bury", "failover 0 dead"))

    def _replica(self) -> str:
        """What the replica shows from now on: mostly the truth, a little late."""
        draw = self._replica_draw
        lie = draw.choice(("", "", "", "", "forge", "swap", "drop"))
        return f"replica {draw.choice((0, 0, 1, 2, 4, 8))} {lie}".strip()

    def _hijack(self) -> str:
        """What somebody does who can write to the server, and a member who opens an epoch."""
        acts = ["hijack forge", "hijack again 2", "hijack again 9", "hijack claim"]
        acts += ["hijack open", "hijack voter"]
        return self.draw.choice(acts)

    def _rare(self, name: str) -> str:
        draw = self.draw
        if not self.world.counts["wiped"] and draw.random() < 0.3:
            return f"wipe {name}"
        return f"switch {name}"
