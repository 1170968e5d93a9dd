"""Results of tests, comparisons, promotions, history and erasure, for nodes and clients."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel

from synaptoroute.models import WriteResult

SubjectKind: TypeAlias = Literal["route", "settings", "tests", "alias", "set"]


class LabelledQuery(BaseModel):
    """A query and the route that is right for it; None for no route."""

    text: str
    route: str | None


class SetTestPage(BaseModel):
    """Some tests of a route set, in order of text.

    Attributes:
        total: How many tests the set has.
        next_after: ``after`` of the next page; None at the end.
        revision: Place of the last change of the set.
        version: ``epoch.seq`` that was read.
    """

    route_set: str
    tests: list[LabelledQuery]
    total: int
    next_after: str | None
    revision: str
    version: str


class FailedTest(BaseModel):
    """A labelled query that gets another route than the right one.

    Attributes:
        expected: The right route; None for no route.
        got: The route of the answer; None for no route.
        confidence: Confidence of the best route.
        is_regression: Whether the set that is compared answers it right; None without one.
    """

    text: str
    expected: str | None
    got: str | None
    confidence: float | None = None
    is_regression: bool | None = None


class RouteScore(BaseModel):
    """Labelled queries of one route; None for those that belong to no route."""

    route: str | None
    tests: int
    right: int


class SetTestRun(BaseModel):
    """How a route set answers labelled queries.

    Attributes:
        route_set: The set.
        revision: Place of the last change of the set; all answers are of that content, or it
            changed meanwhile and ``is_current`` is false.
        version: ``epoch.seq`` of the newest answer.
        accuracy: Share of right answers; None without queries.
        failures: Wrong answers, at most 1,000.
    """

    route_set: str
    revision: str
    version: str
    is_current: bool = True
    tests: int
    right: int
    accuracy: float | None
    routes: list[RouteScore]
    failures: list[FailedTest]
    failures_total: int


Verdict: TypeAlias = Literal["fixed", "broken", "both_wrong", "unlabelled"]


class Side(BaseModel):
    """One of the two sets.

    Attributes:
        revision: Place of the last change of the set.
        right: Labelled texts that it answers right.
        accuracy: Their share; None without labelled texts.
    """

    route_set: str
    revision: str
    right: int
    accuracy: float | None


class Decision(BaseModel):
    """An answer: its route, or none, and the confidence of the best route."""

    route: str | None
    confidence: float | None


class ChangedDecision(BaseModel):
    """A text that both sets answer differently.

    Attributes:
        expected: The right route, for a labelled text; None for no route or no label.
        verdict: ``fixed`` or ``broken`` if one of both answers is right, ``both_wrong`` or
            ``unlabelled``.
    """

    text: str
    expected: str | None
    before: Decision
    after: Decision
    verdict: Verdict


class RouteDifference(BaseModel):
    """How the answers of one route differ; None for those without a route.

    Attributes:
        before: Texts that the first set gives to the route.
        after: Texts that the second set gives to the route.
        expected: Labelled texts that belong to it.
        right_before: Of these, those that the first set answers right.
    """

    route: str | None
    before: int
    after: int
    expected: int
    right_before: int
    right_after: int


class SetDiff(BaseModel):
    """How two route sets answer the same texts.

    Attributes:
        labelled: Texts with a known right route.
        changed: Texts that both answer differently, at most 200; broken ones first.
        routes: Routes whose answers differ, in order of name; the one of no route is last.
        is_current: Whether neither set changed meanwhile.
    """

    before: Side
    after: Side
    texts: int
    labelled: int
    changed_total: int
    fixed: int
    broken: int
    changed: list[ChangedDecision]
    routes: list[RouteDifference]
    is_current: bool = True


class Evidence(BaseModel):
    """Measurements of a gate.

    Attributes:
        target: The set that is to answer.
        target_revision: Its revision, at which it was measured.
        base: The set that answered before; None for a new alias.
        regressions: Tests that it answers wrong and the base right.
        failures: Wrong answers, at most 20, regressions first.
        unmet: Which demands are not met.
    """

    gate: dict[str, Any]
    target: str
    target_revision: str
    base: str | None = None
    base_revision: str | None = None
    tests: int | None = None
    accuracy: float | None = None
    base_accuracy: float | None = None
    regressions: int | None = None
    failures: list[FailedTest] = []  # pydantic copies a default for each object
    failures_total: int = 0
    shadow_queries: int | None = None
    shadow_agreement: float | None = None
    unmet: list[str] = []


class Promotion(WriteResult):
    """The result of a change of an alias.

    Attributes:
        evidence: What the gate measured; None without a gate.
    """

    evidence: Evidence | None = None


class ShadowPair(BaseModel):
    """Queries that both sets answer differently; null is no route."""

    answered: str | None
    shadowed: str | None
    count: int


class ShadowSample(BaseModel):
    """A query that both sets answer differently.

    Attributes:
        text: After the redaction of the review queue's settings.
        at_ms: Milliseconds since 1970, by the clock of the node.
    """

    text: str
    at_ms: int
    answered: str | None
    shadowed: str | None
    answered_confidence: float | None
    shadowed_confidence: float | None


class ShadowReport(BaseModel):
    """Counts of one node since both sets have their present content.

    Attributes:
        set: The set that answered.
        shadow: The set that was asked beside it; None for an alias without one.
        revision: Place of the last change of the set that answered.
        compared: Queries that both were asked.
        agreement: Share of them that both answer alike; None before the first.
        skipped: Queries that were not compared, since both sets read the text differently.
        pairs: Disagreements by both routes, most first.
        other: Disagreements of pairs that are not listed.
        sample: The newest disagreements; only for the scope `admin`, and while the review queue of
            the set that answers keeps texts.
    """

    alias: str
    node: str
    set: str
    shadow: str | None
    revision: str | None = None
    shadow_revision: str | None = None
    compared: int = 0
    agreed: int = 0
    disagreed: int = 0
    agreement: float | None = None
    skipped: int = 0
    pairs: list[ShadowPair] = []  # pydantic copies a default for each object
    other: int = 0
    sample: list[ShadowSample] = []


class HistoryChange(BaseModel):
    """Change by one entry of one route, of settings, tests or limits of a set, or of an alias.

    Attributes:
        kind: ``route``, ``settings``, ``tests``, ``alias`` or ``set``.
        name: Name of the route, the alias or the set; empty for settings and tests.
        route_set: The set that it is in.
        before: What it was; None if it did not exist.  Of tests only those that changed.
        after: What it is after the entry; None if it does not exist any more.
        is_known: Whether this node still keeps the entries that say what it was; if not,
            ``before`` and ``after`` are None.
    """

    kind: SubjectKind
    name: str
    route_set: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    is_known: bool = True


class HistoryEntry(BaseModel):
    """One entry of the log: who did what, and when.

    Attributes:
        version: Its ``epoch.seq``, which identifies it.
        at: When it was ordered, RFC 3339 in UTC.
        author: Name of the API key that wrote it; None for a client without a key, a node
            itself, or an entry below level 2 of the log.
        action: What was done, such as ``put_route``.
        note: What the client said about the change.
        route_set: The set that it changed; None for a change of the cluster.
        route: The route that it names.
        alias: The alias that it changed.
        import_id: The import that it belongs to.
        status: ``applied``, ``unchanged`` or ``rejected``.
        code: Error code of a rejection.
        count: Utterances added or removed, or routes imported.
        op_id: Identity of the write, 32 hexadecimal digits.
        changes: What it changed, before and after; None where that was not asked for, is not
            kept, or is left out because the page is large.
        changes_total: How many changes there are; ``changes`` has at most 100.
    """

    version: str
    at: str
    author: str | None
    note: str | None = None
    action: str
    route_set: str | None = None
    route: str | None = None
    alias: str | None = None
    import_id: str | None = None
    status: str
    code: str | None = None
    count: int = 0
    op_id: str
    changes: list[HistoryChange] | None = None
    changes_total: int = 0


class HistoryPage(BaseModel):
    """A page of the history, newest first.

    Attributes:
        next_before: ``before`` of the next page; None at the end of what the node keeps.
    """

    entries: list[HistoryEntry]
    next_before: int | None


class ErasedTexts(BaseModel):
    """Texts that an erasure found and removed, in all route sets.

    Attributes:
        routes_deleted: Routes that lost their last utterance.
        unmatched: Unmatched queries that this node kept.
    """

    utterances: int = 0
    descriptions: int = 0
    negatives: int = 0
    tests: int = 0
    feedback: int = 0
    routes_deleted: int = 0
    unmatched: int = 0


class ErasureStatus(BaseModel):
    """Entries that one node still keeps of the time before the newest erasure.

    Attributes:
        version: Place of the newest erasure that this node keeps; None for none.
        is_clean: Whether neither Redis nor this node keeps an entry before it.
        waiting_for: ``redis`` or ``database``; empty if it is clean.
    """

    node: str
    version: str | None
    is_clean: bool
    waiting_for: list[str] = []  # pydantic copies a default for each object


class Erasure(BaseModel):
    """The result of an erasure.

    Attributes:
        version: Its place in the log; every node at this version or a later one has removed the
            texts from its route sets.
        found: What was removed.
        logs: Whether this node's op log and Redis are clean already.
    """

    status: str
    op_id: str
    version: str
    found: ErasedTexts
    logs: ErasureStatus
