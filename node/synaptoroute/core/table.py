"""The replicated route table: which route owns which slots, and the settings.

1. ``apply`` is the only way to change the table, ``revert`` the only way to undo it.
2. ``apply`` depends on the table and the proposal alone, so equal logs give equal
   tables on every node.
3. It plans the whole change as a value first and enacts it afterwards, so a proposal
   that is rejected, or raises, changes nothing.

Every mutation of routes becomes a list of desired routes and deletions.  ``_rewrite``
plans the rows of all of them in one allocation, so puts, additions and imports follow
the same rules.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from synaptoroute.core.change import (
    NO_DECISION,
    Change,
    FeedbackItem,
    FittedDecision,
    Outcome,
    Rejection,
    RouteRecord,
    SlotWrite,
    StagedImport,
)
from synaptoroute.core.desired_route import DesiredRoute, outcome_of
from synaptoroute.core.digest import (
    Digest,
    chunk_hash,
    decision_hash,
    feedback_hash,
    import_hash,
    route_hash,
    row_hash,
    settings_hash,
    sum_state,
)
from synaptoroute.core.feedback import plan_feedback, resolve_items
from synaptoroute.core.free_numbers import FreeNumbers
from synaptoroute.core.imports import (
    StagedKind,
    encoder_of,
    join_chunks,
    plan_import,
    plan_switch,
    staged_kind,
    with_chunk,
)
from synaptoroute.core.mutation import (
    FOUNDING_SETTINGS,
    KEEP,
    AddUtterances,
    Audit,
    Calibrate,
    CalibrateDecision,
    DeleteRoute,
    Finalize,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    OpenEpoch,
    PatchRoute,
    Proposal,
    PutFeedback,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    ReviseRoutes,
    Revision,
    RouteRevision,
    Settings,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.rows import RowKind, kind_of, owner_of
from synaptoroute.core.validation import (
    NEGATIVES_MAX,
    check_apart,
    check_mutation,
    check_negatives,
)

_FOUNDING_SETTINGS_LEVEL: Final = 3


def plan_settings(before: Settings, wanted: Settings, high_water: int, at: Revision) -> Change:
    # A calibration is valid for the settings it was measured with: another rule of decision
    # drops it, and so does switching the cascade off.
    if wanted.cascade and _rule_of(wanted) == _rule_of(before):
        wanted = replace(wanted, calibration=before.calibration)
    if wanted.capacity_slots < high_water:
        raise Rejection(
            "capacity_exceeded",
            f"capacity_slots must be at least {high_water}, so that every slot in use stays",
        )
    return _replace(before, wanted, at)


def _rule_of(settings: Settings) -> tuple[object, ...]:
    return (
        settings.aggregation,
        settings.topk,
        settings.threshold,
        settings.confidence_min,
        settings.expected_unmatched_share,
    )


def plan_calibration(before: Settings, calibration: str, at: Revision) -> Change:
    """Plan a calibration of the cascade; it has no effect while the cascade is off."""
    if not before.cascade:
        return Change(Outcome("unchanged", at))
    return _replace(before, replace(before, calibration=calibration), at)


def _replace(before: Settings, wanted: Settings, at: Revision) -> Change:
    if wanted == before:
        return Change(Outcome("unchanged", at))
    return Change(Outcome("applied", at), settings=wanted, settings_before=before)


class RouteTable:
    """Routes and their slots, after some prefix of the log.

    Invariants: every slot is free or has one owner.  The lowest free slot is taken
    first.  New slots are taken before old ones are freed, unless there are too few.
    ``digest`` is the digest of the state.
    """

    def __init__(self, settings: Settings | None = None, dim: int = 0) -> None:
        self.settings = settings or Settings()
        self.dim = dim
        self.routes: dict[str, RouteRecord] = {}
        self.imports: dict[str, StagedImport] = {}
        self.feedback: dict[str, FeedbackItem] = {}
        self.row_hashes: dict[int, bytes] = {}
        self.decision = FittedDecision()  # The numbers behind the confidence
        self.digest = Digest()
        self.digest.add(settings_hash(self.settings))
        self._slots = FreeNumbers()
        self._route_ids = FreeNumbers()
        self._chunk_hashes: dict[tuple[str, int], tuple[ImportChunk, bytes]] = {}

    @classmethod
    def restore(
        cls,
        settings: Settings,
        dim: int,
        routes: tuple[RouteRecord, ...],
        row_hashes: dict[int, bytes],
        imports: tuple[StagedImport, ...],
        digest: Digest | None = None,
        feedback: tuple[FeedbackItem, ...] = (),
        decision: FittedDecision = NO_DECISION,
    ) -> RouteTable:
        """Build the table of a snapshot.

        The table keeps and changes ``row_hashes`` and ``digest``; without a digest it computes
        one.
        """
        table = cls(settings, dim)
        table.row_hashes = row_hashes
        table.decision = decision
        table.digest = digest or sum_state(
            settings, row_hashes, routes, imports, feedback, decision
        )
        table.feedback = {item.item_id: item for item in feedback}
        table._slots.claim_all(row_hashes.keys())
        table._route_ids.claim_all({route.route_id for route in routes})
        for route in routes:
            table.routes[route.name] = route
        for staged in imports:
            table.imports[staged.begin.import_id] = staged
        return table

    @property
    def slots_used(self) -> int:
        return len(self.row_hashes)

    def apply(self, proposal: Proposal, at: Revision) -> Change:
        """Apply the next proposal in log order; return the change, empty if it is rejected."""
        try:
            change = self._plan(proposal, at)
        except Rejection as rejection:
            code, message = rejection.code, rejection.message
            return Change(Outcome("rejected", at, rejection.revision, code, message))
        self._enact(change)
        return change

    # --- planning: nothing up to `_enact` changes the table -----------------------------------

    def _plan(self, proposal: Proposal, at: Revision) -> Change:
        mutation = proposal.mutation
        dim = self.dim
        if isinstance(mutation, ImportChunk) and (encoder := encoder_of(mutation.import_id)):
            dim = encoder[1]  # a generation carries vectors of the encoder that it names
        check_mutation(mutation, dim)
        match mutation:
            case PutRoute() | DeleteRoute() | AddUtterances() | RemoveUtterances() | PatchRoute():
                self._check_preconditions(proposal, mutation.name)
                return self._plan_route(mutation, at)
            case PutSettings(settings):
                return self._plan_settings(settings, at)
            case PutFeedback():
                return self._plan_feedback(mutation, at)
            case ReviseRoutes():
                return self._plan_revision(mutation, at)
            case Calibrate(calibration):
                return plan_calibration(self.settings, calibration, at)
            case CalibrateDecision(payload, node, at_ms):
                return self._plan_decision(FittedDecision(payload, node, at_ms), at)
            case ImportCommit(import_id):
                return self._plan_commit(proposal, mutation, at, import_id)
            case ImportBegin() | ImportChunk() | ImportAbort():
                return plan_import(self.imports, mutation, at, self.settings.capacity_slots)
            case SwitchEncoder(import_id):
                routes, hashes = self.routes.values(), self.row_hashes
                return plan_switch(self.imports, import_id, routes, hashes, self.dim, at)
            case OpenEpoch():
                return self._plan_opening(mutation, at)
            case Audit() | VoterAdd() | VoterRemove() | Finalize():
                return Change(Outcome("applied", at))
            case _:
                raise Rejection("invalid_request", "the mutation changes no content of a set")

    def _plan_decision(self, decision: FittedDecision, at: Revision) -> Change:
        before = self.decision
        if decision.payload == before.payload:
            return Change(Outcome("unchanged", at))
        return Change(Outcome("applied", at), decision=decision, decision_before=before)

    def _plan_opening(self, opened: OpenEpoch, at: Revision) -> Change:
        # The votes stay in the log: what is kept of an epoch is the same with or without.
        kept = replace(opened, votes=(), warrant="")
        change = Change(Outcome("applied", at), epoch=kept, finalized=_raised(opened))
        # A log that is founded at an earlier level keeps the settings of its releases.
        is_founded = opened.base_seq == 0 and opened.level >= _FOUNDING_SETTINGS_LEVEL
        if not is_founded or self.settings != Settings():
            return change
        settings = FOUNDING_SETTINGS
        if settings == self.settings:
            return change
        return replace(change, settings=settings, settings_before=self.settings)

    def _plan_route(
        self,
        mutation: PutRoute | DeleteRoute | AddUtterances | RemoveUtterances | PatchRoute,
        at: Revision,
    ) -> Change:
        match mutation:
            case PutRoute():
                return self._rewrite([self._after_put(mutation)], (), at)
            case DeleteRoute(name):
                return self._rewrite([], (self._existing(name),), at)
            case AddUtterances():
                return self._rewrite([self._after_add(mutation)], (), at)
            case RemoveUtterances():
                return self._rewrite([self._after_remove(mutation)], (), at)
            case PatchRoute():
                return self._rewrite([self._after_patch(mutation)], (), at)

    def _plan_settings(self, settings: Settings, at: Revision) -> Change:
        change = plan_settings(self.settings, settings, self._slots.high_water, at)
        if self.feedback and not settings.feedback:  # a queue that is off keeps no texts
            return replace(change, feedback_before=tuple(self.feedback.values()))
        return change

    def _plan_feedback(self, put: PutFeedback, at: Revision) -> Change:
        if put.route is not None:
            self._existing(put.route)
        return plan_feedback(self.feedback, self.settings.feedback, put, at)

    def _plan_revision(self, revision: ReviseRoutes, at: Revision) -> Change:
        """Plan changes of several routes, and the items that they resolve, as one change."""
        change = self._rewrite([self._after_revision(each) for each in revision.routes], (), at)
        resolved = resolve_items(self.feedback, revision.resolved)
        wanted = revision.settings
        settings = Change(Outcome("unchanged", at))
        if wanted is not None:
            used = max((write.slot + 1 for write in change.writes), default=0)
            settings = plan_settings(self.settings, wanted, max(used, self._slots.high_water), at)
            if not wanted.feedback:  # a queue that is off keeps no texts
                resolved = tuple(self.feedback.values())
        statuses = (change.outcome.status, settings.outcome.status)
        if not resolved and statuses == ("unchanged", "unchanged"):
            return Change(Outcome("unchanged", at))
        return replace(
            change,
            outcome=Outcome("applied", at, count=len(change.writes)),
            feedback_before=resolved,
            settings=settings.settings,
            settings_before=settings.settings_before,
        )

    def _after_revision(self, revision: RouteRevision) -> DesiredRoute:
        name, known = revision.name, self.routes.get(revision.name)
        current = known.revision if known else None
        if revision.is_new and known is not None:
            raise Rejection("precondition_failed", f"the route {name!r} exists", current)
        if revision.revision is not None and revision.revision != current:
            raise Rejection(
                "precondition_failed", f"the route {name!r} is not at {revision.revision}", current
            )
        if revision.is_new:
            desired = DesiredRoute(name, None, None, "{}", "null", None)
            self._want(desired, RowKind.UTTERANCE, revision.utterances, revision.vectors)
        else:
            rows = AddUtterances(name, revision.utterances, revision.vectors)
            desired = self._after_add(rows)
        if revision.threshold is not KEEP:
            desired.threshold = revision.threshold
        if revision.confidence_min is not KEEP:
            desired.confidence_min = revision.confidence_min
        if revision.negatives:
            self._add_negatives(desired, revision)
        return desired

    @staticmethod
    def _add_negatives(desired: DesiredRoute, revision: RouteRevision) -> None:
        """Add the negatives that a route does not have yet."""
        before = desired.before
        utterances = (*(before.utterances if before else ()), *revision.utterances)
        present = before.negatives if before else ()
        new = [
            (RowKind.NEGATIVE, text, vector)
            for text, vector in zip(revision.negatives, revision.negative_vectors, strict=True)
            if text not in present
        ]
        if len(present) + len(new) > NEGATIVES_MAX:
            raise Rejection("invalid_route", f"a route has at most {NEGATIVES_MAX} negatives")
        check_apart(utterances, revision.negatives)
        desired.added += new

    def _check_preconditions(self, proposal: Proposal, name: str) -> None:
        route = self.routes.get(name)
        current = route.revision if route else None
        if proposal.if_none_match and route is not None:
            raise Rejection("precondition_failed", f"the route {name!r} exists", current)
        if proposal.if_match is not None and proposal.if_match != current:
            state = "does not exist" if current is None else f"is at {current}"
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

    def _after_put(self, put: PutRoute) -> DesiredRoute:
        """The route that a put asks for; rows with the same text and vector are kept."""
        before = self.routes.get(put.name)
        desired = DesiredRoute(
            put.name, before, put.threshold, put.metadata, put.payload, put.confidence_min
        )
        self._want(desired, RowKind.UTTERANCE, put.utterances, put.vectors)
        if put.description is not None:
            self._want(desired, RowKind.DESCRIPTION, (put.description,), (put.description_vector,))
        if put.negatives:
            self._want(desired, RowKind.NEGATIVE, put.negatives, put.negative_vectors)
        return desired

    def _want(
        self,
        desired: DesiredRoute,
        kind: RowKind,
        texts: tuple[str, ...],
        vectors: tuple[bytes, ...],
    ) -> None:
        """Add rows of one kind to a route; those that it has already are kept."""
        before = desired.before
        if before is None:
            rows = zip(texts, vectors, strict=True)
            desired.added += [(kind, text, vector) for text, vector in rows]
            return
        owner = owner_of(before.route_id, kind)
        slot_of = {text: slot for slot, each, text in before.rows() if each == owner}
        for text, vector in zip(texts, vectors, strict=True):
            slot = slot_of.get(text)
            if slot is not None and row_hash(slot, owner, text, vector) == self.row_hashes[slot]:
                desired.kept[slot] = kind, text
            else:
                desired.added.append((kind, text, vector))

    def _as_it_is(self, name: str) -> DesiredRoute:
        route = self._existing(name)
        kept = {slot: (kind_of(owner), text) for slot, owner, text in route.rows()}
        return DesiredRoute(
            name,
            route,
            route.threshold,
            route.metadata,
            route.payload,
            route.confidence_min,
            kept,
        )

    def _after_add(self, add: AddUtterances) -> DesiredRoute:
        desired = self._as_it_is(add.name)
        route = self._existing(add.name)
        check_apart(add.utterances, route.negatives)
        present = set(route.utterances)
        rows = zip(add.utterances, add.vectors, strict=True)
        desired.added = [
            (RowKind.UTTERANCE, text, vector) for text, vector in rows if text not in present
        ]
        return desired

    def _after_remove(self, remove: RemoveUtterances) -> DesiredRoute:
        desired, route = self._as_it_is(remove.name), self._existing(remove.name)
        gone = set(remove.utterances)
        missing = gone.difference(route.utterances)
        if missing:
            first = min(missing)
            raise Rejection(
                "utterance_not_found", f"the route {remove.name!r} has no utterance '{first}'"
            )
        for slot, text in zip(route.slots, route.utterances, strict=True):
            if text in gone:
                del desired.kept[slot]
        if gone.issuperset(route.utterances):
            raise Rejection(
                "invalid_route", "the last utterance cannot be removed; delete the route"
            )
        return desired

    def _after_patch(self, patch: PatchRoute) -> DesiredRoute:
        desired = self._as_it_is(patch.name)
        if patch.threshold is not KEEP:
            desired.threshold = patch.threshold
        if patch.metadata is not KEEP:
            desired.metadata = patch.metadata
        if patch.payload is not KEEP:
            desired.payload = patch.payload
        if patch.confidence_min is not KEEP:
            desired.confidence_min = patch.confidence_min
        if patch.description is not KEEP:
            self._drop_rows(desired, RowKind.DESCRIPTION)
            if patch.description is not None:
                texts, vectors = (patch.description,), (patch.description_vector,)
                self._want(desired, RowKind.DESCRIPTION, texts, vectors)
        if patch.negatives is not KEEP:
            self._drop_rows(desired, RowKind.NEGATIVE)
            check_apart(self._existing(patch.name).utterances, patch.negatives)
            self._want(desired, RowKind.NEGATIVE, patch.negatives, patch.negative_vectors)
        return desired

    @staticmethod
    def _drop_rows(desired: DesiredRoute, kind: RowKind) -> None:
        desired.kept = {slot: row for slot, row in desired.kept.items() if row[0] is not kind}

    def _plan_commit(
        self, proposal: Proposal, commit: ImportCommit, at: Revision, import_id: str
    ) -> Change:
        staged = self.imports.get(import_id)
        if encoder_of(import_id) is not None:
            raise Rejection(
                "import_rejected",
                "vectors of another encoder are activated by a switch, not a commit",
            )
        try:
            puts = join_chunks(staged, commit.chunk_count)
        except ValueError as error:
            raise Rejection("import_rejected", str(error)) from error
        for put in puts:
            if put.negatives:  # each part was checked alone
                check_negatives(put)
        kind = staged_kind(import_id)
        if kind is not None:
            return replace(self._plan_staged(proposal, kind, puts, at), closed=staged)
        changed = [self._after_put(put) for put in puts]
        named = {put.name for put in puts}
        gone: tuple[RouteRecord, ...] = ()
        if staged is not None and staged.begin.replace:
            gone = tuple(r for name, r in sorted(self.routes.items()) if name not in named)
        change = self._rewrite(changed, gone, at)
        count = len(change.put) + len(change.deleted)
        return replace(change, closed=staged, outcome=Outcome("applied", at, count=count))

    def _plan_staged(
        self, proposal: Proposal, kind: StagedKind, puts: list[PutRoute], at: Revision
    ) -> Change:
        """Plan the one write that was staged in pieces, as if it came in one entry."""
        if len(puts) != 1:
            raise Rejection("import_rejected", "a staged write has one route")
        put = puts[0]
        self._check_preconditions(proposal, put.name)
        match kind:
            case StagedKind.PUT:
                return self._plan_route(put, at)
            case StagedKind.ADD:
                return self._plan_route(AddUtterances(put.name, put.utterances, put.vectors), at)
            case StagedKind.REMOVE:
                return self._plan_route(RemoveUtterances(put.name, put.utterances), at)

    def _rewrite(
        self, wanted: list[DesiredRoute], gone: tuple[RouteRecord, ...], at: Revision
    ) -> Change:
        """Plan all rows in one allocation and one change."""
        changed: list[DesiredRoute] = []
        before: list[RouteRecord] = []
        stale: set[int] = set()
        needed_slots = 0
        for desired in wanted:
            if desired.is_unchanged():
                continue
            changed.append(desired)
            needed_slots += len(desired.added)
            stale.update(desired.stale_slots())
            if desired.before is not None:
                before.append(desired.before)
        for route in gone:
            stale.update([slot for slot, _, _ in route.rows()])
        old_slots = sorted(stale)
        taken = self._take(needed_slots, old_slots)
        slots, new_ids = iter(taken), iter(self._route_ids.peek(len(changed) - len(before)))
        writes: list[SlotWrite] = []
        put: list[RouteRecord] = []
        for desired in changed:
            route_id = desired.before.route_id if desired.before else next(new_ids)
            rows = dict(desired.kept)
            for kind, text, vector in desired.added:
                slot = next(slots)
                rows[slot] = kind, text
                owner = route_id if kind is RowKind.UTTERANCE else owner_of(route_id, kind)
                hashed = row_hash(slot, owner, text, vector)
                writes.append(SlotWrite(slot, owner, text, vector, hashed))
            put.append(desired.record(route_id, rows, at))
        writes.sort()  # by slot: the first field, and each slot is written once
        return Change(
            outcome=outcome_of(wanted, changed, gone, at),
            writes=tuple(writes),
            freed=tuple(sorted(stale.difference(taken))),
            put=tuple(put),
            deleted=gone,
            before=tuple(before),
            replaced=tuple([(slot, self.row_hashes[slot]) for slot in old_slots]),
        )

    def _take(self, count: int, stale: list[int]) -> list[int]:
        """Choose the lowest free slots, then reuse stale ones if there are too few."""
        # Free slots first: the scorer can fill them ahead, because no query sees them yet.
        available = self.settings.capacity_slots - len(self.row_hashes)
        if count > available + len(stale):
            raise Rejection(
                "capacity_exceeded",
                f"{count} slots are needed, {available} of {self.settings.capacity_slots} are free",
            )
        fresh = self._slots.peek(min(count, available))
        return fresh + stale[: count - len(fresh)]

    # --- enacting ------------------------------------------------------------------------------

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
        if change.decision is not None:
            self._set_decision(change.decision)
        if change.opened is not None:
            self._stage_import(StagedImport(change.opened, (), change.outcome.at.seq))
        if change.staged is not None and change.staged_before is not None:
            self._stage_chunk(change.staged, change.staged_before, change.outcome.at.seq)
        if change.closed is not None:
            self._drop_import(change.closed.begin.import_id)
        if change.encoder is not None:
            self.dim = change.encoder.dim
        for item in change.feedback_before:
            self._drop_feedback(item)
        for item in change.feedback:
            self._add_feedback(item)

    def revert(self, change: Change) -> None:
        """Undo the newest change."""
        # The exact reverse order of _enact: slots are disowned before they are owned again.
        for item in change.feedback:
            self._drop_feedback(item)
        for item in change.feedback_before:
            self._add_feedback(item)
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
        if change.decision is not None:
            self._set_decision(change.decision_before)
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

    def _add_feedback(self, item: FeedbackItem) -> None:
        self.feedback[item.item_id] = item
        self.digest.add(feedback_hash(item))

    def _drop_feedback(self, item: FeedbackItem) -> None:
        del self.feedback[item.item_id]
        self.digest.remove(feedback_hash(item))

    def _set(self, old: Settings, new: Settings) -> None:
        self.digest.remove(settings_hash(old))
        self.digest.add(settings_hash(new))
        self.settings = new

    def _set_decision(self, decision: FittedDecision) -> None:
        if self.decision.payload:
            self.digest.remove(decision_hash(self.decision))
        if decision.payload:
            self.digest.add(decision_hash(decision))
        self.decision = decision

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
        # The hash covers all vectors of the chunk, so it is kept for the removal.
        hashed = chunk_hash(chunk)
        self._chunk_hashes[chunk.import_id, chunk.number] = chunk, hashed
        self.digest.add(hashed)

    def hash_of_chunk(self, chunk: ImportChunk) -> bytes:
        """Return the hash of a chunk; that of a staged one is known."""
        known, hashed = self._chunk_hashes.get((chunk.import_id, chunk.number), (None, b""))
        return hashed if known is chunk else chunk_hash(chunk)

    def _remove_chunk(self, chunk: ImportChunk) -> None:
        hashed = self.hash_of_chunk(chunk)
        self._chunk_hashes.pop((chunk.import_id, chunk.number), None)
        self.digest.remove(hashed)


def _raised(opened: OpenEpoch) -> Finalize | None:
    return Finalize(opened.level, opened.voter_keys) if opened.level > 1 else None
