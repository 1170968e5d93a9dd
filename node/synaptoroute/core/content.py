"""The content root: one SHA-256 over everything that a replica holds at a position.

The digest of ``core.digest`` is a sum that finds accidental differences.  The root resists
forgery: it is a hash tree over the row hashes by slot, the routes, the remembered outcomes, the
staged imports, the epochs, the settings and the encoder, with the position.  Each route set has
trees of its own, folded in by its number; those of ``default`` come first.  Nodes at the same
position have the same root, and a state that differs in anything has another one.

``ContentRoot`` is updated entry by entry: only the leaves that an entry touches are hashed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

from synaptoroute.core.change import (
    Change,
    Commit,
    EpochRecord,
    FittedDecision,
    Outcome,
    Remembered,
    SetRecord,
    SetState,
    Snapshot,
)
from synaptoroute.core.content_trees import ITEM_BYTES, SparseTree, Tree
from synaptoroute.core.digest import (
    alias_hash,
    chunk_hash,
    decision_hash,
    feedback_hash,
    hash_fields,
    import_hash,
    route_hash,
    set_hash,
    settings_hash,
    test_hash,
)
from synaptoroute.core.mutation import (
    IDEMPOTENCY_WINDOW_ENTRIES,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
    Settings,
)

OUTCOME_LEAVES: Final = 1_024
OUTCOMES_PER_LEAF: Final = 128
assert OUTCOME_LEAVES * OUTCOMES_PER_LEAF > IDEMPOTENCY_WINDOW_ENTRIES + OUTCOMES_PER_LEAF
_DIGEST_BYTES: Final = 32
_DOMAIN: Final = "synaptoroute content 1"


class _Import:
    """The hash of one staged import, extended chunk by chunk."""

    __slots__ = ("_chunks", "_head", "_last", "_running", "touched_seq")

    def __init__(self, begin: ImportBegin, touched_seq: int) -> None:
        self._head = import_hash(begin)
        self._chunks: dict[int, bytes] = {}
        self._last = -1
        self._running = sha256(self._head)
        self.touched_seq = touched_seq

    def add(self, number: int, hashed: bytes, seq: int) -> None:
        self._chunks[number] = hashed
        self.touched_seq = seq
        if number > self._last:
            self._last = number
            self._running.update(number.to_bytes(8, "big") + hashed)
            return
        # A chunk that comes late: the order of the numbers counts, not that of arrival.
        self._running = sha256(self._head)
        for each, known in sorted(self._chunks.items()):
            self._running.update(each.to_bytes(8, "big") + known)

    def digest(self) -> bytes:
        return self._running.digest() + self.touched_seq.to_bytes(8, "big")


class _SetContent:
    """The part of the content root that covers one route set."""

    __slots__ = (
        "_decision",
        "_feedback",
        "_imports",
        "_imports_hash",
        "_routes",
        "_rows",
        "_settings",
        "_tests",
        "_tests_hash",
        "record",
    )

    def __init__(self, settings: Settings, rows: Tree | SparseTree, routes: Tree | SparseTree):
        self.record: SetRecord | None = None
        self._settings = settings_hash(settings)
        self._decision = b""
        self._rows, self._routes = rows, routes
        self._imports: dict[str, _Import] = {}
        self._imports_hash = sha256(b"").digest()
        self._feedback: dict[str, bytes] = {}
        self._tests: dict[str, bytes] = {}
        self._tests_hash = b""

    def load(
        self, state: Snapshot | SetState, hash_of_chunk: Callable[[ImportChunk], bytes]
    ) -> None:
        """Take in the content of a set, at the start."""
        self.record = state.record
        self._decision = _decision_part(state.decision)
        for slot, hashed in state.row_hashes.items():
            self._rows.put(slot, hashed)
        for route in state.routes:
            self._routes.put(route.route_id, route_hash(route))
        for staged in state.imports:
            held = self._imports[staged.begin.import_id] = _Import(staged.begin, 0)
            for chunk in staged.chunks:
                held.add(chunk.number, hash_of_chunk(chunk), 0)
            held.touched_seq = staged.touched_seq
        self._imports_hash = self._hash_imports()
        self._feedback = {item.item_id: feedback_hash(item) for item in state.feedback}
        self._tests = {test.text: test_hash(test) for test in state.tests}
        self._tests_hash = self._hash_tests()

    def fork(self) -> _SetContent:
        """Copy what a fork copies."""
        copy = _SetContent(Settings(), self._rows.sparse(), self._routes.sparse())
        copy._settings, copy._decision = self._settings, self._decision
        copy._tests, copy._tests_hash = self._tests.copy(), self._tests_hash
        return copy

    def apply(
        self, change: Change, seq: int, hash_of_chunk: Callable[[ImportChunk], bytes]
    ) -> None:
        """Take in the next change of this set."""
        rows, routes = self._rows, self._routes
        for slot in change.freed:
            rows.drop(slot)
        for write in change.writes:
            rows.put(write.slot, write.row_hash)
        for route in change.deleted:
            routes.drop(route.route_id)
        for route in change.put:
            routes.put(route.route_id, route_hash(route))
        if change.settings is not None:
            self._settings = settings_hash(change.settings)
        if change.decision is not None:
            self._decision = _decision_part(change.decision)
        if change.opened or change.staged or change.closed:
            self._change_imports(change, seq, hash_of_chunk)
        for item in change.feedback_before:
            del self._feedback[item.item_id]
        for item in change.feedback:
            self._feedback[item.item_id] = feedback_hash(item)
        if change.tests or change.tests_before:
            for test in change.tests_before:
                del self._tests[test.text]
            self._tests.update({test.text: test_hash(test) for test in change.tests})
            self._tests_hash = self._hash_tests()
        if change.set_record is not None:
            self.record = change.set_record

    def _change_imports(
        self, change: Change, seq: int, hash_of_chunk: Callable[[ImportChunk], bytes]
    ) -> None:
        if change.opened is not None:
            self._imports[change.opened.import_id] = _Import(change.opened, seq)
        if change.staged is not None:
            chunk = change.staged
            self._imports[chunk.import_id].add(chunk.number, hash_of_chunk(chunk), seq)
        if change.closed is not None:
            del self._imports[change.closed.begin.import_id]
        self._imports_hash = self._hash_imports()

    def _hash_imports(self) -> bytes:
        parts = [held.digest() for _, held in sorted(self._imports.items())]
        return sha256(b"".join(parts)).digest()

    def _hash_tests(self) -> bytes:
        if not self._tests:
            return b""
        return sha256(b"".join([hashed for _, hashed in sorted(self._tests.items())])).digest()

    def decided(self) -> bytes:
        if not self._decision:
            return self._settings
        return hash_fields(b"decided", self._settings.hex(), self._decision.hex())

    def trees(self) -> tuple[bytes, bytes]:
        """Roots of the rows and of the routes."""
        return self._rows.root(), self._routes.root()

    def imports(self) -> bytes:
        return self._imports_hash

    def feedback(self) -> list[bytes]:
        return [hashed for _, hashed in sorted(self._feedback.items())]

    def facts(self) -> bytes:
        """Hash what level 5 adds to a set: its record and its tests; empty if it has neither."""
        if self.record is None and not self._tests:
            return b""
        record = b"" if self.record is None else set_hash(self.record)
        return sha256(b"facts|" + record.hex().encode() + b"|" + self._tests_hash).digest()

    def digest(self) -> bytes:
        """SHA-256 over all of the set."""
        feedback = sha256(b"".join(self.feedback())).digest()
        parts = (self.decided(), *self.trees(), self._imports_hash, feedback, self.facts())
        return sha256(b"".join(parts)).digest()


class ContentRoot:
    """The content root of a state, kept up to date with its commits.

    Invariant: after ``apply`` it equals the root of a new object made from the state's snapshot.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        fingerprint: str,  # Encoder of the rows, and its dimension
        dim: int,
        hash_of_chunk: Callable[[ImportChunk], bytes] = chunk_hash,
    ) -> None:
        self.position = snapshot.position
        self._encoder = fingerprint, dim
        self.hash_of_chunk = hash_of_chunk
        self._default = _SetContent(snapshot.settings, Tree(), Tree())
        self._default.load(snapshot, hash_of_chunk)
        self._sets: dict[int, _SetContent] = {}  # The others, by number
        self._set_digests = SparseTree(_DIGEST_BYTES)
        for state in snapshot.sets:
            held = _SetContent(state.settings, SparseTree(), SparseTree())
            held.load(state, hash_of_chunk)
            self._sets[state.record.number] = held
            self._set_digests.put(state.record.number, held.digest())
        self._aliases = {alias.name: alias_hash(alias) for alias in snapshot.aliases}
        self._aliases_hash = self._hash_aliases()
        self._outcomes = Tree(OUTCOME_LEAVES)
        self._remember(snapshot.remembered)
        self._epochs = [_epoch_hash(each) for each in snapshot.epochs]
        # The voters of now alone: those of a past epoch decide nothing, and a restored backup
        # names other ones there than the log.
        self._voters = snapshot.epochs[-1].opened.voters if snapshot.epochs else ()
        self._level = _level_hash(snapshot.level, snapshot.voter_keys)

    def _remember(self, remembered: Iterable[Remembered]) -> None:
        floor = self.position.seq - IDEMPOTENCY_WINDOW_ENTRIES
        for each in remembered:
            if each.seq >= floor:
                hashed = _outcome_hash(each.op_id, each.request_hash, each.outcome)
                self._outcomes.put_at(*_outcome_place(each.seq), hashed)

    def apply(self, commit: Commit) -> None:
        """Take in the next commit."""
        entry, change = commit.entry, commit.change
        self.position = entry.position
        outcomes = self._outcomes
        if not commit.is_duplicate:
            proposal = entry.proposal
            hashed = _outcome_hash(proposal.op_id, proposal.request_hash, change.outcome)
            outcomes.put_at(*_outcome_place(entry.seq), hashed)
        forgotten = entry.seq - IDEMPOTENCY_WINDOW_ENTRIES - 1
        if forgotten > 0:
            outcomes.drop_at(*_outcome_place(forgotten))
        for part in change.parts():
            if part.set_number:
                self._apply_to_set(part, entry.seq)
            else:
                self._default.apply(part, entry.seq, self.hash_of_chunk)
        if change.alias is not None or change.alias_before is not None:
            self._change_alias(change)
        if change.encoder is not None:
            self._encoder = change.encoder.fingerprint, change.encoder.dim
        if change.epoch is not None:
            self._epochs.append(_epoch_hash(EpochRecord(entry.epoch, change.epoch)))
            self._voters = change.epoch.voters
        if change.voters is not None:
            self._voters = change.voters
        if (finalized := change.finalized) is not None:
            self._level = _level_hash(finalized.level, finalized.voter_keys)

    def _apply_to_set(self, change: Change, seq: int) -> None:
        """Take in the change of a set that is not ``default``."""
        number = change.set_number
        if change.is_set_removed:
            del self._sets[number]
            self._set_digests.drop(number)
            return
        held = self._sets.get(number)
        if held is None:
            source = change.forked_from
            if source is None:
                held = _SetContent(Settings(), SparseTree(), SparseTree())
            else:
                held = (self._sets[source] if source else self._default).fork()
            self._sets[number] = held
        held.apply(change, seq, self.hash_of_chunk)
        self._set_digests.put(number, held.digest())

    def _change_alias(self, change: Change) -> None:
        if change.alias is not None:
            self._aliases[change.alias.name] = alias_hash(change.alias)
        elif change.alias_before is not None:
            del self._aliases[change.alias_before.name]
        self._aliases_hash = self._hash_aliases()

    def _hash_aliases(self) -> bytes:
        return sha256(b"".join([hashed for _, hashed in sorted(self._aliases.items())])).digest()

    def _route_sets(self) -> tuple[bytes, ...]:
        """Hash the facts of level 5 of the cluster; empty if there are none."""
        facts = self._default.facts()
        if not (facts or self._sets or self._aliases):
            return ()
        parts = (b"sets|", self._set_digests.root(), self._aliases_hash, facts)
        return (sha256(b"".join(parts)).digest(),)

    def hex(self) -> str:
        """The root, 64 hexadecimal digits."""
        at, (fingerprint, dim) = self.position, self._encoder
        head = f"{_DOMAIN}|{at.epoch}.{at.seq}.{at.chain}|{fingerprint}|{dim}|{len(self._epochs)}|"
        parts = (
            head.encode(),
            self._default.decided(),
            self._level,
            hash_fields(b"voters", *self._voters),
            *self._default.trees(),
            self._outcomes.root(),
            self._default.imports(),
            *self._epochs,
            # Nothing at all for an empty queue, as in the roots of older releases.
            *self._default.feedback(),
            *self._route_sets(),
        )
        return sha256(b"".join(parts)).hexdigest()


