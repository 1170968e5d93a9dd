"""The content root: one SHA-256 over everything that a replica holds at a position.

The digest of ``core.digest`` is a sum that finds accidental differences.  The root resists
forgery: it is a hash tree over the row hashes by slot, the routes, the remembered outcomes, the
staged imports, the epochs, the settings and the encoder, with the position.  Nodes at the same
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
    Snapshot,
)
from synaptoroute.core.digest import (
    chunk_hash,
    decision_hash,
    feedback_hash,
    hash_fields,
    import_hash,
    route_hash,
    settings_hash,
)
from synaptoroute.core.mutation import (
    IDEMPOTENCY_WINDOW_ENTRIES,
    ImportBegin,
    ImportChunk,
    OpenEpoch,
)

LEAVES: Final = 1_024
OUTCOME_LEAVES: Final = 1_024
OUTCOMES_PER_LEAF: Final = 128
assert OUTCOME_LEAVES * OUTCOMES_PER_LEAF > IDEMPOTENCY_WINDOW_ENTRIES + OUTCOMES_PER_LEAF
_ITEM_BYTES: Final = 16
_NO_ITEM: Final = bytes(_ITEM_BYTES)
_GROUP: Final = 32  # Leaves under one inner node
_DOMAIN: Final = "synaptoroute content 1"


class _Tree:
    """A hash tree of three levels over numbered items of 16 bytes; a missing item is zero.

    Equal items give equal roots, whatever was there before.
    """

    __slots__ = ("_changed", "_groups", "_hashes", "_leaves", "_root")

    def __init__(self, leaves: int) -> None:
        self._leaves = [bytearray() for _ in range(leaves)]
        empty = sha256(b"").digest()
        self._hashes = [empty] * leaves
        self._groups = [b""] * (leaves // _GROUP)
        self._changed = set(range(leaves))
        self._root = b""

    def put(self, leaf: int, place: int, item: bytes) -> None:
        held, at = self._leaves[leaf], place * _ITEM_BYTES
        if len(held) < at:
            held.extend(bytes(at - len(held)))
        held[at : at + _ITEM_BYTES] = item
        self._changed.add(leaf)

    def drop(self, leaf: int, place: int) -> None:
        held, at = self._leaves[leaf], place * _ITEM_BYTES
        if at >= len(held):
            return
        held[at : at + _ITEM_BYTES] = _NO_ITEM
        # Without zeros at the end, a leaf is a function of its items alone.
        while held.endswith(_NO_ITEM):
            del held[-_ITEM_BYTES:]
        self._changed.add(leaf)

    def root(self) -> bytes:
        """Return the root; hashes the leaves that changed since the last call."""
        if not self._changed:
            return self._root
        hashes, leaves = self._hashes, self._leaves
        groups = set()
        for leaf in self._changed:
            hashes[leaf] = sha256(leaves[leaf]).digest()
            groups.add(leaf // _GROUP)
        self._changed.clear()
        for group in groups:
            first = group * _GROUP
            self._groups[group] = sha256(b"".join(hashes[first : first + _GROUP])).digest()
        self._root = sha256(b"".join(self._groups)).digest()
        return self._root


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
        self._settings = settings_hash(snapshot.settings)
        self._decision = _decision_part(snapshot.decision)
        self.hash_of_chunk = hash_of_chunk
        self._rows, self._routes = _Tree(LEAVES), _Tree(LEAVES)
        self._outcomes = _Tree(OUTCOME_LEAVES)
        self._imports: dict[str, _Import] = {}
        for slot, hashed in snapshot.row_hashes.items():
            self._rows.put(slot % LEAVES, slot // LEAVES, hashed)
        for route in snapshot.routes:
            self._routes.put(route.route_id % LEAVES, route.route_id // LEAVES, route_hash(route))
        self._remember(snapshot.remembered)
        for staged in snapshot.imports:
            held = self._imports[staged.begin.import_id] = _Import(staged.begin, 0)
            for chunk in staged.chunks:
                held.add(chunk.number, hash_of_chunk(chunk), 0)
            held.touched_seq = staged.touched_seq
        self._imports_hash = self._hash_imports()
        self._feedback = {item.item_id: feedback_hash(item) for item in snapshot.feedback}
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
                self._outcomes.put(*_outcome_place(each.seq), hashed)

    def apply(self, commit: Commit) -> None:
        """Take in the next commit."""
        entry, change = commit.entry, commit.change
        self.position = entry.position
        rows, routes, outcomes = self._rows, self._routes, self._outcomes
        for slot in change.freed:
            rows.drop(slot % LEAVES, slot // LEAVES)
        for write in change.writes:
            rows.put(write.slot % LEAVES, write.slot // LEAVES, write.row_hash)
        for route in change.deleted:
            routes.drop(route.route_id % LEAVES, route.route_id // LEAVES)
        for route in change.put:
            routes.put(route.route_id % LEAVES, route.route_id // LEAVES, route_hash(route))
        if not commit.is_duplicate:
            proposal = entry.proposal
            hashed = _outcome_hash(proposal.op_id, proposal.request_hash, change.outcome)
            outcomes.put(*_outcome_place(entry.seq), hashed)
        forgotten = entry.seq - IDEMPOTENCY_WINDOW_ENTRIES - 1
        if forgotten > 0:
            outcomes.drop(*_outcome_place(forgotten))
        if change.settings is not None:
            self._settings = settings_hash(change.settings)
        if change.decision is not None:
            self._decision = _decision_part(change.decision)
        if change.encoder is not None:
            self._encoder = change.encoder.fingerprint, change.encoder.dim
        if change.opened or change.staged or change.closed:
            self._change_imports(change, entry.seq)
        for item in change.feedback_before:
            del self._feedback[item.item_id]
        for item in change.feedback:
            self._feedback[item.item_id] = feedback_hash(item)
        if change.epoch is not None:
            self._epochs.append(_epoch_hash(EpochRecord(entry.epoch, change.epoch)))
            self._voters = change.epoch.voters
        if change.voters is not None:
            self._voters = change.voters
        if (finalized := change.finalized) is not None:
            self._level = _level_hash(finalized.level, finalized.voter_keys)

    def _change_imports(self, change: Change, seq: int) -> None:
        if change.opened is not None:
            self._imports[change.opened.import_id] = _Import(change.opened, seq)
        if change.staged is not None:
            chunk = change.staged
            self._imports[chunk.import_id].add(chunk.number, self.hash_of_chunk(chunk), seq)
        if change.closed is not None:
            del self._imports[change.closed.begin.import_id]
        self._imports_hash = self._hash_imports()

    def _hash_imports(self) -> bytes:
        parts = [held.digest() for _, held in sorted(self._imports.items())]
        return sha256(b"".join(parts)).digest()

    def _decided(self) -> bytes:
        if not self._decision:
            return self._settings
        return hash_fields(b"decided", self._settings.hex(), self._decision.hex())

    def hex(self) -> str:
        """The root, 64 hexadecimal digits."""
        at, (fingerprint, dim) = self.position, self._encoder
        head = f"{_DOMAIN}|{at.epoch}.{at.seq}.{at.chain}|{fingerprint}|{dim}|{len(self._epochs)}|"
        parts = (
            head.encode(),
            self._decided(),
            self._level,
            hash_fields(b"voters", *self._voters),
            self._rows.root(),
            self._routes.root(),
            self._outcomes.root(),
            self._imports_hash,
            *self._epochs,
            # Nothing at all for an empty queue, as in the roots of older releases.
            *(hashed for _, hashed in sorted(self._feedback.items())),
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
    return sha256(text.encode()).digest()[:_ITEM_BYTES]


def _epoch_hash(record: EpochRecord) -> bytes:
    opened: OpenEpoch = record.opened
    place = f"{record.epoch}.{opened.base_seq}"
    return hash_fields(b"epoch", place, opened.epoch_id, opened.fingerprint, str(opened.dim))


def _level_hash(level: int, voter_keys: Iterable[tuple[str, str]]) -> bytes:
    return hash_fields(b"level", str(level), *(text for pair in voter_keys for text in pair))


def root_of(snapshot: Snapshot, fingerprint: str, dim: int) -> str:
    """Compute the content root of a state from scratch."""
    return ContentRoot(snapshot, fingerprint, dim).hex()
