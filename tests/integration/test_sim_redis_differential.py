"""Goal: the simulator's server is Redis.  Method: the same random commands to both.

What the simulation shows holds for the scripts only as far as the model does what they do.
So each answer of a real server is compared with the model's, and the header after it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from redis_logs import report
from servers import Server
from sim.answers import held_of, kind_of, label_of, shown, shown_log_check, shown_read
from sim.model_server import ModelServer
from sim.model_store import DIM, ENCODERS, FINGERPRINT
from synaptoroute.core.codec import LEVEL, encode_proposal
from synaptoroute.core.mutation import (
    Ballot,
    DeleteRoute,
    Position,
    Proposal,
    SwitchEncoder,
    VoterAdd,
)
from synaptoroute.core.recovery import Cause, Decision, Mode, decide
from synaptoroute.sequencer.epochs import ClusterIdentity, RecoveryResult
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.log import RedisLog
from synaptoroute.sequencer.scripts import Encoders, Head, NoLog

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
VOTERS = ("n0", "n1", "n2")
COMMANDS, COMMANDS_MAX = 800, 8_000
MET = frozenset(
    {
        "append Placed",
        "append stale_epoch",
        "append closed",
        "append lost",
        "begin Ballot",
        "reopen RecoveryOutcome.OK",
        "voters Placed",
        "voters unheld",
        "switch int",
        "switch moved",
        "append model",
        "append level",
        "append behind",
    }
)
WEIGHTS = {
    "append": 120,
    "heartbeat": 120,
    "report": 40,
    "read": 30,
    "trim": 30,
    "begin": 40,
    "answer": 120,
    "reopen": 90,
    "voters": 30,
    "switch": 12,
    "rename": 6,
    "flush": 3,
    "tear": 3,
    "rewind": 3,
}


@dataclass
class Pair:
    """A real log and its model.

    Attributes:
        log: The real one.
        model: The model.
        draw: What happens next.
        nodes: Positions of the nodes: places that the log once had.
        ballots: Ballots so far; a real id is drawn by the client, so the model takes it over.
    """

    log: RedisLog
    model: ModelServer
    draw: random.Random
    nodes: dict[str, Position] = field(default_factory=dict)
    ballot: Ballot | None = None
    count: int = 0
    met: set[str] = field(default_factory=set)

    async def step(self) -> None:
        """Do one command to both and compare."""
        name = self.draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        real, modelled = await getattr(self, name)()
        assert real == modelled, name
        self.met.add(f"{name} {label_of(real)}")
        self.count += 1
        assert shown(await self.log.head()) == shown(self.model.head()), name

    def node(self) -> str:
        """One of the nodes."""
        return self.draw.choice(sorted(self.nodes))

    # --- commands ----------------------------------------------------------------------------

    async def append(self) -> tuple[Any, Any]:
        proposal = Proposal(self.draw.randbytes(16), DeleteRoute("r"))
        frame = encode_proposal(proposal)
        at, meta = self.nodes[self.node()], self.model.store.meta
        epoch_id = self.draw.choice(("", meta["epoch_id"] if meta else "", "", "another"))
        mine, level = self.fingerprint(), self.draw.choice((1, *[LEVEL] * 4, LEVEL + 1))
        real = await self.log.scripts.append(
            at, mine, [(frame, frame)], log_bytes_max=1 << 30, epoch_id=epoch_id, level=level
        )
        modelled = self.model.append(
            at, [(frame, proposal)], epoch_id=epoch_id, fingerprint=mine, level=level
        )
        return real, modelled

    def fingerprint(self) -> str:
        """An encoder of whoever writes: mostly that of the log."""
        meta = self.model.store.meta
        if meta is None or self.draw.random() < 0.05:
            return self.draw.choice(ENCODERS)[0]
        return str(meta["fingerprint"])

    async def switch(self) -> tuple[Any, Any]:
        """Change the encoder behind a node's position, sometimes without the right one before."""
        proposal = Proposal(self.draw.randbytes(16), SwitchEncoder("any"))
        frame, before = encode_proposal(proposal), self.fingerprint()
        name = self.node()
        if self.draw.random() < 0.5:
            self._follow(name)
        at, after = self.nodes[name], self.draw.choice(ENCODERS)
        real = await self.log.scripts.switch(at, frame, frame, Encoders(before, *after))
        return real, self.model.switch(at, (frame, proposal), before, after)

    async def voters(self) -> tuple[Any, Any]:
        """Change the voters, sometimes upon a set that is not theirs."""
        proposal = Proposal(self.draw.randbytes(16), VoterAdd(f"v{self.count}"))
        frame, at = encode_proposal(proposal), self.nodes[self.node()]
        meta = self.model.store.meta
        before = meta["voters"] if meta and self.draw.random() < 0.8 else ("n9",)
        after = tuple(sorted({*before, f"v{self.count}"}))[:5]
        real = await self.log.scripts.append(
            at,
            mine := self.fingerprint(),
            [(frame, frame)],
            log_bytes_max=1 << 30,
            voters=(",".join(before), ",".join(after)),
            level=LEVEL,
        )
        modelled = self.model.append(
            at, [(frame, proposal)], (before, after), fingerprint=mine, level=LEVEL
        )
        return kind_of(real), kind_of(modelled)

    async def heartbeat(self) -> tuple[Any, Any]:
        """A node beats; sometimes it has followed the log first."""
        name = self.node()
        if self.draw.random() < 0.7:
            self._follow(name)
        real = await self.log.presence.heartbeat(report(name, self.nodes[name]))
        return shown(real), shown(self.model.heartbeat(name, self.nodes[name]))

    def _follow(self, name: str) -> None:
        meta = self.model.store.meta
        if meta is not None and meta["state"] == "open" and self.model.is_here(meta["replid"]):
            log = self.model.store.logs.get(meta["epoch"], [])
            newest = [entry.position for entry in log][-3:]
            self.nodes[name] = self.draw.choice(newest) if newest else self.nodes[name]

    async def report(self) -> tuple[Any, Any]:
        name = self.node()
        await self.log.presence.report_position(name, self.nodes[name])
        self.model.report_position(name, self.nodes[name])
        return None, None

    async def read(self) -> tuple[Any, Any]:
        if self.model.store.meta is None:
            return None, None
        after = self.nodes[self.node()]
        real = await self.log.read(after, entries_max=8)
        modelled = self.model.read(after, 8)
        assert modelled is not None
        return shown_read(real), shown_read(modelled)

    async def trim(self) -> tuple[Any, Any]:
        """Trim under a lease of its own."""
        meta = self.model.store.meta
        if meta is None or meta["state"] != "open":
            return None, None
        floor = meta["seq"] - self.draw.randrange(4)
        log = self.model.store.logs.get(meta["epoch"], [])
        there = next((entry for entry in log if entry.seq == floor), None)
        if there is None:
            return None, None
        lease = self.log.lease("trim", "me")
        held = await lease.acquire()
        assert isinstance(held, Held)
        real = await self.log.epochs.trim(held, meta["epoch"], floor)
        await lease.release(held)
        return getattr(real, "entries", 0), self.model.trim(floor)

    async def begin(self) -> tuple[Any, Any]:
        """Begin a ballot, with proof, without, or over another one."""
        head = self.model.head()
        cause = self.draw.choice([*Cause, *[Cause.RESTARTED] * 12])
        seen = ""
        if isinstance(head, Head) and self.draw.random() < 0.7:
            seen = str(head.ballot or head.epoch_id)
        encoder = self.draw.choice(ENCODERS)
        above = max(at.epoch for at in self.nodes.values()) if self.draw.random() < 0.9 else 0
        real = await self.log.epochs.begin(
            cause,
            above=above,
            seen=seen,
            node_id="n0",
            identity=ClusterIdentity("1" * 32, *encoder, LEVEL, VOTERS),
        )
        name = real.id if isinstance(real, Ballot) else "unused"
        modelled = self.model.begin(cause, above, seen, name, VOTERS, encoder)
        return real, modelled

    async def answer(self) -> tuple[Any, Any]:
        """A node answers the ballot, or one that is not."""
        head = self.model.head()
        if isinstance(head, NoLog) or head.ballot is None:
            return None, None
        ballot = head.ballot if self.draw.random() < 0.9 else Ballot(head.ballot.epoch, "other")
        name = self.node()
        if self.nodes[name].epoch >= ballot.epoch:
            return None, None  # it has joined a later epoch, so it promises no such ballot
        at, voters = self.nodes[name], VOTERS if self.nodes[name].epoch else ()
        real = await self.log.presence.heartbeat(report(name, at), promise=ballot, voters=voters)
        return shown(real), shown(self.model.heartbeat(name, at, ballot, voters))

    async def reopen(self) -> tuple[Any, Any]:
        """LogCheck both, decide, and open the next epoch, kept or refilled."""
        head = self.model.head()
        if isinstance(head, NoLog) or head.ballot is None:
            return None, None
        real_check = await self.log.epochs.check_log(head.epoch, head.ballot)
        log_check = self.model.check_log(head.epoch, head.ballot)
        if isinstance(log_check, RecoveryResult) or isinstance(real_check, RecoveryResult):
            return real_check, log_check
        assert shown_log_check(real_check) == shown_log_check(log_check)
        mode = self.draw.choice((Mode.SAFE, Mode.AVAILABLE))
        found = decide(head.ballot, log_check.reports, log_check.kept, mode)
        if not isinstance(found, Decision):
            return None, None
        return await self._open(head, found)

    async def _open(self, head: Head, found: Decision) -> tuple[Any, Any]:
        lease = self.log.lease("recovery", "n0")
        held = await lease.acquire()
        assert isinstance(held, Held)
        assert head.ballot is not None
        self.model.tokens = held.token - 1
        proof = self.model.acquire("n0")
        assert proof is not None
        floor, floor_chain, entries = found.base.seq + 1, found.base.chain, []
        if not found.is_kept:
            entries = self.history.get(found.base.chain, [])
            if entries and self.draw.random() < 0.9:
                floor, floor_chain = entries[0].seq, entries[0].prev_chain
            else:
                entries = []
            filled = await self.log.epochs.refill(lease, held, head.ballot, map(held_of, entries))
            assert filled == self.model.refill_with(proof, head.ballot, entries, True)
        real_head = await self.log.head()
        assert isinstance(real_head, Head)
        encoder = self.draw.choice(ENCODERS)
        real = await self.log.epochs.reopen(
            held,
            replace(real_head, ballot=head.ballot),
            found,
            encoder=encoder,
            floor=floor,
            floor_chain=floor_chain,
        )
        modelled = self.model.reopen(proof, head.ballot, found, encoder, floor, floor_chain)
        await lease.release(held)
        self.model.release(proof)
        return real, modelled

    @property
    def history(self) -> dict[str, list[Any]]:
        """The entries up to each chain, as a node that stands there would hold them."""
        return self._seen

    _seen: dict[str, list[Any]] = field(default_factory=dict)

    def remember(self) -> None:
        """Keep what the log holds now, for nodes that will bring it back."""
        meta = self.model.store.meta
        if meta is None:
            return
        log = self.model.store.logs.get(meta["epoch"], [])
        for end in range(max(0, len(log) - 4), len(log)):
            self._seen.setdefault(log[end].chain, log[max(0, end - 9) : end + 1])

    # --- what is done to the server ------------------------------------------------------------

    async def rename(self) -> tuple[Any, Any]:
        """The log is not of this server any more, as after a promotion or a restart."""
        meta = self.model.store.meta
        if meta is None or self.draw.random() < 0.5:
            return None, None
        name = self.draw.choice(("replid", "rec_replid"))
        meta[name] = "elsewhere"
        await self._call("HSET", self.log.keys.meta, name, "elsewhere")
        return None, None

    async def flush(self) -> tuple[Any, Any]:
        await self._call("FLUSHALL")
        self.model.store = type(self.model.store)()
        return None, None

    async def tear(self) -> tuple[Any, Any]:
        """Delete an entry of the stream."""
        meta = self.model.store.meta
        log = self.model.store.logs.get(meta["epoch"], []) if meta else []
        if not log:
            return None, None
        gone = self.draw.choice(log)
        await self._call("XDEL", self.log.keys.log(meta["epoch"]), f"{gone.epoch}-{gone.seq}")
        log.remove(gone)
        return None, None

    async def rewind(self) -> tuple[Any, Any]:
        """Set the header back, as a restored backup would."""
        meta = self.model.store.meta
        log = self.model.store.logs.get(meta["epoch"], []) if meta else []
        if len(log) < 2 or meta["state"] != "open":
            return None, None
        meta["seq"], meta["chain"] = log[-2].seq, log[-2].chain
        await self._call(
            "HSET", self.log.keys.meta, "seq", str(meta["seq"]), "chain", meta["chain"]
        )
        log.pop()
        name = self.log.keys.log(meta["epoch"])
        await self._call("DEL", name)
        size_bytes = 0
        for entry in log:
            size_bytes += len(entry.frame)
            words = ["t", "0", "p", entry.prev_chain, "c", entry.chain]
            words += ["b", str(size_bytes), "f", entry.frame]
            await self._call("XADD", name, f"{entry.epoch}-{entry.seq}", *words)
        counts = ("bytes", str(size_bytes), "floor_bytes", "0")
        await self._call("HSET", self.log.keys.meta, *counts)
        return None, None

    async def _call(self, *words: str | bytes) -> None:
        await self.log._commands.call(*words)


@pytest.mark.parametrize("seed", range(6))
async def test_model_answers_like_the_server(server: Server, seed: int) -> None:
    """Hundreds of random commands, each answered alike."""
    log = RedisLog(server.url)
    try:
        await log.epochs.found(
            fingerprint=FINGERPRINT, dim=DIM, voters=VOTERS, epoch_id="founding", level=LEVEL
        )
        replid = server.call("INFO", "replication").split("master_replid:")[1][:40]
        model = ModelServer(replid)
        model.now_ms = 1_000_000
        model.found(VOTERS, "founding")
        pair = Pair(log, model, random.Random(seed))
        founded = model.store.logs[1][0].position
        pair.nodes = {f"n{number}": founded for number in range(4)}
        # What happens depends on the ballots' random names, too; a run goes on until all was met.
        while pair.count < COMMANDS or (not pair.met >= MET and pair.count < COMMANDS_MAX):
            await pair.step()
            pair.remember()
    finally:
        await log.close()
    assert set() == MET - pair.met, sorted(pair.met)
