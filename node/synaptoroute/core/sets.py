"""The route sets of a cluster: a table each, aliases, and what one entry makes of them.

A mutation changes the content of one set, which ``Proposal.route_set`` names; the table of that
set plans it.  Two mutations change several sets at one place of the log: the switch of the encoder
and the erasure of texts.  The mutations of the sets themselves are planned here.

The rules of ``core.table`` hold: ``apply`` and ``revert`` alone change the state, and a proposal
that is rejected, or raises, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from synaptoroute.core.change import (
    ALIAS_CHANGES_KEPT,
    AliasChange,
    AliasRecord,
    Change,
    Outcome,
    Rejection,
    SetRecord,
    SetState,
    Snapshot,
)
from synaptoroute.core.digest import (
    Digest,
    alias_hash,
    set_hash,
    set_multiplier,
    state_total,
    sum_state,
    total_hex,
)
from synaptoroute.core.free_numbers import FreeNumbers
from synaptoroute.core.imports import are_routes_imported, encoder_of
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import (
    DEFAULT_SET,
    FOUNDING_SETTINGS,
    Audit,
    Calibrate,
    DeleteAlias,
    DeleteSet,
    EraseTexts,
    Finalize,
    ForkSet,
    ImportChunk,
    OpenEpoch,
    Proposal,
    PutAlias,
    PutSet,
    Revision,
    SetLimits,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.set_limits import check_limits
from synaptoroute.core.set_validation import check_hashes, check_note, check_set_mutation
from synaptoroute.core.table import RouteTable

SETS_MAX: Final = 10_000
ALIASES_MAX: Final = 10_000
_OF_ALL_SETS: Final = (
    Audit, DeleteAlias, DeleteSet, EraseTexts, Finalize, ForkSet, OpenEpoch, PutAlias, PutSet,
    SwitchEncoder, VoterAdd, VoterRemove,
)  # fmt: skip


class RouteSets:
    """All route sets after some prefix of the log.

    Invariants: a number belongs to one set, and the lowest free one is taken first; a name is
    that of one set or one alias; an alias names sets that exist.  ``total`` is the digest of
    the state.
    """

    def __init__(self, default: RouteTable) -> None:
        self.tables: dict[int, RouteTable] = {0: default}
        # Of ``default`` from its first change at level 5 on.
        self.records: dict[int, SetRecord] = {}
        self.numbers: dict[str, int] = {DEFAULT_SET: 0}
        self.aliases: dict[str, AliasRecord] = {}
        self._free = FreeNumbers()
        self._free.claim(0)
        self._total = default.digest.total
        self._removed: dict[Revision, tuple[SetRecord, RouteTable]] = {}  # Until ``advance``

    @classmethod
    def restore(
        cls, state: Snapshot, dim: int, sums: Mapping[int, Digest] | None = None
    ) -> RouteSets:
        """Build the sets of a snapshot.

        Args:
            state: The snapshot.
            dim: Dimension of the vectors; 0 if it is not known.
            sums: The sum of each set by number, if they are known; the tables change them.
        """
        known = sums or {}
        sets = cls(_default_of(state, dim, known.get(0)))
        for each in state.sets:
            number = each.record.number
            sets.tables[number] = _table_of(each, dim, known.get(number))
            sets.numbers[each.record.name] = number
            sets.records[number] = each.record
        if state.record is not None:
            sets.records[0] = state.record
        sets._free = FreeNumbers()
        sets._free.claim_all(sets.tables.keys())
        sets.aliases = {alias.name: alias for alias in state.aliases}
        digests = {number: table.digest for number, table in sets.tables.items()}
        sets._total = state_total(digests, sets.records.values(), state.aliases)
        return sets

    @property
    def default(self) -> RouteTable:
        """The set that is there from the beginning."""
        return self.tables[0]

    @property
    def digest(self) -> str:
        """Digest of the state, 32 hexadecimal digits."""
        return total_hex(self._total)

    def table_of(self, name: str) -> RouteTable | None:
        """The table of a set; empty for ``default``."""
        number = self.numbers.get(name or DEFAULT_SET)
        return None if number is None else self.tables[number]

    def states(self) -> tuple[SetState, ...]:
        """The content of every set but ``default``, in order of number."""
        return tuple(
            SetState(
                record=self.records[number],
                settings=table.settings,
                routes=tuple(route for _, route in sorted(table.routes.items())),
                row_hashes=dict(table.row_hashes),
                imports=tuple(staged for _, staged in sorted(table.imports.items())),
                decision=table.decision,
                feedback=tuple(item for _, item in sorted(table.feedback.items())),
                tests=tuple(test for _, test in sorted(table.tests.items())),
            )
            for number, table in sorted(self.tables.items())
            if number
        )

    def digest_anew(self, rows: Mapping[int, Mapping[int, bytes]] | None = None) -> str:
        """Compute the digest from scratch.

        Args:
            rows: Row hashes to take instead of those that are held: by slot, by set number.
        """
        others = rows or {}
        sums = {
            number: sum_state(
                table.settings,
                {**table.row_hashes, **others.get(number, {})},
                table.routes.values(),
                table.imports.values(),
                table.feedback.values(),
                table.decision,
                table.tests.values(),
            )
            for number, table in self.tables.items()
        }
        return total_hex(state_total(sums, self.records.values(), self.aliases.values()))

    def bucket_sums(self) -> list[int]:
        """Sums of the rows of all sets by bucket, as ``Digest.buckets``; for a comparison."""
        totals = [0] * len(self.default.digest.buckets)
        for number, table in self.tables.items():
            factor = set_multiplier(number)
            for bucket, term in enumerate(table.digest.buckets):
                totals[bucket] += factor * term
        return [total % (1 << 128) for total in totals]

    def apply(self, proposal: Proposal, at: Revision, level: int) -> Change:
        """Apply the next proposal in log order; return the change, empty if it is rejected."""
        try:
            change = self._plan(proposal, at, level)
        except Rejection as rejection:
            return rejection.change(at)
        self._enact(change)
        return change

    # --- planning: nothing up to `_enact` changes the state ------------------------------------

    def _plan(self, proposal: Proposal, at: Revision, level: int) -> Change:
        mutation = proposal.mutation
        check_note(proposal.note)
        if proposal.route_set and isinstance(mutation, _OF_ALL_SETS):
            raise Rejection("invalid_request", "the change is one of all route sets")
        match mutation:
            case PutSet() | DeleteSet() | ForkSet() | PutAlias() | DeleteAlias():
                check_set_mutation(mutation)
                return self._plan_set(proposal, mutation, at)
            case SwitchEncoder(import_id):
                return self._plan_switch(import_id, at, level)
            case EraseTexts(hashes):
                check_hashes(hashes)
                erased = frozenset(hashes)
                parts = [
                    self._of_set(number, table.plan_erasure(erased, at), at, level)
                    for number, table in sorted(self.tables.items())
                ]
                return _joined(parts, at)
            case _:
                return self._plan_content(proposal, at, level)

    def _plan_content(self, proposal: Proposal, at: Revision, level: int) -> Change:
        number = self._number(proposal.route_set or DEFAULT_SET)
        table, mutation = self.tables[number], proposal.mutation
        if isinstance(mutation, ImportChunk) and encoder_of(mutation.import_id) is not None:
            if number:
                raise Rejection("invalid_request", "vectors of an encoder are of all route sets")
            rows = sum(each.slots_used for each in self.tables.values())
            table.rows_elsewhere = rows - table.slots_used
        if level < SETS_LEVEL:
            # Releases that do not know ``auto`` measure nothing there.
            if isinstance(mutation, Calibrate) and table.settings.cascade == "auto":
                return Change(Outcome("unchanged", at))
            return table.plan(proposal, at)
        change = table.plan(proposal, at)
        if number in self.records:
            check_limits(table, change, self.records[number].limits)
        return self._of_set(number, change, at, level)

    def _of_set(self, number: int, change: Change, at: Revision, level: int) -> Change:
        """Say of which set a change is, and that what answers in it changed."""
        if level < SETS_LEVEL:
            return change
        if not _changes_answers(change):
            return replace(change, set_number=number) if number else change
        before = self.records.get(number)
        known = before or SetRecord(0, DEFAULT_SET, SetLimits(), Revision(0, 0), at)
        after = known._replace(revision=at)
        return replace(change, set_number=number, set_record=after, set_record_before=before)

    def _plan_switch(self, import_id: str, at: Revision, level: int) -> Change:
        imports = self.default.imports
        for number, table in self.tables.items():
            if number and are_routes_imported(table.imports):
                raise Rejection(
                    "import_rejected", "routes are being imported: finish or abort that first"
                )
        parts = []
        for number, table in sorted(self.tables.items()):
            change = table.plan_switch(imports, import_id, at)
            if number:
                change = replace(change, closed=None)
            parts.append(self._of_set(number, change, at, level))
        return _joined(parts, at)

    def _plan_set(
        self,
        proposal: Proposal,
        mutation: PutSet | DeleteSet | ForkSet | PutAlias | DeleteAlias,
        at: Revision,
    ) -> Change:
        match mutation:
            case PutSet(name):
                self._check_set(proposal, name)
                return self._plan_put(mutation, at)
            case DeleteSet(name):
                self._check_set(proposal, name)
                return self._plan_removal(name, at)
            case ForkSet(name, into):
                source = self._number(name)
                self._check_set(proposal, name)
                record = self._new_record(into, at)
                limits = self._limits_of(source)
                record = record._replace(limits=limits, forked_from=name)
                return Change(
                    Outcome("applied", at, count=self.tables[source].slots_used),
                    set_number=record.number,
                    set_record=record,
                    forked_from=source,
                )
            case PutAlias():
                return self._plan_alias(proposal, mutation, at)
            case DeleteAlias(name):
                before = self.aliases.get(name)
                if before is None:
                    raise Rejection("alias_not_found", f"no alias is named {name!r}")
                _check_revision(proposal, before.revision, f"the alias {name!r}")
                return Change(Outcome("applied", at), alias_before=before)

    def _check_set(self, proposal: Proposal, name: str) -> None:
        number = self.numbers.get(name)
        record = None if number is None else self.records.get(number)
        current = None if number is None else record.revision if record else Revision(0, 0)
        _check_revision(proposal, current, f"the route set {name!r}")

    def _plan_put(self, put: PutSet, at: Revision) -> Change:
        name = put.name
        number = self.numbers.get(name)
        if number is None:
            record = self._new_record(name, at)._replace(limits=put.limits)
            return Change(
                Outcome("applied", at, created=True),
                set_number=record.number,
                set_record=record,
                settings=FOUNDING_SETTINGS,
            )
        current = self._limits_of(number)
        limits = replace(put.limits, **{each: getattr(current, each) for each in put.kept})
        if limits == current:
            return Change(Outcome("unchanged", at))
        before = self.records.get(number)
        known = before or SetRecord(0, DEFAULT_SET, limits, Revision(0, 0), Revision(0, 0))
        return Change(
            Outcome("applied", at, known.revision),
            set_number=number,
            set_record=known._replace(limits=limits),
            set_record_before=before,
        )

    def _plan_removal(self, name: str, at: Revision) -> Change:
        number = self._number(name)
        if number == 0:
            raise Rejection("invalid_request", f"the route set {DEFAULT_SET!r} cannot be removed")
        if any(name in (each.target, each.shadow, each.canary) for each in self.aliases.values()):
            raise Rejection("set_in_use", f"an alias names the route set {name!r}")
        return Change(
            Outcome("applied", at, count=self.tables[number].slots_used),
            set_number=number,
            set_record_before=self.records[number],
            is_set_removed=True,
        )

    def _plan_alias(self, proposal: Proposal, put: PutAlias, at: Revision) -> Change:
        name, before = put.name, self.aliases.get(put.name)
        if name in self.numbers:
            raise Rejection("name_taken", f"a route set is named {name!r}")
        if before is None and len(self.aliases) >= ALIASES_MAX:
            raise Rejection("limit_exceeded", f"a cluster has at most {ALIASES_MAX} aliases")
        current = None if before is None else before.revision
        _check_revision(proposal, current, f"the alias {name!r}")
        number = self._number(put.target)
        for other in (put.shadow, put.canary):
            if other and self._number(other) == number:
                raise Rejection("invalid_request", "an alias names its target twice")
        record = self.records.get(number)
        revision = record.revision if record else Revision(0, 0)
        if put.target_revision not in (None, revision):
            raise Rejection(
                "precondition_failed",
                f"the route set {put.target!r} is at {revision}, not at {put.target_revision}",
                revision,
            )
        state = (put.target, put.shadow, put.shadow_share, put.canary, put.canary_share)
        if before is not None and before[1:6] == state:
            return Change(Outcome("unchanged", at, before.revision))
        was = "" if before is None else before.target
        change = AliasChange(
            at, put.at_ms, proposal.author, proposal.note, was, *state, put.evidence
        )
        history = (change, *(before.history if before else ()))[:ALIAS_CHANGES_KEPT]
        after = AliasRecord(name, *state, at, history)
        outcome = Outcome("applied", at, at, created=before is None)
        return Change(outcome, alias=after, alias_before=before)

    def _number(self, name: str) -> int:
        number = self.numbers.get(name)
        if number is None:
            raise Rejection("set_not_found", f"no route set is named {name!r}")
        return number

    def _limits_of(self, number: int) -> SetLimits:
        record = self.records.get(number)
        return record.limits if record else SetLimits()

    def _new_record(self, name: str, at: Revision) -> SetRecord:
        if name in self.numbers:
            raise Rejection("set_exists", f"the route set {name!r} exists")
        if name in self.aliases:
            raise Rejection("name_taken", f"an alias is named {name!r}")
        if len(self.tables) >= SETS_MAX:
            raise Rejection("limit_exceeded", f"a cluster has at most {SETS_MAX} route sets")
        (number,) = self._free.peek(1)
        return SetRecord(number, name, SetLimits(), at, at)

    # --- enacting ------------------------------------------------------------------------------

    def _enact(self, change: Change) -> None:
        for part in (change, *change.others):
            number = part.set_number
            if part.is_set_removed:
                self._remove(number, part.outcome.at)
            elif part.set_record is not None and number not in self.tables:
                self._create(part.set_record, part.forked_from)
            else:
                before = self.tables[number].digest.total
                self.tables[number].enact(part)
                self._weigh(number, self.tables[number].digest.total - before)
                self._move_record(part.set_record_before, part.set_record)
        if change.alias is not None or change.alias_before is not None:
            self._move_alias(change.alias_before, change.alias)

    def revert(self, change: Change) -> None:
        """Undo the newest change."""
        self._move_alias(change.alias, change.alias_before)
        for part in reversed(change.parts()):
            number, record = part.set_number, part.set_record
            if part.is_set_removed:
                held, table = self._removed.pop(part.outcome.at)
                self._hold(held, table)
            elif record is not None and number and part.set_record_before is None:
                self._release(record)
            else:
                before = self.tables[number].digest.total
                self.tables[number].revert(part)
                self._weigh(number, self.tables[number].digest.total - before)
                self._move_record(part.set_record, part.set_record_before)

    def advance(self) -> None:
        """Confirm that everything is durable: what was removed is not needed for ``revert``."""
        self._removed.clear()

    def _create(self, record: SetRecord, forked_from: int | None) -> None:
        if forked_from is None:
            table = RouteTable(FOUNDING_SETTINGS, self.default.dim)
        else:
            table = self.tables[forked_from].fork()
        self._hold(record, table)

    def _remove(self, number: int, at: Revision) -> None:
        record = self.records[number]
        self._removed[at] = record, self._release(record)

    def _hold(self, record: SetRecord, table: RouteTable) -> None:
        number = record.number
        self._free.claim(number)
        self.tables[number] = table
        self.numbers[record.name] = number
        self._weigh(number, table.digest.total)
        self._move_record(None, record)

    def _release(self, record: SetRecord) -> RouteTable:
        number = record.number
        self._move_record(record, None)
        table = self.tables.pop(number)
        self._weigh(number, -table.digest.total)
        del self.numbers[record.name]
        self._free.free(number)
        return table

    def _weigh(self, number: int, difference: int) -> None:
        self._total += set_multiplier(number) * difference

    def _move_record(self, before: SetRecord | None, after: SetRecord | None) -> None:
        if before is not None:
            self._total -= int.from_bytes(set_hash(before), "little")
            del self.records[before.number]
        if after is not None:
            self._total += int.from_bytes(set_hash(after), "little")
            self.records[after.number] = after

    def _move_alias(self, before: AliasRecord | None, after: AliasRecord | None) -> None:
        if before is not None:
            self._total -= int.from_bytes(alias_hash(before), "little")
            del self.aliases[before.name]
        if after is not None:
            self._total += int.from_bytes(alias_hash(after), "little")
            self.aliases[after.name] = after


def _default_of(state: Snapshot, dim: int, sums: Digest | None) -> RouteTable:
    return RouteTable.restore(
        state.settings,
        dim,
        state.routes,
        dict(state.row_hashes),
        state.imports,
        sums,
        state.feedback,
        state.decision,
        state.tests,
    )


def _table_of(state: SetState, dim: int, sums: Digest | None) -> RouteTable:
    return RouteTable.restore(
        state.settings,
        dim,
        state.routes,
        dict(state.row_hashes),
        state.imports,
        sums,
        state.feedback,
        state.decision,
        state.tests,
    )


def _changes_answers(change: Change) -> bool:
    return bool(
        change.writes
        or change.freed
        or change.put
        or change.deleted
        or change.settings is not None
        or change.decision is not None
        or change.tests
        or change.tests_before
    )


def _joined(parts: Iterable[Change], at: Revision) -> Change:
    """One change of several sets; ``default`` leads, sets without a change are left out."""
    first, *others = parts
    changed = tuple(each for each in others if each.outcome.status == "applied")
    if not changed:
        return first
    count = sum(each.outcome.count for each in (first, *changed))
    return replace(first, outcome=Outcome("applied", at, count=count), others=changed)


def _check_revision(proposal: Proposal, current: Revision | None, what: str) -> None:
    if proposal.if_none_match and current is not None:
        raise Rejection("precondition_failed", f"{what} exists", current)
    if proposal.if_match is not None and proposal.if_match != current:
        state = "does not exist" if current is None else f"is at {current}"
        raise Rejection(
            "precondition_failed", f"{what} {state}, not at {proposal.if_match}", current
        )
