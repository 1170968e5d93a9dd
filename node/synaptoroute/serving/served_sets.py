"""The route sets of a node by number and by name, and the aliases that name them.

The scorer changes them in the step in which a change becomes visible.  Any thread may look a name
up meanwhile; the scorer looks it up again at the position at which it answers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import AliasRecord, Change, SetRecord
from synaptoroute.core.mutation import Revision, Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.errors import SetNotFound
from synaptoroute.ports import ShadowFigures
from synaptoroute.scoring import Scratch
from synaptoroute.serving.fair_queue import InFlightQuery
from synaptoroute.serving.preparation import ChangedWords, TextPreparation
from synaptoroute.serving.query import DecisionCounts, FirstStage, Query, UnmatchedQueries
from synaptoroute.serving.served_set import Answer, ServedSet, TensorSource
from synaptoroute.serving.shadow import Comparison, Flight, ShadowLog
from synaptoroute.tensor import Tensor
from synaptoroute.tensor.score_terms import ScoreTerms


def share_of(kind: str, name: str, text: str) -> float:
    """Place of a text between 0 and 1, the same on every node.

    A session whose place in an alias is below the share of the canary stays on its side.

    Args:
        kind: What is chosen by it, so that two choices are independent.
        name: The alias.
    """
    digest = sha256(f"{kind}\x00{name}\x00{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2.0**56


def set_not_found(name: str) -> SetNotFound:
    """Error about a name that no set and no alias has."""
    return SetNotFound(f"no route set has the name {name[:120]!r}", route_set=name[:120])


class ServedSets:
    """The route sets that a node serves.

    Attributes:
        default: The set of queries that name none.
        by_number: Every set, ``default`` too.
        by_name: The same by name.
        aliases: By name.
        behind: Sets other than ``default`` that may have deferred work.
        others_counts: Decisions of all sets but ``default``, also of those that were removed.
        shadow_log: What the shadows of aliases would have answered.
        shadows: Answered queries that are to be scored on shadows.
        shadows_waiting: Number of them.
        revision: The position that is visible.
        lock: Held while sets or aliases change, and by who answers beside the scorer.
    """

    def __init__(
        self,
        default: ServedSet,
        others: Iterable[ServedSet] = (),
        aliases: Iterable[AliasRecord] = (),
        new_unmatched: Callable[[], UnmatchedQueries] = UnmatchedQueries,
    ) -> None:
        self.default = default
        self.by_number = {0: default}
        self.by_name = {default.name: default}
        self.aliases = {each.name: each for each in aliases}
        self.behind: dict[ServedSet, None] = {}
        self.others_counts = DecisionCounts()
        self.shadow_log = ShadowLog()
        self.shadows: deque[Comparison] = deque()
        self.shadows_waiting = 0
        self.revision = default.tensor.revision
        self.lock = threading.Lock()
        self._new_unmatched = new_unmatched
        for served in others:
            self._add(served)

    # --- from any thread ---

    def find(self, name: str, session: str | None = None) -> ServedSet | None:
        """Find the set that answers queries to a set or an alias; None if there is none."""
        if not name:
            return self.default
        served = self.by_name.get(name)
        if served is not None:
            return served
        alias = self.aliases.get(name)
        if alias is None:
            return None
        is_canary = bool(alias.canary) and session is not None
        if is_canary and share_of("canary", name, session or "") < alias.canary_share:
            return self.by_name.get(alias.canary)
        return self.by_name.get(alias.target)

    def named(self, name: str) -> ServedSet | None:
        """Find a set by its own name; None if there is none, as for an alias."""
        return self.by_name.get(name) if name else self.default

    def get(self, name: str, session: str | None = None) -> ServedSet:
        """Find the set as ``find`` does.

        Raises:
            SetNotFound: No set and no alias has the name.
        """
        served = self.find(name, session)
        if served is None:
            raise set_not_found(name)
        return served

    def is_shadowed(self, query: Query) -> bool:
        """Whether the shadow of the alias that a query names is asked as well."""
        alias = self.aliases.get(query.route_set)
        if alias is None or not alias.shadow:
            return False
        share = alias.shadow_share
        return share >= 1.0 or share_of("shadow", alias.name, query.text) < share

    def stage_of(self, change: Change) -> FirstStage | None:
        """Find the first stage of the set that a change alters, or make one that it will need.

        None if the set has none and needs none.
        """
        served, settings = self.by_number.get(change.set_number), change.settings
        if served is not None and served.first_stage is not None:
            return served.first_stage
        if settings is None or not settings.cascade or self.default.first_stage is None:
            return None
        return self.default.first_stage.sibling(change.set_number, self)

    def shadow_figures(self, name: str) -> ShadowFigures | None:
        """Count what the shadow of an alias would have answered; None without a shadow."""
        alias = self.aliases.get(name)
        if alias is None or not alias.shadow:
            return None
        target, shadow = self.by_name.get(alias.target), self.by_name.get(alias.shadow)
        if target is None or shadow is None:
            return None
        return self.shadow_log.figures(alias, target, shadow)

    def preparation_of(self, name: str, session: str | None = None) -> TextPreparation:
        """Find how the texts of queries to a set or an alias are read."""
        return (self.find(name, session) or self.default).preparation

    # --- under the scorer's lock ---

    def defer_shadows(
        self,
        parts: Iterable[
            tuple[InFlightQuery, NDArray[np.float32], Sequence[object], ServedSet | None]
        ],
        answers: Iterable[Answer],
    ) -> bool:
        """Remember which answered queries of a batch their shadows are asked as well.

        Args:
            parts: Each query with its vector, float32[dim], its callers, and the set that answered.
            answers: Those of all callers.

        Returns:
            Whether these are the first that wait.
        """
        chosen: dict[str, list[tuple[InFlightQuery, NDArray[np.float32], Sequence[object]]]] = {}
        for query, vector, callers, served in parts:
            alias = self.aliases.get(query.route_set)
            if alias is None or not alias.shadow or served is None or served.name != alias.target:
                continue
            share = alias.shadow_share
            if share >= 1.0 or share_of("shadow", alias.name, query.text) < share:
                chosen.setdefault(alias.name, []).append((query, vector, callers))
        if not chosen:
            return False
        was_empty = not self.shadows
        of = {id(query): (query, answer) for query, answer in answers}
        for name, found in chosen.items():
            alias = self.aliases[name]
            target, shadow = self.by_name[alias.target], self.by_name.get(alias.shadow)
            if shadow is not None:
                flights: list[Flight] = [
                    (query, vector, [of[id(each)] for each in callers if id(each) in of])
                    for query, vector, callers in found
                ]
                self.shadows.append(Comparison(alias, target, shadow, flights))
                self.shadows_waiting += len(flights)
        return was_empty and bool(self.shadows)

    def compare_shadows(self, at: tuple[str, str], scratch: Scratch, left: int) -> None:
        """Score the queries that wait longest on their shadows, and count.

        Args:
            at: Version and node, as of an answer.
            left: How many, about.
        """
        taken: dict[str, Comparison] = {}
        while self.shadows and left > 0:
            found = self.shadows.popleft()
            self.shadows_waiting -= len(found.flights)
            name = found.alias.name
            if self.aliases.get(name) is not found.alias or not found.is_current:
                continue
            left -= len(found.flights)
            known = taken.setdefault(name, found)
            if known is not found:  # of one content, since both are current
                known.flights += found.flights
        for comparison in taken.values():
            self.shadow_log.compare(comparison, at, scratch)

    # --- on the scorer's thread ---

    def apply(
        self,
        change: Change,
        at: Revision,
        *,
        is_filled: bool = False,
        terms: ScoreTerms | None = None,
        copied: ServedSet | None = None,
        written: Mapping[int, Any] | None = None,
        built: Any = None,
        words: ChangedWords | None = None,
    ) -> None:
        """Make the parts of a change visible that are not in ``default``.  Holds the lock.

        Args:
            copied: The set that the change forks, copied beforehand.
            written: What the first stage of the changed set embedded of its rows.
            built: What it rebuilt.
            words: The words that the change adds to that set and removes, if they were counted.
        """
        for part in change.parts():
            if part.is_set_removed:
                self._remove(part.set_number)
            elif part.set_number:
                served = self.by_number.get(part.set_number)
                if served is None:
                    served = copied or self._create(part)
                    self._add(served)
                settings, tensor = part.settings, served.tensor
                if settings is not None and settings.cascade and served.first_stage is None:
                    served.first_stage = self._new_stage(served, tensor, served.preparation)
                is_first = part.set_number == change.set_number
                served.apply(
                    part,
                    at,
                    is_filled=is_filled,
                    terms=terms,
                    written=written if is_first else None,
                    built=built if is_first else None,
                    words=words if is_first else None,
                )
                self.behind[served] = None
        if change.alias is not None:
            self.aliases[change.alias.name] = change.alias
        elif change.alias_before is not None:
            self.aliases.pop(change.alias_before.name, None)
        if change.alias_before is not None and (change.alias is None or not change.alias.shadow):
            self.shadow_log.drop(change.alias_before.name)

    def copy_of(self, change: Change) -> ServedSet:
        """Copy the set that a change forks.

        Nothing may change the source meanwhile, or be deferred in it.
        """
        record, source = change.set_record, change.forked_from
        assert record is not None, "nothing is forked: this is a bug"
        assert source is not None, "nothing is forked: this is a bug"
        served = self.by_number[source]
        copied = served.copy(record.number, record.name, self._new_unmatched(), self.others_counts)
        if served.first_stage is not None and served.tensor.settings.cascade:
            copied.first_stage = served.first_stage.copy_for(
                record.number, self, copied.tensor, copied.preparation
            )
            copied.first_stage.keep_counts_of(None, copied.decisions)
        return copied

    def replace(
        self,
        others: Iterable[ServedSet],
        aliases: Iterable[AliasRecord],
        default: SetRecord | None,
    ) -> None:
        """Serve these sets beside ``default``; those with a known name go on counting.

        Args:
            default: The record of the default set, if there is one.
        """
        self.default.revision = None if default is None else default.revision
        former = self.by_name
        self.by_number, self.by_name = {0: self.default}, {self.default.name: self.default}
        self.aliases = {each.name: each for each in aliases}
        self.behind = {}
        self.shadows.clear()
        self.shadows_waiting = 0
        for served in others:
            if (known := former.get(served.name)) is not None:
                served.keep_counts_of(known)
            self._add(served)

    def prepare(self) -> None:
        """Do one step of deferred work of one set."""
        while self.behind:
            served = next(iter(self.behind))
            if served.tensor.is_behind:
                served.tensor.prepare()
                return
            del self.behind[served]

    def make(self, record: SetRecord, tensor: TensorSource, encoder: TextEncoder) -> ServedSet:
        """Make a set that is not served yet; any thread.

        Args:
            tensor: The tensor, or what builds it, for a set whose first stage is off.
        """
        served = ServedSet(
            tensor,
            encoder,
            number=record.number,
            name=record.name,
            revision=record.revision,
            unmatched=self._new_unmatched(),
            total=self.others_counts,
            new_stage=self._stage_of,
        )
        if isinstance(tensor, Tensor):
            served.first_stage = self._stage_of(served, tensor, served.preparation)
        return served

    def _stage_of(
        self, served: ServedSet, tensor: Tensor, preparation: TextPreparation
    ) -> FirstStage | None:
        return self._new_stage(served, tensor, preparation) if tensor.settings.cascade else None

    def _new_stage(
        self, served: ServedSet, tensor: Tensor, preparation: TextPreparation
    ) -> FirstStage | None:
        """Make a first stage for a set, if this node has any."""
        if self.default.first_stage is None:
            return None
        cascade, encoder = self.default.first_stage.sibling(served.number, self), served.encoder
        cascade.keep_counts_of(None, served.decisions)
        cascade.install(cascade.build_from(tensor, encoder), encoder, tensor, preparation)
        return cascade

    def _create(self, change: Change) -> ServedSet:
        record = change.set_record
        assert record is not None, "a change of a set that is not there: this is a bug"
        if change.forked_from is not None:
            source = self.by_number[change.forked_from].tensor
            while source.is_behind:
                source.prepare()
            return self.copy_of(change)
        encoder = self.default.encoder
        tensor = Tensor(encoder.dim, change.settings or Settings(), is_small=True)
        return self.make(record, tensor, encoder)

    def _add(self, served: ServedSet) -> None:
        self.by_number[served.number] = self.by_name[served.name] = served
        self.behind[served] = None

    def _remove(self, number: int) -> None:
        served = self.by_number.pop(number, None)
        if served is not None:
            del self.by_name[served.name]
            self.behind.pop(served, None)
