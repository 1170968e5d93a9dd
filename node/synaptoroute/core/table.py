"""The replicated state: which route owns which slots.

Rule 1: ``apply`` is the only way in, ``revert`` the only way back.  Rule 2:
``apply`` looks at nothing but the table and the proposal, so equal logs give
equal tables on every node.  Rule 3: it first plans the whole change as a value,
then enacts it, so a proposal that is rejected, or raises, changes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final

from synaptoroute.core.change import (
    Change,
    Outcome,
    Rejection,
    RouteRecord,
    SlotWrite,
    StagedImport,
)
from synaptoroute.core.digest import (
    Digest,
    chunk_hash,
    import_hash,
    route_hash,
    row_hash,
    settings_hash,
    sum_state,
)
from synaptoroute.core.imports import encoder_of, join_chunks, plan_import, plan_switch, with_chunk
from synaptoroute.core.mutation import (
    KEEP,
    AddUtterances,
    Audit,
    Calibrate,
    DeleteRoute,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    Proposal,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
    Settings,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.validation import check_mutation

_STALE_MIN: Final = 1_024


class FreeNumbers:
    """The numbers 0, 1, 2, ... that are not in use.

    Invariants: ``high_water`` is one above the highest number in use, and 0 where
    none is; below it, exactly the members of ``_free`` are free.  The heap holds
    every member of ``_free``, and may hold numbers that were claimed since: they
    are skipped, and swept out before they outnumber the others.
    """

    __slots__ = ("_free", "_heap", "high_water")

    def __init__(self) -> None:
        self.high_water = 0
        self._free: set[int] = set()
        self._heap: list[int] = []

    def peek(self, count: int) -> list[int]:
        """Say which ``count`` numbers are lowest, without claiming them."""
        lowest: list[int] = []
        while self._heap and len(lowest) < count:
            number = heapq.heappop(self._heap)
            if number in self._free and (not lowest or lowest[-1] != number):
                lowest.append(number)
        for number in lowest:
            heapq.heappush(self._heap, number)
        missing = count - len(lowest)
        return lowest + list(range(self.high_water, self.high_water + missing))

    def claim(self, number: int) -> None:
        """Put a free number in use."""
        if number < self.high_water:
            self._free.remove(number)
            return
        skipped = range(self.high_water, number)
        self._free.update(skipped)
        for each in skipped:
            heapq.heappush(self._heap, each)
        self.high_water = number + 1

    def claim_all(self, used: Collection[int]) -> None:
        """Put many numbers in use at once, each given once, where none is yet, for a boot."""
        assert self.high_water == 0, "some numbers are in use: this is a bug"
        self.high_water = max(used, default=-1) + 1
        if len(used) < self.high_water:
            self._free = set(range(self.high_water)).difference(used)
            self._heap = sorted(self._free)

    def free(self, number: int) -> None:
        """Take a number out of use."""
        assert 0 <= number < self.high_water, f"{number} is not in use: this is a bug"
        assert number not in self._free, f"{number} is free already: this is a bug"
        self._free.add(number)
        if len(self._free) == self.high_water:
            self._free.clear()
            self._heap.clear()
            self.high_water = 0
            return
        heapq.heappush(self._heap, number)
        while self.high_water - 1 in self._free:
            self.high_water -= 1
            self._free.remove(self.high_water)
        if len(self._heap) > 2 * len(self._free) + _STALE_MIN:
            self._heap = sorted(self._free)


@dataclass(slots=True)
class Target:
    """A route as it shall be: rows to keep, rows to add, fields."""

    name: str
    before: RouteRecord | None
    threshold: float | None
    metadata: str
    payload: str
    kept: dict[int, str] = field(default_factory=dict)
    added: list[tuple[str, bytes]] = field(default_factory=list)


def stale_slots(target: Target) -> tuple[int, ...]:
    """Slots that a target has now and shall not keep."""
    if target.before is None:
        return ()
    return tuple(slot for slot in target.before.slots if slot not in target.kept)


def is_same(target: Target) -> bool:
    """Whether the route already is what it shall be."""
    before = target.before
    return (
        before is not None
        and not target.added
        and len(target.kept) == len(before.slots)
        and (before.threshold, before.metadata, before.payload)
        == (target.threshold, target.metadata, target.payload)
    )


def record(target: Target, route_id: int, rows: dict[int, str], at: Revision) -> RouteRecord:
    slots = tuple(sorted(rows))
    return RouteRecord(
        route_id=route_id,
        name=target.name,
        slots=slots,
        utterances=tuple(rows[slot] for slot in slots),
        threshold=target.threshold,
        metadata=target.metadata,
        payload=target.payload,
        revision=at,
    )


def outcome(
    wanted: list[Target], changed: list[Target], gone: tuple[RouteRecord, ...], at: Revision
) -> Outcome:
    """Say what came of targets and deletions."""
    if not changed and not gone:
        before = wanted[0].before if len(wanted) == 1 else None
        return Outcome("unchanged", at, before.revision if before else None)
    if len(wanted) == 1 and not gone:
        target = wanted[0]
        count = len(target.added) or len(stale_slots(target))
        return Outcome("applied", at, at, count=count)
    return Outcome("applied", at, count=sum(len(route.slots) for route in gone))


def plan_settings(before: Settings, wanted: Settings, high_water: int, at: Revision) -> Change:
    """Plan new settings of the route set.

    Args:
        before: Those in force.
        wanted: Those asked for, without a calibration.
        high_water: One past the highest slot in use.
        at: Place in the log.

    Raises:
        Rejection: Slots in use would be beyond the capacity.
    """
    is_as_measured = (wanted.aggregation, wanted.topk, wanted.threshold) == (
        before.aggregation,
        before.topk,
        before.threshold,
    )
    if wanted.cascade and is_as_measured:
        wanted = replace(wanted, calibration=before.calibration)
    if wanted.capacity_slots < high_water:
        raise Rejection(
            "capacity_exceeded",
            f"capacity_slots must be at least {high_water}, so that every slot in use stays",
        )
    return _replace(before, wanted, at)


def plan_calibration(before: Settings, calibration: str, at: Revision) -> Change:
    """Plan a calibration of the cascade; one that is off stays as it is."""
    if not before.cascade:
        return Change(Outcome("unchanged", at))
    return _replace(before, replace(before, calibration=calibration), at)


def _replace(before: Settings, wanted: Settings, at: Revision) -> Change:
    if wanted == before:
        return Change(Outcome("unchanged", at))
    return Change(Outcome("applied", at), settings=wanted, settings_before=before)


class RouteTable:
    """Routes and their slots, after some prefix of the log.

    Invariants: every slot is free or owned by one route; the lowest free slot is
    taken first; new slots are taken before old ones are freed, unless there are
    too few; the digest is that of the state.
    """

    def __init__(self, settings: Settings | None = None, dim: int = 0) -> None:
        self.settings = settings or Settings()
        self.dim = dim
        self.routes: dict[str, RouteRecord] = {}
        self.imports: dict[str, StagedImport] = {}
        self.row_hashes: dict[int, bytes] = {}
        self.digest = Digest()
        self.digest.add(settings_hash(self.settings))
        self._slots = FreeNumbers()
        self._route_ids = FreeNumbers()
        self._chunk_hashes: dict[tuple[str, int], bytes] = {}

    @classmethod
    def restore(
        cls,
        settings: Settings,
        dim: int,
        routes: tuple[RouteRecord, ...],
        row_hashes: dict[int, bytes],
        imports: tuple[StagedImport, ...],
        digest: Digest | None = None,
    ) -> RouteTable:
        """Build the table of a snapshot; ``row_hashes`` is its own from now on.

        So is ``digest``, that of the snapshot; without it, it is computed.
        """
        table = cls(settings, dim)
        table.row_hashes = row_hashes
        table.digest = digest or sum_state(settings, row_hashes, routes, imports)
        table._slots.claim_all(row_hashes.keys())
        table._route_ids.claim_all({route.route_id for route in routes})
        for route in routes:
            table.routes[route.name] = route
        for staged in imports:
            table.imports[staged.begin.import_id] = staged
        return table

    @property
    def slots_used(self) -> int:
        """How many slots have an owner."""
        return len(self.row_hashes)

    def apply(self, proposal: Proposal, at: Revision) -> Change:
        """Apply one proposal and say what changed.

        Args:
            proposal: The next proposal in log order.
            at: Its place in the log.

        Returns:
            The change, enacted; a rejected proposal changes nothing.
        """
        try:
            change = self._plan(proposal, at)
        except Rejection as verdict:
            outcome = Outcome(
                "rejected", at, verdict.revision, code=verdict.code, message=verdict.message
            )
            return Change(outcome)
        self._enact(change)
        return change

    # --- planning: nothing below this line up to `_enact` changes the table ---

    def _plan(self, proposal: Proposal, at: Revision) -> Change:
        mutation = proposal.mutation
        check_mutation(mutation, self._dim_of(mutation))
        match mutation:
            case PutRoute(name):
                self._check_preconditions(proposal, name)
                return self._rewrite([self._put_target(mutation)], (), at)
            case DeleteRoute(name):
                self._check_preconditions(proposal, name)
                route = self._existing(name)
                return self._rewrite([], (route,), at)
            case AddUtterances(name):
                self._check_preconditions(proposal, name)
                return self._rewrite([self._add_target(mutation)], (), at)
            case RemoveUtterances(name):
                self._check_preconditions(proposal, name)
                return self._rewrite([self._remove_target(mutation)], (), at)
            case PatchRoute(name):
                self._check_preconditions(proposal, name)
                return self._rewrite([self._patch_target(mutation)], (), at)
            case PutSettings(settings):
                return plan_settings(self.settings, settings, self._slots.high_water, at)
            case Calibrate(calibration):
                return plan_calibration(self.settings, calibration, at)
            case ImportCommit(import_id):
                return self._plan_commit(mutation, at, import_id)
            case ImportBegin() | ImportChunk() | ImportAbort():
                return plan_import(self.imports, mutation, at, self.settings.capacity_slots)
            case SwitchEncoder(import_id):
                routes, hashes = self.routes.values(), self.row_hashes
                return plan_switch(self.imports, import_id, routes, hashes, self.dim, at)
            case OpenEpoch():
                return Change(Outcome("applied", at), epoch=mutation)
            case Audit() | VoterAdd() | VoterRemove():
                return Change(Outcome("applied", at))

    def _dim_of(self, mutation: Mutation) -> int:
        """Dimension of the vectors that a mutation may carry."""
        if isinstance(mutation, ImportChunk) and (encoder := encoder_of(mutation.import_id)):
            return encoder[1]
        return self.dim

    def _check_preconditions(self, proposal: Proposal, name: str) -> None:
        route = self.routes.get(name)
        current = route.revision if route else None
        if proposal.if_none_match and route is not None:
            raise Rejection("precondition_failed", f"the route {name!r} exists", current)
        if proposal.if_match is not None and proposal.if_match != current:
            state = "does not exist" if current is None else f"stands at {current}"
            raise Rejection(
                "precondition_failed",
                f"the route {name!r} {state}, not at {proposal.if_match}",
                current,
            )

    def _existing(self, name: str) -> RouteRecord:
        route = self.routes.get(name)
        if route is None:
            raise Rejection("route_not_found", f"no route is named {name!r}")
        return route

    def _put_target(self, put: PutRoute) -> Target:
        """A whole route; rows that would be rewritten with themselves are kept."""
        before = self.routes.get(put.name)
        target = Target(put.name, before, put.threshold, put.metadata, put.payload)
        slot_of = dict(zip(before.utterances, before.slots, strict=True)) if before else {}
        for text, vector in zip(put.utterances, put.vectors, strict=True):
            slot = slot_of.get(text)
            if (
                before is not None
                and slot is not None
                and row_hash(slot, before.route_id, text, vector) == self.row_hashes[slot]
            ):
                target.kept[slot] = text
            else:
                target.added.append((text, vector))
        return target

    def _same_target(self, name: str) -> Target:
        route = self._existing(name)
        kept = dict(zip(route.slots, route.utterances, strict=True))
        return Target(name, route, route.threshold, route.metadata, route.payload, kept)

    def _add_target(self, add: AddUtterances) -> Target:
        target = self._same_target(add.name)
        present = set(target.kept.values())
        rows = zip(add.utterances, add.vectors, strict=True)
        target.added = [(text, vector) for text, vector in rows if text not in present]
        return target

    def _remove_target(self, remove: RemoveUtterances) -> Target:
        target = self._same_target(remove.name)
        gone = set(remove.utterances)
        missing = gone - set(target.kept.values())
        if missing:
            first = min(missing)
            raise Rejection(
                "utterance_not_found", f"the route {remove.name!r} has no utterance '{first}'"
            )
        target.kept = {slot: text for slot, text in target.kept.items() if text not in gone}
        if not target.kept:
            raise Rejection(
                "invalid_route", "the last utterance cannot be removed; delete the route"
            )
        return target

    def _patch_target(self, patch: PatchRoute) -> Target:
        target = self._same_target(patch.name)
        if patch.threshold is not KEEP:
            target.threshold = patch.threshold
        if patch.metadata is not KEEP:
            target.metadata = patch.metadata
        if patch.payload is not KEEP:
            target.payload = patch.payload
        return target

    def _plan_commit(self, commit: ImportCommit, at: Revision, import_id: str) -> Change:
        staged = self.imports.get(import_id)
        if encoder_of(import_id) is not None:
            raise Rejection("import_rejected", "a generation is switched to, not committed")
        try:
            puts = join_chunks(staged, commit.chunk_count)
        except ValueError as error:
            raise Rejection("import_rejected", str(error)) from error
        targets = [self._put_target(put) for put in puts]
        named = {put.name for put in puts}
        gone: tuple[RouteRecord, ...] = ()
        if staged is not None and staged.begin.replace:
            gone = tuple(r for name, r in sorted(self.routes.items()) if name not in named)
        change = self._rewrite(targets, gone, at)
        count = len(change.put) + len(change.deleted)
        return replace(change, closed=staged, outcome=Outcome("applied", at, count=count))

    def _rewrite(self, wanted: list[Target], gone: tuple[RouteRecord, ...], at: Revision) -> Change:
        """Plan the rows of all targets at once: one allocation, one change."""
        targets = [target for target in wanted if not is_same(target)]
        stale = {slot for target in targets for slot in stale_slots(target)}
        stale.update(slot for route in gone for slot in route.slots)
        taken = self._take(sum(len(target.added) for target in targets), sorted(stale))
        numbers = iter(taken)
        new_ids = iter(self._route_ids.peek(sum(target.before is None for target in targets)))
        writes: list[SlotWrite] = []
        put: list[RouteRecord] = []
        for target in targets:
            route_id = target.before.route_id if target.before else next(new_ids)
            rows = dict(target.kept)
            for text, vector in target.added:
                slot = next(numbers)
                rows[slot] = text
                hashed = row_hash(slot, route_id, text, vector)
                writes.append(SlotWrite(slot, route_id, text, vector, hashed))
            put.append(record(target, route_id, rows, at))
        deleted_slots = sorted(stale.difference(taken))
        return Change(
            outcome=outcome(wanted, targets, gone, at),
            writes=tuple(sorted(writes, key=lambda write: write.slot)),
            freed=tuple(deleted_slots),
            put=tuple(put),
            deleted=gone,
            before=tuple(target.before for target in targets if target.before is not None),
            replaced=tuple((slot, self.row_hashes[slot]) for slot in sorted(stale)),
        )

    def _take(self, count: int, stale: list[int]) -> list[int]:
        """Choose slots: the lowest free ones, then, if too few, own old ones."""
        available = self.settings.capacity_slots - self.slots_used
        if count > available + len(stale):
            raise Rejection(
                "capacity_exceeded",
                f"{count} slots are needed, {available} of {self.settings.capacity_slots} are free",
            )
        fresh = self._slots.peek(min(count, available))
        return fresh + stale[: count - len(fresh)]

    # --- enacting ------------------------------------------------------------

    def _enact(self, change: Change) -> None:
        for slot, hashed in change.replaced:
            self._disown(slot, hashed)
        for write in change.writes:
            self._own(write.slot, write.row_hash)
        for route in change.before + change.deleted:
            self._drop(route)
        for route in change.put:
            self._place(route)
        if change.settings is not None:
            self._set(self.settings, change.settings)
        if change.opened is not None:
            self._stage_import(StagedImport(change.opened, (), change.outcome.at.seq))
        if change.staged is not None and change.staged_before is not None:
            self._stage_chunk(change.staged, change.staged_before, change.outcome.at.seq)
        if change.closed is not None:
            self._drop_import(change.closed.begin.import_id)
        if change.encoder is not None:
            self.dim = change.encoder.dim

    def revert(self, change: Change) -> None:
        """Undo the newest change that is not undone, as if it had not been applied."""
        if change.encoder is not None:
            self.dim = change.encoder.dim_before
        if change.closed is not None:
            self._stage_import(change.closed)
        if change.staged is not None and change.staged_before is not None:
            self._unstage_chunk(change.staged, change.staged_before)
        if change.opened is not None:
            self._drop_import(change.opened.import_id)
        if change.settings is not None and change.settings_before is not None:
            self._set(change.settings, change.settings_before)
        for route in change.put:
            self._drop(route)
        for route in change.before + change.deleted:
            self._place(route)
        for write in change.writes:
            self._disown(write.slot, write.row_hash)
        for slot, hashed in change.replaced:
            self._own(slot, hashed)

    def _own(self, slot: int, hashed: bytes) -> None:
        assert slot not in self.row_hashes, f"slot {slot} has two owners: this is a bug"
        self._slots.claim(slot)
        self.row_hashes[slot] = hashed
        self.digest.add_row(slot, hashed)

    def _disown(self, slot: int, hashed: bytes) -> None:
        del self.row_hashes[slot]
        self._slots.free(slot)
        self.digest.remove_row(slot, hashed)

    def _place(self, route: RouteRecord) -> None:
        self._route_ids.claim(route.route_id)
        self.routes[route.name] = route
        self.digest.add(route_hash(route))

    def _drop(self, route: RouteRecord) -> None:
        self._route_ids.free(route.route_id)
        del self.routes[route.name]
        self.digest.remove(route_hash(route))

    def _set(self, old: Settings, new: Settings) -> None:
        self.digest.remove(settings_hash(old))
        self.digest.add(settings_hash(new))
        self.settings = new

    def _stage_import(self, staged: StagedImport) -> None:
        self.imports[staged.begin.import_id] = staged
        self.digest.add(import_hash(staged.begin))
        for chunk in staged.chunks:
            self._add_chunk(chunk)

    def _drop_import(self, import_id: str) -> None:
        staged = self.imports.pop(import_id)
        self.digest.remove(import_hash(staged.begin))
        for chunk in staged.chunks:
            self._remove_chunk(chunk)

    def _stage_chunk(self, chunk: ImportChunk, staged: StagedImport, seq: int) -> None:
        self.imports[chunk.import_id] = with_chunk(staged, chunk, seq)
        self._add_chunk(chunk)

    def _unstage_chunk(self, chunk: ImportChunk, staged: StagedImport) -> None:
        self.imports[chunk.import_id] = staged
        self._remove_chunk(chunk)

    def _add_chunk(self, chunk: ImportChunk) -> None:
        """Add a chunk to the digest; its hash is kept, for it is over all its vectors."""
        hashed = self._chunk_hashes[chunk.import_id, chunk.number] = chunk_hash(chunk)
        self.digest.add(hashed)

    def _remove_chunk(self, chunk: ImportChunk) -> None:
        hashed = self._chunk_hashes.pop((chunk.import_id, chunk.number), None)
        self.digest.remove(hashed or chunk_hash(chunk))
