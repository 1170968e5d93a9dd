"""A model of a node's database: what is committed survives a crash, nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sim.model_store import ENCODERS
from synaptoroute.core.change import Commit, Snapshot
from synaptoroute.core.mutation import Ballot, Entry, Position
from synaptoroute.core.replica import Replica


class DiskFull(Exception):
    """A commit failed; nothing of it is there."""


@dataclass(frozen=True)
class Image:
    """A whole state with its op log, as a snapshot file carries it."""

    snapshot: Snapshot
    digest: str
    oplog: tuple[Entry, ...]
    effects: dict[bytes, int]
    encoder: tuple[str, int]
    chains: dict[int, str]


@dataclass
class Disk:
    """One node's file.

    Attributes:
        node_id: Identity of the node; as old as the file.
        position: What is committed.
        digest: Digest of the state there.
        oplog: The newest entries.
        chains: Hash chains by place, for a comparison of histories.  Real op logs reach back
            thousands of entries; the model's are short, so that gaps are met.
        promise: The newest ballot that was promised.
        orphans: Entries that the winning history does not have.
        effects: How often each write took effect in this history.
        encoder: Whose vectors the rows hold: fingerprint and dimension.
        is_full: Commits fail.
    """

    node_id: str
    position: Position = field(default_factory=Position)
    digest: str = ""
    oplog: list[Entry] = field(default_factory=list)
    chains: dict[int, str] = field(default_factory=dict)
    promise: Ballot = field(default_factory=Ballot)
    orphans: list[Entry] = field(default_factory=list)
    effects: dict[bytes, int] = field(default_factory=dict)
    encoder: tuple[str, int] = ENCODERS[0]
    is_full: bool = False
    _base: Snapshot = field(default_factory=Snapshot)
    _since_base: list[Entry] = field(default_factory=list)

    def commit(self, commits: Sequence[Commit]) -> None:
        """Make a group durable, all or none."""
        if self.is_full:
            raise DiskFull
        for commit in commits:
            self.oplog.append(commit.entry)
            self.chains[commit.entry.seq] = commit.entry.chain
            self._since_base.append(commit.entry)
            self.position, self.digest = commit.entry.position, commit.digest
            if (changed := commit.change.encoder) is not None:
                self.encoder = (changed.fingerprint, changed.dim)
            if not commit.is_duplicate:
                op_id = commit.entry.proposal.op_id
                self.effects[op_id] = self.effects.get(op_id, 0) + 1

    def keep_promise(self, ballot: Ballot) -> None:
        """Make a promise durable."""
        if self.is_full:
            raise DiskFull
        self.promise = ballot

    def boot(self, kind: type[Replica] = Replica) -> Replica:
        """Read the state back, as a start does: the base, and the entries since."""
        replica = kind(self._base, dim=1, requires_seals=True)
        for entry in self._since_base:
            replica.receive(entry)
            replica.advance()
        assert replica.position == self.position, "the file is not what was committed"
        if self.digest:
            assert replica.digest == self.digest, "the state is not what was committed"
        replica.promise(self.promise)
        return replica

    def image(self, replica: Replica) -> Image:
        """Write a snapshot at the position that is committed."""
        return Image(
            replica.snapshot(),
            replica.digest,
            tuple(self.oplog),
            dict(self.effects),
            self.encoder,
            dict(self.chains),
        )

    def install(self, image: Image, orphans_after_seq: int | None) -> None:
        """Take over a snapshot; identity, promise and orphans stay."""
        if self.is_full:
            raise DiskFull
        if orphans_after_seq is not None:
            self.orphans += [entry for entry in self.oplog if entry.seq > orphans_after_seq]
        self.position, self.digest = image.snapshot.position, image.digest
        self.oplog, self.effects = list(image.oplog), dict(image.effects)
        self.encoder, self.chains = image.encoder, dict(image.chains)
        self._base, self._since_base = image.snapshot, []

    def read_log(self, after_seq: int, entries_max: int = 64) -> list[Entry]:
        """Consecutive entries after a place; none where the op log does not reach it."""
        found = [entry for entry in self.oplog if entry.seq > after_seq][:entries_max]
        return found if found and found[0].seq == after_seq + 1 else []

    def drop_old(self, keep: int) -> None:
        """Forget the oldest entries of the op log."""
        del self.oplog[:-keep]
