"""Promotion of route sets: aliases that are pointed at a set, gated by its tests, and rolled back.

A gate measures the content of the target at one revision, and the entry that moves the alias has
an effect only if the target still has that revision at the entry's place in the log.  The
evidence is kept in the history of the alias, without texts, so that an erased text is not in it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from synaptoroute.change_models import (
    Evidence,
    SetDiff,
    SetTestRun,
)
from synaptoroute.config import EngineConfig
from synaptoroute.core.change import AliasChange, AliasRecord
from synaptoroute.core.erasure import text_hash
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import PutAlias, Revision, SetTest
from synaptoroute.core.validation import JSON_BYTES_MAX
from synaptoroute.errors import (
    AliasNotFound,
    GateFailed,
    NothingToRollBack,
    PreconditionFailed,
    SetNotFound,
)
from synaptoroute.models import WriteResult, canonical_json
from synaptoroute.ports import AppliedState, ShadowFigures
from synaptoroute.router.op_ids import derived_op_id
from synaptoroute.router.set_answers import SetContent, answers_of, ignore, read_content, read_set
from synaptoroute.router.set_diff import diff_sets
from synaptoroute.router.set_tests import run_of
from synaptoroute.router.write_results import result_of
from synaptoroute.router.writes import WriteOptions, Writer
from synaptoroute.serving.query import QueryEngine

TRIES_MAX: Final = 3
FAILURES_SHOWN_MAX: Final = 20
FAILURES_NAMED: Final = 3
TEXT_CHARACTERS: Final = 60
HASH_DIGITS: Final = 16


class Gate(BaseModel):
    """What a promotion demands of the set that is to answer.

    Attributes:
        min_accuracy: Least share of its tests that it answers right.
        max_regressions: Most tests that it answers wrong, and the set that answers now right.
        min_tests: Fewer tests do not pass.
        min_shadow_agreement: Least share of shadowed queries that both sets answer alike, as
            this node counted them.
        min_shadow_queries: Fewer shadowed queries do not pass.
    """

    model_config = ConfigDict(extra="forbid")

    min_accuracy: float | None = Field(default=None, ge=0.0, le=1.0, allow_inf_nan=False)
    max_regressions: int | None = Field(default=None, ge=0, le=1_000_000)
    min_tests: int = Field(default=1, ge=1, le=1_000_000)
    min_shadow_agreement: float | None = Field(default=None, ge=0.0, le=1.0, allow_inf_nan=False)
    min_shadow_queries: int = Field(default=100, ge=1, le=1_000_000_000)

    @property
    def needs_tests(self) -> bool:
        return (
            self.min_accuracy is not None
            or self.max_regressions is not None
            or "min_tests" in self.model_fields_set
        )


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """What an alias is to name; see ``PutAlias``."""

    target: str
    shadow: str = ""
    shadow_share: float = 0.0
    canary: str = ""
    canary_share: float = 0.0


class Promotions:
    """Moves aliases of one cluster through one node."""

    def __init__(
        self,
        engine: QueryEngine,
        writer: Writer,
        config: EngineConfig,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._config = config

    # --- promote ---

    async def promote(
        self,
        name: str,
        wanted: AliasTarget,
        options: WriteOptions,
        gate: Gate | None = None,
        take: Callable[[int], None] = ignore,
    ) -> tuple[WriteResult, Evidence | None]:
        """Point an alias at a set, on every node at one position.

        Args:
            options: ``if_match`` names the revision of the alias.
            gate: What the target must meet; the alias moves only if it still has the content
                that was measured.
            take: Raises if the caller may not have so many texts encoded.

        Raises:
            GateFailed: It does not, or it changes faster than it is measured.
            PreconditionFailed: The alias has another revision.
        """
        self._writer.require_level(SETS_LEVEL)
        if gate is None:
            put = self._put(name, wanted)
            return await self._writer.write(put, options), None
        for number in range(TRIES_MAX):
            own = _of_try(options, number)
            try:
                if (known := await self._known(own)) is not None:
                    return known, None
                alias = await self._find(name)
                if own.if_match is None and not own.if_none_match:
                    # The evidence compares with what the alias names now.
                    own = _bound(own, alias)
                evidence = await self._measure(name, wanted, gate, take)
                put = replace(
                    self._put(name, wanted),
                    target_revision=_revision(evidence.target_revision),
                    evidence=_kept(evidence),
                )
                return await self._writer.write(put, own), evidence
            except PreconditionFailed:
                if await self._is_alias_changed(name, options):
                    raise
        raise GateFailed(
            f"the route set {wanted.target!r} or the alias {name!r} changed during the measurement"
        )

    @staticmethod
    def _put(name: str, wanted: AliasTarget) -> PutAlias:
        return PutAlias(
            name,
            wanted.target,
            wanted.shadow,
            wanted.shadow_share,
            wanted.canary,
            wanted.canary_share,
            at_ms=time.time_ns() // 1_000_000,
        )

    async def _known(self, options: WriteOptions) -> WriteResult | None:
        """The result of a promotion that was sent before with the same identity."""
        if options.op_id is None:
            return None
        look_up = self._engine.look_up(options.op_id, options.request_hash)
        outcome = await asyncio.wrap_future(look_up)
        return None if outcome is None else result_of(outcome, options.op_id)

    async def _is_alias_changed(self, name: str, options: WriteOptions) -> bool:
        """Whether the alias does not meet the preconditions."""
        alias = await self._find(name)
        current = None if alias is None else alias.revision
        if options.if_none_match:
            return current is not None
        return options.if_match is not None and options.if_match != current

    async def _measure(
        self, name: str, wanted: AliasTarget, gate: Gate, take: Callable[[int], None]
    ) -> Evidence:
        """Measure the target at its present revision.

        Raises:
            GateFailed: It does not meet the gate.
        """
        content = await read_set(self._engine, wanted.target)
        evidence = Evidence(
            gate=gate.model_dump(exclude_unset=True),
            target=content.name,
            target_revision=str(content.revision),
        )
        if gate.needs_tests:
            base = await self._base(name, content)
            take(len(content.tests) * (1 if base is None else 2))
            await self._measure_tests(evidence, content, base)
        if gate.min_shadow_agreement is not None:
            counts = self._engine.shadow_figures(name)
            is_of_content = (
                counts is not None
                and counts.shadow == content.name
                and (counts.shadow_revision or Revision(0, 0)) == content.revision
            )
            if counts is not None and is_of_content and counts.compared:
                evidence.shadow_queries = counts.compared
                evidence.shadow_agreement = round(counts.agreed / counts.compared, 6)
        evidence.unmet = unmet(gate, evidence)
        if evidence.unmet:
            raise GateFailed(
                f"the route set {content.name!r} does not pass the gate: {_reasons(evidence)}",
                evidence=evidence.model_dump(exclude_none=True),
            )
        return evidence

    async def _base(self, name: str, content: SetContent) -> SetContent | None:
        """The set that answers now; None for a new alias."""
        try:
            found = await read_content(self._engine, name)
        except SetNotFound:
            return None
        return None if found.alias is None or found.name == content.name else found

    async def _measure_tests(
        self, evidence: Evidence, content: SetContent, base: SetContent | None
    ) -> None:
        tests = content.tests
        were_right: dict[str, bool] | None = None
        if base is not None:
            before = await self._run(base, tests)
            failed = {each.text for each in before.failures}
            were_right = {test.text: test.text not in failed for test in tests}
            evidence.base, evidence.base_revision = base.name, str(base.revision)
            evidence.base_accuracy = before.accuracy
        run = await self._run(content, tests, were_right)
        evidence.tests, evidence.accuracy = run.tests, run.accuracy
        evidence.regressions = sum(each.is_regression is True for each in run.failures)
        evidence.failures = run.failures[:FAILURES_SHOWN_MAX]
        evidence.failures_total = run.failures_total

    async def _run(
        self,
        content: SetContent,
        tests: Sequence[SetTest],
        were_right: dict[str, bool] | None = None,
    ) -> SetTestRun:
        texts = [test.text for test in tests]
        matches = await answers_of(self._engine, self._config, content.name, texts)
        return run_of(content, tests, matches, were_right, failures_max=None)

    # --- roll back ---

    async def roll_back(
        self,
        name: str,
        options: WriteOptions,
        version: Revision | None = None,
        check: Callable[[str], None] = lambda _: None,
    ) -> WriteResult:
        """Restore what an alias named before its last change, by a new change.

        A shadow or a canary that does not exist any more, or was created again since, is left out.

        Args:
            version: Restore what the alias named since this change instead.
            check: Raises if the caller may not let a set answer.

        Raises:
            AliasNotFound: There is no such alias.
            NothingToRollBack: It was never changed, the change is not kept, or a new set has the
                name of the one that it named.
            PreconditionFailed: The alias changed meanwhile.
        """
        self._writer.require_level(SETS_LEVEL)
        if (known := await self._known(options)) is not None:
            return known
        alias = await self.alias(name)
        found = _earlier(alias, version)
        if found is None:
            what = "this change" if version is not None else "an earlier state"
            raise NothingToRollBack(f"{what} of the alias {name!r} is not kept")
        sets = await self._sets_since(found.at)
        if sets.get(found.target) is False:
            raise NothingToRollBack(
                f"the route set {found.target!r} was removed, and created again, since the alias"
                f" {name!r} named it"
            )
        wanted = AliasTarget(found.target)
        if sets.get(found.shadow):
            wanted = replace(wanted, shadow=found.shadow, shadow_share=found.shadow_share)
        if sets.get(found.canary):
            wanted = replace(wanted, canary=found.canary, canary_share=found.canary_share)
        for each in filter(None, (wanted.target, wanted.shadow, wanted.canary)):
            check(each)
        if options.if_match is None:
            options = replace(options, if_match=alias.revision)
        return await self._writer.write(self._put(name, wanted), options)

    # --- reads ---

    async def diff(
        self,
        before: str,
        after: str,
        texts: Sequence[SetTest | str] | None = None,
        *,
        check: Callable[[str], bool] = lambda _: False,
        take: Callable[[int], None] = ignore,
    ) -> SetDiff:
        """Ask two sets, or aliases, the same texts.

        Without texts they are the tests of both, and unmatched queries that this node keeps.

        Args:
            check: Raises if the caller may not read the tests of a set; whether it may read what
                users wrote.
            take: Raises if the caller may not have so many texts encoded.
        """

        def more(content: SetContent) -> list[str]:
            if not check(content.name):
                return []
            kept = self._engine.unmatched_of(content.name).newest
            return [each.text for each in kept]

        return await diff_sets(self._engine, self._config, before, after, texts, more, take)

    async def alias(self, name: str) -> AliasRecord:
        """Read an alias.

        Raises:
            AliasNotFound: There is none of this name.
        """
        record = await self._find(name)
        if record is None:
            raise AliasNotFound(f"no alias is named {name!r}")
        return record

    async def _find(self, name: str) -> AliasRecord | None:
        def read(state: AppliedState) -> AliasRecord | None:
            return state.replica.sets.aliases.get(name)

        return await asyncio.wrap_future(self._engine.run_on_applier(read))

    def shadow_figures(self, name: str) -> ShadowFigures | None:
        """What this node counted about the shadow of an alias; None for one without a shadow."""
        return self._engine.shadow_figures(name)

    def reset_shadow(self, name: str) -> None:
        """Count the shadow of an alias from zero, on this node."""
        self._engine.reset_shadow(name)

    async def _sets_since(self, place: Revision) -> dict[str, bool]:
        """Whether each set is still the one that had its name at a place of the log."""

        def read(state: AppliedState) -> dict[str, bool]:
            sets = state.replica.sets
            created = {each.name: each.created for each in sets.records.values()}
            return {name: created.get(name, place) <= place for name in sets.numbers}

        return await asyncio.wrap_future(self._engine.run_on_applier(read))


def _bound(options: WriteOptions, alias: AliasRecord | None) -> WriteOptions:
    """Options of a write that has an effect only while the alias is as it was read."""
    if alias is None:
        return replace(options, if_none_match=True)
    return replace(options, if_match=alias.revision)


def unmet(gate: Gate, evidence: Evidence) -> list[str]:
    """Say which demands of a gate the evidence does not meet."""
    found = []
    tests = evidence.tests or 0
    if gate.needs_tests and tests < gate.min_tests:
        found.append(f"it has {tests} tests, not {gate.min_tests}")
    if gate.min_accuracy is not None and (evidence.accuracy or 0.0) < gate.min_accuracy:
        found.append(f"accuracy {evidence.accuracy or 0.0:.4f} is below {gate.min_accuracy}")
    regressions = evidence.regressions or 0
    if gate.max_regressions is not None and regressions > gate.max_regressions:
        found.append(f"it has {regressions} regressions, not {gate.max_regressions} at most")
    if gate.min_shadow_agreement is not None:
        compared = evidence.shadow_queries or 0
        agreement = evidence.shadow_agreement or 0.0
        if compared < gate.min_shadow_queries:
            found.append(
                f"this node compared {compared} queries with the shadow,"
                f" not {gate.min_shadow_queries}"
            )
        if agreement < gate.min_shadow_agreement:
            found.append(f"shadow agreement {agreement:.4f} is below {gate.min_shadow_agreement}")
    return found


def _reasons(evidence: Evidence) -> str:
    """What is not met, and the first wrong answers, in a few words."""
    shown = [
        f"{shortened(each.text)!r} gets {each.got or 'no route'}, not {each.expected or 'none'}"
        for each in evidence.failures[:FAILURES_NAMED]
    ]
    return "; ".join([*evidence.unmet, *shown])


def shortened(text: str) -> str:
    """The beginning of a text."""
    return text if len(text) <= TEXT_CHARACTERS else f"{text[: TEXT_CHARACTERS - 3]}..."


def _kept(evidence: Evidence) -> str:
    """The evidence as the log keeps it: tests by their hash, and no larger than it may be."""
    document = evidence.model_dump(exclude_none=True, exclude={"failures", "unmet"})
    failures = [
        [text_hash(each.text)[:HASH_DIGITS], each.expected, each.got] for each in evidence.failures
    ]
    while True:
        text = canonical_json({**document, "failures": failures})
        if len(text.encode()) <= JSON_BYTES_MAX or not failures:
            return text
        failures.pop()


def shown_evidence(evidence: str, by_hash: Mapping[str, str]) -> dict[str, Any] | None:
    """Read evidence that the log keeps, with the texts of failed tests.

    Args:
        by_hash: Texts of tests that still exist, by their shortened hash.
    """
    if not evidence:
        return None
    found: dict[str, Any] = json.loads(evidence)
    found["failures"] = [
        {"text": by_hash.get(hashed), "expected": expected, "got": got}
        for hashed, expected, got in found.get("failures", ())
    ]
    return found


def hashes_of(texts: Iterable[str]) -> dict[str, str]:
    """Texts by the hash that evidence names them by."""
    return {text_hash(text)[:HASH_DIGITS]: text for text in texts}


def _earlier(alias: AliasRecord, version: Revision | None) -> AliasChange | None:
    if version is None:
        return alias.history[1] if len(alias.history) > 1 else None
    return next((each for each in alias.history if each.at == version), None)


def _of_try(options: WriteOptions, number: int) -> WriteOptions:
    """The identity of a try; the outcome of one that was rejected is remembered."""
    if options.op_id is None or number == 0:
        return options
    return replace(options, op_id=derived_op_id(options.op_id.hex(), "try", str(number)))


def _revision(version: str) -> Revision:
    epoch, _, seq = version.partition(".")
    return Revision(int(epoch), int(seq))
