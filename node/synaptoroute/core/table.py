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

from collections.abc import Iterable, Mapping
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
    test_hash,
)
from synaptoroute.core.erasure import refuse_staged, text_hash
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
    AddUtterances,
    Audit,
    Calibrate,
    CalibrateDecision,
    CommitPlan,
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
    PutTests,
    RemoveUtterances,
    ReviseRoutes,
    Revision,
    SetTest,
    Settings,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.route_plans import RoutePlans
from synaptoroute.core.rows import RowKind, owner_of
from synaptoroute.core.seen import seen_of
from synaptoroute.core.set_tests import plan_tests
from synaptoroute.core.settings_plan import plan_calibration, plan_settings
from synaptoroute.core.validation import (
    check_mutation,
    check_negatives,
)

_FOUNDING_SETTINGS_LEVEL: Final = 3


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
        self._plans = RoutePlans(self.routes, self.row_hashes)
        self.tests: dict[str, SetTest] = {}
        self.rows_elsewhere = 0  # Rows of other sets, for which a generation has vectors, too
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
        tests: tuple[SetTest, ...] = (),
    ) -> RouteTable:
        """Build the table of a snapshot.

        The table keeps and changes ``row_hashes`` and ``digest``; without a digest it computes
        one.
        """
        table = cls(settings, dim)
        table.row_hashes = row_hashes
        table._plans = RoutePlans(table.routes, row_hashes)
        table.decision = decision
        table.digest = digest or sum_state(
            settings, row_hashes, routes, imports, feedback, decision, tests
        )
        table.tests = {test.text: test for test in tests}
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
            change = self.plan(proposal, at)
        except Rejection as rejection:
            return rejection.change(at)
        self.enact(change)
        return change

    def fork(self) -> RouteTable:
        """Copy what answers: routes, settings, tests and the fit, without imports and feedback."""
        table = RouteTable(self.settings, self.dim)
        table.routes, table.row_hashes = dict(self.routes), dict(self.row_hashes)
        table._plans = RoutePlans(table.routes, table.row_hashes)
        table.tests, table.decision = dict(self.tests), self.decision
        table._slots.claim_all(table.row_hashes.keys())
        table._route_ids.claim_all({route.route_id for route in table.routes.values()})
        table.digest = self.digest.copy()
        for item in self.feedback.values():
            table.digest.remove(feedback_hash(item))
        for staged in self.imports.values():
            table.digest.remove(import_hash(staged.begin))
            for chunk in staged.chunks:
                table.digest.remove(self.hash_of_chunk(chunk))
        return table

    # --- planning: nothing up to `enact` changes the table -------------------------------------

    def plan(self, proposal: Proposal, at: Revision) -> Change:
        """Plan a proposal; changes nothing.

        Raises:
            Rejection: It cannot be applied.
        """
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
            case CommitPlan():
                return self._plan_whole(mutation, at)
            case ImportBegin() | ImportChunk() | ImportAbort():
                slots, elsewhere = self.settings.capacity_slots, self.rows_elsewhere
                return plan_import(self.imports, mutation, at, slots, elsewhere)
            case SwitchEncoder(import_id):
                return self.plan_switch(self.imports, import_id, at)
            case PutTests():
                return plan_tests(self.tests, mutation, at)
            case OpenEpoch():
                return self._plan_opening(mutation, at)
            case Audit() | VoterAdd() | VoterRemove() | Finalize():
                return Change(Outcome("applied", at))
            case _:
                raise Rejection("invalid_request", "the mutation changes no content of a set")

    def plan_switch(
        self, imports: Mapping[str, StagedImport], import_id: str, at: Revision
    ) -> Change:
        """Plan the switch of every row to its vector in one of ``imports``.

        Raises:
            Rejection: See ``imports.plan_switch``.
        """
        routes, hashes = self.routes.values(), self.row_hashes
        return plan_switch(imports, import_id, routes, hashes, self.dim, at)

    def plan_erasure(self, hashes: frozenset[str], at: Revision) -> Change:
        """Plan the removal of texts; a route without an utterance goes.

        Raises:
            Rejection: An open import holds one of the texts.
        """
        refuse_staged(self.imports, hashes)
        changed, gone = [], []
        for name, route in sorted(self.routes.items()):
            erased = {slot for slot, _, text in route.rows() if text_hash(text) in hashes}
            if not erased:
                continue
            if erased.issuperset(route.slots):
                gone.append(route)
                continue
            desired = self._plans.as_it_is(name)
            desired.kept = {slot: row for slot, row in desired.kept.items() if slot not in erased}
            changed.append(desired)
        change = self._rewrite(changed, tuple(gone), at)
        said = tuple(each for each in self.feedback.values() if text_hash(each.text) in hashes)
        tests = tuple(each for text, each in self.tests.items() if text_hash(text) in hashes)
        count = len(change.replaced) + len(said) + len(tests)
        outcome = Outcome("applied" if count else "unchanged", at, count=count)
        return replace(change, outcome=outcome, feedback_before=said, tests_before=tests)

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
                return self._rewrite([self._plans.after_put(mutation)], (), at)
            case DeleteRoute(name):
                return self._rewrite([], (self._plans.existing(name),), at)
            case AddUtterances():
                return self._rewrite([self._plans.after_add(mutation)], (), at)
            case RemoveUtterances():
                return self._rewrite([self._plans.after_remove(mutation)], (), at)
            case PatchRoute():
                return self._rewrite([self._plans.after_patch(mutation)], (), at)

    def _plan_settings(self, settings: Settings, at: Revision, used: int = 0) -> Change:
        high_water = max(used, self._slots.high_water)
        change = plan_settings(self.settings, settings, high_water, at)
        if self.feedback and not settings.feedback:  # a queue that is off keeps no texts
            return replace(change, feedback_before=tuple(self.feedback.values()))
        return change

    def _plan_feedback(self, put: PutFeedback, at: Revision) -> Change:
        if put.route is not None:
            self._plans.existing(put.route)
        return plan_feedback(self.feedback, self.settings.feedback, put, at)

    def _plan_revision(self, revision: ReviseRoutes, at: Revision) -> Change:
        """Plan changes of several routes, and the items that they resolve, as one change."""
        change = self._rewrite(
            [self._plans.after_revision(each) for each in revision.routes], (), at
        )
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

    def _plan_commit(
        self, proposal: Proposal, commit: ImportCommit, at: Revision, import_id: str
    ) -> Change:
        staged, puts = self._staged_routes(import_id, commit.chunk_count)
        kind = staged_kind(import_id)
        if kind is not None:
            return replace(self._plan_staged(proposal, kind, puts, at), closed=staged)
        changed = [self._plans.after_put(put) for put in puts]
        named = {put.name for put in puts}
        gone: tuple[RouteRecord, ...] = ()
        if staged is not None and staged.begin.replace:
            gone = tuple(r for name, r in sorted(self.routes.items()) if name not in named)
        change = self._rewrite(changed, gone, at)
        count = len(change.put) + len(change.deleted)
        return replace(change, closed=staged, outcome=Outcome("applied", at, count=count))

    def _staged_routes(
        self, import_id: str, chunk_count: int
    ) -> tuple[StagedImport | None, list[PutRoute]]:
        """An open import and its routes.

        Raises:
            Rejection: It is not open or not complete, or a route is malformed as a whole.
        """
        staged = self.imports.get(import_id)
        if encoder_of(import_id) is not None:
            raise Rejection(
                "import_rejected",
                "vectors of another encoder are activated by a switch, not a commit",
            )
        try:
            puts = join_chunks(staged, chunk_count)
        except ValueError as error:
            raise Rejection("import_rejected", str(error)) from error
        for put in puts:
            if put.negatives:  # each part was checked alone
                check_negatives(put)
        return staged, puts

    def _plan_whole(self, plan: CommitPlan, at: Revision) -> Change:
        """Plan routes, settings and tests as one change, if what the plan saw is still so."""
        staged: StagedImport | None = None
        puts: list[PutRoute] = []
        if plan.import_id:
            staged, puts = self._staged_routes(plan.import_id, plan.chunk_count)
        named = {put.name for put in puts}
        if staged_kind(plan.import_id) is not None or not named.isdisjoint(plan.removed):
            raise Rejection("invalid_request", "a plan puts and removes different routes")
        settings = None if plan.settings is None else self.settings
        texts = [*(test.text for test in plan.tests), *plan.tests_removed]
        if plan.seen != seen_of(self.routes, {*named, *plan.removed}, settings, self.tests, texts):
            raise Rejection("precondition_failed", "the set changed since the plan was made")
        gone = tuple(self._plans.existing(name) for name in plan.removed)
        change = self._rewrite([self._plans.after_put(put) for put in puts], gone, at)
        used = max((write.slot + 1 for write in change.writes), default=0)
        wanted = Change(Outcome("unchanged", at))
        if plan.settings is not None:
            wanted = self._plan_settings(plan.settings, at, used)
        tests = plan_tests(self.tests, PutTests(plan.tests, plan.tests_removed), at)
        statuses = {each.outcome.status for each in (change, wanted, tests)}
        is_applied = staged is not None or "applied" in statuses
        return replace(
            change,
            closed=staged,
            outcome=Outcome(
                "applied" if is_applied else "unchanged",
                at,
                count=len(change.put) + len(change.deleted),
            ),
            settings=wanted.settings,
            settings_before=wanted.settings_before,
            feedback_before=wanted.feedback_before,
            tests=tests.tests,
            tests_before=tests.tests_before,
        )

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

    def enact(self, change: Change) -> None:
        """Carry out a change that was planned on this very state."""
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
        if change.tests or change.tests_before:
            self._move_tests(change.tests_before, change.tests)

    def revert(self, change: Change) -> None:
        """Undo the newest change."""
        # The exact reverse order of enact: slots are disowned before they are owned again.
        self._move_tests(change.tests, change.tests_before)
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

    def _move_tests(self, gone: Iterable[SetTest], new: Iterable[SetTest]) -> None:
        for test in gone:
            del self.tests[test.text]
            self.digest.remove(test_hash(test))
        for test in new:
            self.tests[test.text] = test
            self.digest.add(test_hash(test))

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
