"""A whole cluster in one thread: its clock, its network, its servers, its clients.

Everything that happens is one command, a line of text such as ``turn n2`` or
``failover 3 alive``; ``do`` carries it out and draws nothing.  So a run is a list of
lines, and any run can be told, kept and repeated.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

from sim.checks import (
    convergence,
    durability,
    encoders,
    learning,
    linearizable,
    once,
    order,
    requests,
    route_sets,
    sessions,
)
from sim.checks.prefix import PrefixCheck
from sim.history import Answer, HeadRead, History, Op, Read
from sim.learning import KINDS, Learning, mutation_of
from sim.model_disk import Disk
from sim.model_server import ModelServer
from sim.model_store import Store
from sim.node import Node
from sim.operators import VECTORS, Operators
from sim.route_sets import KINDS as SET_KINDS
from sim.route_sets import proposal_of
from sim.server_fates import FORGED, ServerFates
from sim.upkeep import Upkeep
from synaptoroute.core.change import Commit
from synaptoroute.core.codec import LEVEL, digest_of, encode_proposal
from synaptoroute.core.digest import next_chain
from synaptoroute.core.levels import DECISION_LEVEL, VOTES_LEVEL
from synaptoroute.core.mutation import (
    CHAIN_START,
    Ballot,
    DeleteRoute,
    Entry,
    Mutation,
    Position,
    Proposal,
    PutRoute,
    ReviseRoutes,
    Revision,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.recovery import Decision, Report
from synaptoroute.core.replica import Replica, Source
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.scripts import Head, Placed
from synaptoroute.trust.voters import AgreedChange, VoterChange, hash_of_keys

STEP_MS = 40
HEAL_TURNS_MAX = 4_000
PAST_MAX = 40
CALLS = frozenset(
    {"turn", "write", "report", "trim", "voter", "keep", "switch", "import", "expire", "finalize"}
)
"""Commands after which a replica may have fallen behind."""
OPLOG_KEEP = 24
REFILL_KEEP = 12


@dataclass(frozen=True)
class Kinds:
    """The classes of a world; ablations bring others."""

    node: type[Node] = Node
    server: type[ModelServer] = ModelServer


def hash_of(text: str) -> bytes:
    """Request hash of a client that asks for this."""
    return blake2b(text.encode(), digest_size=16).digest()


def _forged(effects: Mapping[bytes, int]) -> bool:
    return any(op_id.startswith(FORGED) for op_id in effects)


def _decided(put: PutRoute, number: int) -> PutRoute:
    """A route with a description, a negative and a least confidence of its own."""
    (vector,) = put.vectors
    return replace(
        put,
        confidence_min=0.5,
        description=f"about {number}",
        description_vector=vector,
        negatives=(f"not {number}",),
        negative_vectors=(vector,),
    )


class World(ServerFates, Operators, Upkeep, Learning):
    """The cluster and what surrounds it.

    Attributes:
        server: The server that the address of the log leads to now.
        old: Servers that were demoted and live on.
        history: What clients saw.
        told: The commands so far.
    """

    def __init__(
        self, voters: int, observers: int, kinds: Kinds | None = None, level: int = LEVEL
    ) -> None:
        self.kinds = kinds or Kinds()
        self.now_ms, self.step_count = 1_000, 0
        self.counts: Counter[str] = Counter()
        self.history, self.prefix = History(), PrefixCheck()
        self.told: list[str] = []
        self.is_forced = False
        self._names = 0
        self.switch_ids: list[bytes] = []
        self.votes: dict[str, Report] = {}  # What nodes signed, by its text
        self.agreed: dict[str, AgreedChange] = {}
        self.log_bytes_max = 0
        self.expiries: dict[bytes, tuple[str, int]] = {}
        self.found: list[str] = []
        self.lineage: dict[str, str] = {}
        self._learned: dict[Position, tuple[object, ...]] = {}
        self.server = self._life(None)
        self.old: list[ModelServer] = []
        self.past: deque[Store] = deque(maxlen=PAST_MAX)
        self.backup: Store | None = None
        self.replica: ModelServer | None = None
        self._asked: dict[str, tuple[Replica, Head, str, int]] = {}
        self._pending: list[tuple[ModelServer, Position, Op]] = []
        self._waiting: dict[tuple[str, bytes], set[bytes]] = {}
        self.nodes: list[Node] = []
        for number in range(voters + observers):
            self.nodes.append(self.kinds.node(self, f"n{number}", Disk(f"n{number}")))
        self.server.found([f"n{number}" for number in range(voters)], "founding", level)
        self.server.sent = []
        for node in self.nodes:
            # Where it is lost before anybody holds it, nodes would simply found it again.
            node.apply(self.server.store.logs[1][0], Source.LOG, 1)
        self.past.append(self.server.store.copy())

    def _life(self, store: Store | None) -> ModelServer:
        self._names += 1
        server = self.kinds.server(f"r{self._names}", store)
        server.now_ms = self.now_ms
        server.log_bytes_max = self.log_bytes_max
        server.lineage = self.lineage
        return server

    def vote(self, report: Report) -> None:
        """A node signs its report to a ballot: only nodes call this."""
        self.votes[f"vote {len(self.votes)} of {report.node_id}"] = report

    def read_vote(self, text: str) -> tuple[Report, str]:
        """Verify a vote; a node's name is its key."""
        if (found := self.votes.get(text)) is None:
            raise ProtocolError("nobody gave this vote", forged=True)
        return found, found.node_id

    def agree(self, mutation: VoterAdd | VoterRemove, op_id: bytes) -> tuple[str, ...]:
        """The voters that can be reached agree to a change of the voters."""
        is_adding, texts = isinstance(mutation, VoterAdd), []
        for node in self.nodes:
            voters = node.replica.voters
            if not node.is_up or node.is_cut or node.node_id not in voters:
                continue
            before = hash_of_keys("" for _ in voters)
            change = VoterChange("c", op_id.hex(), is_adding, mutation.node_id, "", before)
            texts.append(f"{node.node_id} agrees to {op_id.hex()}")
            at = node.replica.position
            self.agreed[texts[-1]] = AgreedChange(node.node_id, node.node_id, change, at)
        return tuple(texts)

    def read_change(self, text: str) -> AgreedChange:
        """Verify a voter's agreement."""
        if (found := self.agreed.get(text)) is None:
            raise ProtocolError("nobody agreed to this", forged=True)
        return found

    def ballot_name(self) -> str:
        """A name that no other ballot has."""
        self._names += 1
        return f"b{self._names}"

    def node(self, name: str) -> Node:
        """A node by its name."""
        return self.nodes[int(name[1:])]

    def peers_of(self, node: Node) -> list[Node]:
        """Nodes that can be asked for what they hold, the newest first."""
        if node.is_cut:
            return []
        others = [n for n in self.nodes if n is not node and n.is_up and not n.is_cut]
        return sorted(others, key=lambda n: n.replica.position.revision, reverse=True)

    def refill_floor(self, base: Position) -> int:
        """How far back a log is filled again: little, so that trimming is exercised."""
        return max(0, base.seq - REFILL_KEEP)

    # --- what happens to nodes -------------------------------------------------------------

    def carry(self, server: ModelServer) -> None:
        """Put what was published into the inboxes of those who are subscribed."""
        if not server.sent:
            return
        for node in self.nodes:
            if node.is_up and not node.is_cut and node.server is server:
                node.inbox += server.sent
        server.sent = []

    def note_commits(self, node: Node, commits: tuple[Commit, ...]) -> None:
        """A node made entries durable."""
        if not self.is_forced:
            for commit in commits:
                self.prefix.committed(node.node_id, commit.entry.position, commit.digest)
        for commit in commits:
            self.watch_expiry(commit)
            op = self.history.ops.get(commit.entry.proposal.op_id)
            if op is None:
                continue
            self._answer(node, commit, op)
            if not commit.is_duplicate and not op.outcome:
                op.decided_by(commit.entry.proposal.request_hash)
                op.outcome = commit.change.outcome.status
                op.at = commit.change.outcome.at
        self.watch_learning(node)
        node.disk.drop_old(OPLOG_KEEP)
        self.counts["commits"] += len(commits)

    def _answer(self, node: Node, commit: Commit, op: Op) -> None:
        """Answer the clients that wait at a node for an identity, each for its own request."""
        for request_hash in sorted(self._waiting.pop((node.name, op.op_id), ())):
            outcome = commit.outcome_for(request_hash)
            code, at = outcome.code or "", outcome.at
            self.history.answers.append(Answer(node.name, op.op_id, request_hash, code, at))

    def note_installed(self, node: Node) -> None:
        """A node took a snapshot."""
        if not self.is_forced:
            self.prefix.installed(node.node_id, node.replica.position)
        self.counts["snapshots"] += 1
        self.counts["orphans"] += len(node.disk.orphans)

    def note_opened(self, ballot: Ballot, decision: Decision) -> None:
        """An epoch was opened."""
        self.counts["epochs"] += 1
        self.counts["kept" if decision.is_kept else "refilled"] += 1
        del ballot

    # --- commands ----------------------------------------------------------------------------

    def do(self, line: str) -> None:
        """Carry out one command."""
        self.told.append(line)
        self.step_count += 1
        self.now_ms += STEP_MS
        for server in (self.server, *self.old):
            server.now_ms = self.now_ms
        word, *rest = line.split()
        getattr(self, f"do_{word}")(*rest)
        self._acknowledge()
        self.watch_size()
        if word in CALLS:
            self.past.append(self.server.store.copy())

    def do_tick(self, ms: str) -> None:
        """Let time pass."""
        self.now_ms += int(ms)

    def do_write(self, name: str, number: str, kind: str, route: str, fate: str = "") -> None:
        """A client writes, or repeats a write, through a node; the answer may be lost."""
        node = self.node(name)
        if not node.is_up or node.is_cut or not node.server.is_alive:
            return
        op = self._op(int(number), kind, route, node)
        if op is None:
            return
        fingerprint = node.disk.encoder[0]
        frame, proposal = self._encoded(self._request(op, int(number), route), fingerprint)
        self._waiting.setdefault((node.name, op.op_id), set()).add(proposal.request_hash)
        for _ in range(2):
            placed = node.server.append(
                node.replica.position,
                [(frame, proposal)],
                epoch_id=node.epoch_id(),
                fingerprint=fingerprint,
                level=node.replica.level,
            )
            if not self.made_room(node, placed):
                break
        if isinstance(placed, Placed):
            self.counts["accepted"] += 1
            head = node.server.store.meta
            assert head is not None
            if fate != "lost" and not op.is_acknowledged:
                at = Position(placed.epoch, placed.last_seq, str(head["chain"]))
                self._pending.append((node.server, at, op))
        self.carry(node.server)

    def _op(self, number: int, kind: str, route: str, node: Node) -> Op | None:
        op_id = number.to_bytes(16, "big")
        op = self.history.ops.get(op_id)
        if op is not None:
            return op
        if kind in SET_KINDS:
            vector, sets = VECTORS[node.disk.encoder[0]], node.replica.sets
            return self._new_op(node, kind, route, proposal_of(
                kind, number, route, sets, vector, op_id))  # fmt: skip
        held = node.replica.table.routes.get(route)
        mutation: Mutation = DeleteRoute(route)
        if kind in KINDS:
            table, vector = node.replica.table, VECTORS[node.disk.encoder[0]]
            mutation = mutation_of(kind, number, route, table, vector)
        elif kind != "del":
            mutation = PutRoute(route, (f"text {number}",), (VECTORS[node.disk.encoder[0]],))
            if number % 3 == 0 and node.replica.level >= DECISION_LEVEL:
                mutation = _decided(mutation, number)
        if_match = held.revision if kind == "cas" and held else None
        kind = kind if kind != "cas" or if_match else "put"
        return self._new_op(node, kind, route, Proposal(op_id, mutation, if_match=if_match))

    def _new_op(self, node: Node, kind: str, route: str, proposal: Proposal) -> Op | None:
        """Note a write that was not sent before; None if the level of the log refuses it."""
        if not node.may_write(proposal):
            self.counts["not_finalized"] += 1
            return None
        asked, op_id = hash_of(route), proposal.op_id
        proposal = replace(proposal, request_hash=asked)
        op = Op(op_id, route, kind, encode_proposal(proposal), proposal, self.step_count)
        op.if_match = proposal.if_match
        op.requests[asked] = (route, kind, proposal.if_match)
        self.history.ops[op_id] = op
        return op

    def _request(self, op: Op, number: int, route: str) -> Proposal:
        """The write again; or, of every third number, another request with its identity."""
        proposal = op.proposal
        assert isinstance(proposal, Proposal)
        asked = hash_of(route)
        if number % 3 or asked == proposal.request_hash:
            return proposal
        op.requests.setdefault(asked, (route, "put", None))
        return Proposal(op.op_id, PutRoute(route, (f"other {route}",), (b"0000",)), asked)

    @staticmethod
    def _encoded(proposal: Proposal, fingerprint: str) -> tuple[bytes, Proposal]:
        """A write with vectors of the node that it goes through; each try makes them anew."""
        if isinstance(put := proposal.mutation, PutRoute):
            vector = VECTORS[fingerprint]
            mutation = replace(
                put,
                vectors=(vector,) * len(put.utterances),
                description_vector=vector if put.description else b"",
                negative_vectors=(vector,) * len(put.negatives),
            )
            proposal = replace(proposal, mutation=mutation)
        if isinstance(revision := proposal.mutation, ReviseRoutes):
            vector = VECTORS[fingerprint]
            routes = tuple(
                replace(route, vectors=(vector,) * len(route.utterances))
                for route in revision.routes
            )
            proposal = replace(proposal, mutation=replace(revision, routes=routes))
        return encode_proposal(proposal), proposal

    def do_read(self, name: str, number: str) -> None:
        """A client reads at a node with the version of a write."""
        node, op = self.node(name), self.history.ops.get(int(number).to_bytes(16, "big"))
        if op is None or op.at is None or not node.is_up or not op.is_acknowledged:
            return
        position, epochs = node.replica.position, node.replica.epochs
        if op.at.epoch > position.epoch or op.at.seq > position.seq:
            return  # it would wait
        later = [each for each in epochs if each.epoch > op.at.epoch]
        if later and op.at.seq > later[0].opened.base_seq:
            return  # it would be told that the version was lost
        is_seen = op.op_id in node.disk.effects
        read = Read(node.name, op.at, position.revision, op.op_id, is_seen)
        if not node.diverged:
            self.history.reads.append(read)

    def do_ask(self, name: str, route: str) -> None:
        """A client asks a node for the newest state: the node reads the head of the log."""
        node = self.node(name)
        if node.is_up and not node.is_cut and node.server.is_alive:
            head = node.server.head()
            asked = self._asked.get(name)
            is_waiting = asked is not None and asked[0] is node.replica
            if isinstance(head, Head) and head.is_open and not is_waiting:
                self._asked[name] = node.replica, head, route, self.step_count

    def do_answer(self, name: str) -> None:
        """The node has the head confirmed, and answers with what it holds."""
        node, asked = self.node(name), self._asked.get(name)
        if asked is None or not node.is_up or node.diverged or asked[0] is not node.replica:
            return
        _, head, route, began = asked
        if node.replica.position.revision < head.position.revision:
            return  # it waits
        del self._asked[name]
        if not (node.confirm(head) and node.confirm_answer(head)):
            self.counts["unconfirmed"] += 1
            return
        self.counts["head_reads"] += 1
        record = node.replica.table.routes.get(route)
        value = b""
        if record is not None:
            value = int(record.utterances[0].removeprefix("text ")).to_bytes(16, "big")
        read = HeadRead(node.name, route, began, self.step_count, value)
        self.history.head_reads.append(read)

    def do_deliver(self, name: str, index: str, fate: str = "") -> None:
        """The bus brings a message: in or out of order, once, twice (``dup``) or never."""
        node = self.node(name)
        if not node.is_up or int(index) >= len(node.inbox):
            return
        entry = node.inbox[int(index)]
        if fate != "dup":
            del node.inbox[int(index)]
        if fate != "lost":
            node.hear(entry)

    def do_forge(self, name: str) -> None:
        """Somebody publishes an entry that is sound in itself and continues nothing."""
        node = self.node(name)
        at = node.replica.position
        if node.is_up and at.epoch:
            proposal = Proposal(FORGED + at.seq.to_bytes(10, "big"), DeleteRoute("a"))
            frame = encode_proposal(proposal)
            chain = next_chain(CHAIN_START, at.epoch, at.seq + 1, digest_of(frame))
            sealed = (b"seal", at)  # As if a member had: the chain alone has to refuse it
            node.hear(Entry(at.epoch, at.seq + 1, CHAIN_START, chain, 0, frame, proposal, *sealed))

    def do_hijack(self, act: str, back: str = "1") -> None:
        """Somebody owns the server: appends, repeats an entry, or claims what never was."""
        level = (self.server.store.meta or {}).get("level", 0)
        if act in ("open", "voter") and level < VOTES_LEVEL:
            return  # nothing stands against a member that does this below the level of the votes
        self.counts["hijacks"] += 1
        log = self.server.store.logs.get((self.server.store.meta or {}).get("epoch", 0), [])
        if act == "claim":
            self.server.claim_trimmed()
        elif act == "votes":
            self.server.forge_votes()
        elif act == "open":
            number = self.counts["hijacks"]
            self.server.open_alone(FORGED + number.to_bytes(10, "big"), self.ballot_name())
        elif act == "voter":
            number = self.counts["hijacks"]
            proposal = Proposal(FORGED + number.to_bytes(10, "big"), VoterAdd("liar"))
            self.server.hijack_sealed(encode_proposal(proposal), proposal)
        elif act == "forge":
            number = self.counts["hijacks"]
            proposal = Proposal(FORGED + number.to_bytes(10, "big"), DeleteRoute("a"))
            self.server.hijack(encode_proposal(proposal), proposal, None)
        elif log:
            old = log[-1 - min(int(back), len(log) - 1)]
            self.server.hijack(old.frame, old.proposal, old.stood, old.seal)
        self.carry(self.server)

    def do_report(self, name: str) -> None:
        """A voter reports at once what it made durable."""
        node = self.node(name)
        if node.is_up and not node.is_cut and node.server.is_alive and node.is_open:
            node.server.report_position(node.node_id, node.replica.position)

    def do_turn(self, name: str, fate: str = "") -> None:
        """A node makes its next call to the server; call or answer may be lost."""
        node = self.node(name)
        if node.is_up:
            node.turn(is_lost=fate == "lost", is_cut=fate == "cut")

    def do_crash(self, name: str) -> None:
        """A process dies, and its clients with it."""
        self.node(name).crash()
        self._waiting = {key: each for key, each in self._waiting.items() if key[0] != name}

    def do_start(self, name: str) -> None:
        """It starts again on its disk."""
        node = self.node(name)
        if not node.is_up:
            node.start()

    def do_wipe(self, name: str) -> None:
        """A node comes back with an empty disk: as another node, that cannot vote."""
        if self.counts["splits"]:
            return  # see ``do_split``
        node = self.node(name)
        self.counts["wiped"] += 1
        node.disk = Disk(f"{node.name}w{self.counts['wiped']}")
        node.start()

    def do_disk(self, name: str, state: str) -> None:
        """A disk is full, or has room again."""
        self.node(name).disk.is_full = state == "full"

    def do_cut(self, name: str) -> None:
        """A node loses its network."""
        node = self.node(name)
        node.is_cut, node.inbox = True, []

    def do_mend(self, name: str) -> None:
        """It has it again."""
        self.node(name).is_cut = False

    def do_attach(self, name: str, index: str) -> None:
        """A node's connection leads to the server, or still to an old one."""
        servers = [self.server, *self.old]
        node = self.node(name)
        node.server, node.inbox = servers[min(int(index), len(servers) - 1)], []

    # --- acknowledgements ----------------------------------------------------------------------

    def _acknowledge(self) -> None:
        """Tell clients what a majority holds, as often as anything happens."""
        if not self._pending:
            return
        left = []
        for server, at, op in self._pending:
            meta = server.store.meta
            if not server.is_alive or meta is None or meta["epoch"] != at.epoch:
                continue  # the client cannot know; it may repeat the write
            if server.is_proved(at):
                if op.ended is None:
                    op.ended = self.step_count
                    self.counts["acknowledged"] += 1
            else:
                left.append((server, at, op))
        self._pending = left

    # --- the end -----------------------------------------------------------------------------

    def heal(self) -> None:
        """Undo every fault and let the nodes run until they are one, or too long."""
        for server in self.old:
            server.is_alive = False
        for node in self.nodes:
            node.disk.is_full = node.is_cut = False
            if not node.is_up:
                node.start()
            node.server, node.inbox = self.server, []
        for turn in range(HEAL_TURNS_MAX):
            self.now_ms += STEP_MS
            self.server.now_ms = self.now_ms
            self.nodes[turn % len(self.nodes)].turn()
            if turn % len(self.nodes) == 0 and not self._apart():
                return

    def _apart(self) -> list[str]:
        head = self.server.head()
        is_open = isinstance(head, Head) and head.is_open
        return convergence.apart(
            head.position if is_open and isinstance(head, Head) else None,
            {node.name: node.replica.position for node in self.nodes},
            {node.name: node.replica.digest for node in self.nodes},
        )

    def _settle_outcomes(self) -> None:
        """Judge writes by the history that survived: what was applied elsewhere is undone."""
        replica = self.nodes[0].replica
        for op in self.history.ops.values():
            known = replica.outcome_of(op.op_id)
            if known is not None:
                op.decided_by(known.request_hash)
            op.outcome = known.outcome.status if known else ""
            op.at = known.outcome.at if known else None

    def violations(self) -> list[str]:
        """Everything that does not hold."""
        self._settle_outcomes()
        effects = {node.name: node.disk.effects for node in self.nodes}
        return [
            *self.prefix.found,
            *self.found,
            *self._apart(),
            *durability.lost(self.history, effects),
            *once.doubled(effects),
            *order.backwards(self.history),
            *order.unserial(self.history),
            *linearizable.stale(self.history),
            *(self._by_version() if self.prefix.is_one else ()),
            *self._encoders(),
            *learning.forgotten(
                self.history, {node.name: node.replica.table for node in self.nodes}
            ),
            *route_sets.misplaced(
                self.history,
                {node.name: node.replica.sets for node in self.nodes},
                self._switch_places(),
            ),
            *(f"{name} applied a forged entry" for name, each in effects.items() if _forged(each)),
        ]

    def _switch_places(self) -> list[Revision]:
        """Where the encoder was switched in the history that survived."""
        known = map(self.nodes[0].replica.outcome_of, self.switch_ids)
        outcomes = [each.outcome for each in known if each is not None]
        return [outcome.at for outcome in outcomes if outcome.status == "applied"]

    def _by_version(self) -> list[str]:
        """What does not hold of places: where one has two histories, it says nothing."""
        return [*self._requests(), *sessions.blind(self.history)]

    def _requests(self) -> list[str]:
        replica = self.nodes[0].replica
        known = {op_id: replica.outcome_of(op_id) for op_id in self.history.ops}
        winners = {op_id: each.request_hash for op_id, each in known.items() if each}
        bases = {each.epoch: each.opened.base_seq for each in replica.epochs}
        return requests.confused(self.history, winners, bases)

    def _encoders(self) -> list[str]:
        head = self.server.head()
        if not isinstance(head, Head):
            return []
        return encoders.strange(
            (head.fingerprint, head.dim),
            {node.name: node.disk.encoder for node in self.nodes},
            {node.name: list(node.replica.sets.tables.values()) for node in self.nodes},
            VECTORS,
        )