def _decision_part(decision: FittedDecision) -> bytes:
    return decision_hash(decision) if decision.payload else b""


def _outcome_place(seq: int) -> tuple[int, int]:
    bucket, place = divmod(seq, OUTCOMES_PER_LEAF)
    return bucket % OUTCOME_LEAVES, place


def _outcome_hash(op_id: bytes, request_hash: bytes, outcome: Outcome) -> bytes:
    revision = outcome.revision or ""
    # Of a refusal alone: older releases do not keep that a write created its route, so nodes
    # that applied it may differ in it.
    message = outcome.message if outcome.code else ""
    # Only the last field may hold a separator.
    text = (
        f"outcome|{op_id.hex()}|{request_hash.hex()}|{outcome.at}|{outcome.status}|{revision}"
        f"|{outcome.code}|{outcome.count}|{message}"
    )
    return sha256(text.encode()).digest()[:ITEM_BYTES]


def _epoch_hash(record: EpochRecord) -> bytes:
    opened: OpenEpoch = record.opened
    place = f"{record.epoch}.{opened.base_seq}"
    return hash_fields(b"epoch", place, opened.epoch_id, opened.fingerprint, str(opened.dim))


def _level_hash(level: int, voter_keys: Iterable[tuple[str, str]]) -> bytes:
    return hash_fields(b"level", str(level), *(text for pair in voter_keys for text in pair))


def root_of(snapshot: Snapshot, fingerprint: str, dim: int) -> str:
    """Compute the content root of a state from scratch."""
    return ContentRoot(snapshot, fingerprint, dim).hex()
