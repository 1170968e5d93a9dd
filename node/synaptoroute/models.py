"""The public data types: routes, query results, write results and settings.

Input is validated here once, against limits whose names carry their unit.  Code behind
the HTTP layer passes the frozen values of ``core``, which do not use pydantic.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from synaptoroute.core import feedback, names, validation
from synaptoroute.core.mutation import DEFAULT_UNMATCHED_SHARE, Aggregation, CascadeMode
from synaptoroute.inputs.ignore import check_pattern

NAME_CHARACTERS_MAX: Final = names.NAME_CHARACTERS_MAX
NAME_PATTERN: Final = names.NAME_SHAPE
UTTERANCE_BYTES_MAX: Final = validation.UTTERANCE_BYTES_MAX
METADATA_BYTES_MAX: Final = validation.JSON_BYTES_MAX
JSON_DEPTH_MAX: Final = validation.JSON_DEPTH_MAX
QUERY_BYTES_MAX: Final = 32_768
UTTERANCES_PER_ROUTE_CALL_MAX: Final = 1_000
QUERY_BATCH_TEXTS_MAX: Final = 1_024
CANDIDATES_MAX: Final = 100
FILTER_ROUTES_MAX: Final = 1_000
PRIOR_ROUTES_MAX: Final = 100
PRIOR_WEIGHT_MAX: Final = 20.0
"""Greatest weight of a query's prior, and with a minus sign the least."""
CONTEXT_TURNS_MAX: Final = 8
CONTEXT_BYTES_MAX: Final = 32_768
"""UTF-8 bytes of all turns of a query's context."""


def check_text(text: str, bytes_max: int) -> str:
    """Trim white space, and reject text that an encoder, a database or the log cannot carry.

    Raises:
        ValueError: Empty, too long, or not valid Unicode.
    """
    # Trimmed before the checks, so that a text and its trimmed form are one utterance.
    text = text.strip()
    if not text:
        raise ValueError("must not be empty or only white space")
    if "\x00" in text:
        raise ValueError("must not contain the character U+0000")
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError("must be valid Unicode (it holds a lone surrogate)") from error
    if size_bytes > bytes_max:
        raise ValueError(f"must be at most {bytes_max} bytes of UTF-8, got {size_bytes}")
    return text


def check_name(name: str) -> str:
    """Check a route name and return it in NFC.

    Raises:
        ValueError: It is not 1 to 128 letters, marks and digits of any script,
            ``_ . : -`` and inner spaces.
    """
    name = normal_name(name)
    if not names.is_name(name):
        raise ValueError(_name_error(name))
    return name


def normal_name(name: str) -> str:
    """A name in NFC, so that a name and its decomposed form are one name."""
    if not isinstance(name, str):
        raise TypeError("must be a text")
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _name_error(name: str) -> str:
    wrong = next((each for each in name if not names.is_name_character(each)), None)
    found = "" if wrong is None or len(name) > NAME_CHARACTERS_MAX else f"; it has {shown(wrong)}"
    return (
        "must be 1 to 128 letters, digits, '_', '.', ':', '-' or inner spaces, "
        f"and start with a letter or digit{found}"
    )


def shown(character: str) -> str:
    """A character for a message: itself if it can be seen, and its number."""
    number = f"U+{ord(character):04X}"
    return f"{character!r} ({number})" if character.isprintable() else number


def canonical_json(value: Any, bytes_max: int = METADATA_BYTES_MAX) -> str:
    """Write a JSON value with sorted keys and no spaces.

    Raises:
        ValueError: Not JSON, too deep, too large, NaN or infinite.
    """
    # Before ``dumps``, which would recurse without end into a cycle.
    _check_depth(value, JSON_DEPTH_MAX)
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        size_bytes = len(text.encode())
    except (TypeError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError(f"must be a JSON value of valid Unicode: {error}") from error
    if size_bytes > bytes_max:
        raise ValueError(f"must be at most {bytes_max} bytes as JSON, got {size_bytes}")
    return text


def _check_depth(value: Any, depth_left: int) -> None:
    """Reject nesting that a recursive parser elsewhere could not handle."""
    if depth_left < 0:
        raise ValueError(f"must not be nested deeper than {JSON_DEPTH_MAX}")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError("must have strings as keys")
            _check_depth(inner, depth_left - 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_depth(inner, depth_left - 1)


def _check_threshold(value: float) -> float:
    if not math.isfinite(value) or not -1.0 <= value <= 1.0:
        raise ValueError("must be between -1 and 1")
    return value


def _check_confidence(value: float) -> float:
    if not math.isfinite(value) or not 0.0 <= value <= 1.0:
        raise ValueError("must be between 0 and 1")
    return value


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def is_none(value: object) -> bool:
    """Whether a field is left out of a document because it is None."""
    return value is None


def is_empty(value: list[str]) -> bool:
    """Whether a list is left out of a document because it is empty."""
    return not value


Name = Annotated[
    str,
    Field(min_length=1, max_length=NAME_CHARACTERS_MAX, pattern=NAME_PATTERN),
    AfterValidator(check_name),
]
Utterance = Annotated[
    str, Field(min_length=1), AfterValidator(partial(check_text, bytes_max=UTTERANCE_BYTES_MAX))
]
Threshold = Annotated[float, Field(ge=-1, le=1), AfterValidator(_check_threshold)]
Confidence = Annotated[float, Field(ge=0, le=1), AfterValidator(_check_confidence)]
Negatives = Annotated[
    list[Utterance], Field(max_length=validation.NEGATIVES_MAX), AfterValidator(_distinct)
]
IgnorePattern = Annotated[
    str,
    Field(min_length=1, max_length=validation.IGNORE_CHARACTERS_MAX),
    AfterValidator(check_pattern),
]


class Route(BaseModel):
    """A named target with example utterances.

    Attributes:
        name: Unique name.
        utterances: Example texts; trimmed, repeats dropped, order kept.
        threshold: Lowest score at which the route matches; None for the default.
        metadata: JSON object for your own use; it does not affect routing.
        payload: JSON value returned with every match, such as a tool's schema.
        vectors: Optional float32[n, dim] of unit length, one per utterance.  Without them
            the router encodes the utterances.
        confidence_min: Lowest confidence at which the route matches; None for the default.
        description: What the route is for; embedded as one more example, never shown as one.
        negatives: Texts that must not get the route; trimmed, repeats dropped.

    The last three need level 3 of the log.
    """

    model_config = ConfigDict(extra="forbid")

    name: Name
    utterances: list[Utterance] = Field(min_length=1, max_length=UTTERANCES_PER_ROUTE_CALL_MAX)
    threshold: Threshold | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    payload: Any = None
    vectors: list[list[float]] | None = Field(default=None, exclude_if=is_none)
    confidence_min: Confidence | None = Field(default=None, exclude_if=is_none)
    description: Utterance | None = Field(default=None, exclude_if=is_none)
    negatives: Negatives = Field(default_factory=list, exclude_if=is_empty)

    @model_validator(mode="after")
    def _consistent(self) -> Route:
        if both := set(self.negatives).intersection(self.utterances):
            raise ValueError(f"negatives: {min(both)[:80]!r} is also an utterance")
        if self.vectors is not None and len(self.vectors) != len(self.utterances):
            raise ValueError(
                f"vectors: {len(self.vectors)} given for {len(self.utterances)} utterances"
            )
        # Of repeated utterances the first is kept, with its vector.
        kept = {text: index for index, text in reversed(list(enumerate(self.utterances)))}
        indexes = sorted(kept.values())
        if len(indexes) != len(self.utterances):
            self.utterances = [self.utterances[i] for i in indexes]
            if self.vectors is not None:
                self.vectors = [self.vectors[i] for i in indexes]
        # Called for their errors only; the writer makes the canonical text again.
        if self.metadata:
            canonical_json(self.metadata)
        if self.payload is not None:
            canonical_json(self.payload)
        return self


class StoredRoute(BaseModel):
    """A route as the node stores it.

    Attributes:
        name: Unique name.
        utterances: Its example texts.
        threshold: Its own threshold, or None.
        effective_threshold: The threshold in use: its own or the default; None for none.
        metadata: As given.
        payload: As given.
        revision: ``epoch.seq`` of the last change; also the ETag.
        version: ``epoch.seq`` at which it was read.  Not part of the HTTP body, where the
            header ``SR-Version`` says it.
        confidence_min: Its own lowest confidence; absent if it has none.
        effective_confidence_min: The lowest confidence in use: its own or the default; absent
            if there is none.
        description: As given; absent if there is none.
        negatives: As given, in any order; absent if there are none.
    """

    name: str
    utterances: list[str]
    threshold: float | None
    effective_threshold: float | None
    metadata: dict[str, Any]
    payload: Any
    revision: str
    version: SkipJsonSchema[str] = Field(default="", exclude=True)
    confidence_min: float | None = Field(default=None, exclude_if=is_none)
    effective_confidence_min: float | None = Field(default=None, exclude_if=is_none)
    description: str | None = Field(default=None, exclude_if=is_none)
    negatives: list[str] = Field(default_factory=list, exclude_if=is_empty)


class Candidate(BaseModel):
    """One route's score for a query.

    Attributes:
        route: Name of the route.
        score: Aggregated score, about -1 to 1.
        threshold: The route's effective threshold; None for none.
        passed: Whether the route passes: its score reaches the threshold, and its confidence
            the least one that it needs.
        utterance: The most similar utterance of the route; None if its description is.
        similarity: Cosine similarity of that utterance.
        confidence: Probability that the route is right, 0 to 1; None if the encoder has no
            numbers for it.
        confidence_min: The route's effective least confidence; None for none.
        prior: Weight that the query's prior gave it; left out for none.
    """

    route: str
    score: float
    threshold: float | None
    passed: bool
    utterance: str | None
    similarity: float
    confidence: float | None = None
    confidence_min: float | None = None
    prior: float | None = Field(default=None, exclude_if=is_none)


class WordRepair(BaseModel):
    """A misspelled word of a query.

    Attributes:
        written: The word of the text.
        read: The word that was encoded instead.
    """

    written: str
    read: str


class TextReading(BaseModel):
    """The reading of one text before it is encoded.

    Attributes:
        encoded_text: The text that is encoded, after cuts and repairs; empty if all is cut.
        repairs: Words that are read as others.
        spans: Its clauses for a query with ``split``: characters from the first to before the
            second.
    """

    text: str
    encoded_text: str
    repairs: list[WordRepair]
    spans: list[tuple[int, int]]


Stage = Literal["static", "encoder"]
MatchReason = Literal[
    "matched",
    "exact",
    "below_threshold",
    "below_confidence",
    "not_understood",
    "no_routes",
    "filter_empty",
]


def _keep_text(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Keep a text that this release does not know: a newer node may have answered."""
    return value if isinstance(value, str) else check(value)


ReadStage = Annotated[Stage, WrapValidator(_keep_text)]
ReadReason = Annotated[MatchReason, WrapValidator(_keep_text)]


class Match(BaseModel):
    """The result of a query; false in a condition if no route matched.

    Attributes:
        route: Name of the best route that passes, or None.
        score: Score of that route; of the best route if none matched.
        threshold: Effective threshold of that route; None for none, and without any route.
        utterance: The most similar utterance of that route.
        similarity: Cosine similarity of that utterance.
        margin: Score minus the best score of any other route; None if there is none.
        runner_up: Name of that other route.
        reason: ``matched``; ``exact`` if the text is an utterance of the route;
            ``below_threshold``; ``below_confidence``; ``not_understood`` if the encoder knows
            too little of the text; ``no_routes`` or ``filter_empty``.
        confidence: Probability that the route is right, 0 to 1: 1 for ``exact``, 0 where there
            is no route to choose or the text is not understood; None if the encoder has no
            numbers for it.  Without a match it is that of the best route.
        confidence_min: Effective least confidence of that route; None for none.
        p_none: Probability that no route is right; only with ``explain``.
        truncated: Whether the encoder read only the beginning of the text.
        payload: The matched route's payload.
        metadata: The matched route's metadata.
        candidates: Best routes first, if ``limit`` or ``explain`` asked for them.
        version: ``epoch.seq`` at which the answer was computed.
        node: Identity of the node that answered.
        span: Part of the text that it answers, characters from the first to before the second;
            only with ``split``.
        encoded_text: The text that was encoded, after cuts and repairs; only with ``explain``,
            and only if it differs from the query.
        repairs: Words that were read as others; only with ``encoded_text``.
        context_weight: Weight of the turns of the context beside the text, 0 to 0.4; only with
            ``explain`` and a context.
        stage: Which stage of the cascade answered, ``static`` or ``encoder``; only with
            ``explain``, and only if the cascade is on.
        static_margin: Margin of the static stage's best route, in that stage's scores.
        guard_margin: Margin that the static stage needs to answer.
        decision_id: Names this answer in feedback, on the node that gave it; only while the
            review queue is on.
        route_set: The route set that answered; only for a query that names a set or an alias.
    """

    route: str | None
    score: float | None = None
    threshold: float | None = None
    utterance: str | None = None
    similarity: float | None = None
    margin: float | None = None
    runner_up: str | None = None
    reason: ReadReason
    confidence: float | None = None
    confidence_min: float | None = None
    p_none: float | None = None
    truncated: bool = False
    payload: Any = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    candidates: list[Candidate] | None = None
    version: str
    node: str = ""
    span: tuple[int, int] | None = None
    encoded_text: str | None = None
    repairs: list[WordRepair] | None = None
    context_weight: float | None = None
    stage: ReadStage | None = None
    static_margin: float | None = None
    guard_margin: float | None = None
    decision_id: str | None = None
    route_set: str | None = None

    @property
    def name(self) -> str | None:
        """The matched route's name, as release 0.2 called this field."""
        return self.route

    def __bool__(self) -> bool:
        """Whether a route matched."""
        return self.route is not None

    @classmethod
    def of_valid(cls, values: dict[str, Any]) -> Match:
        """As ``model_construct``, a third of its cost: from values that are valid by origin.

        Args:
            values: By name; ``metadata`` is among them, and becomes the match's own.
        """
        match = cls.__new__(cls)
        _set(match, "__dict__", {**_MATCH_DEFAULTS, **values})
        _set(match, "__pydantic_fields_set__", set(values))
        _set(match, "__pydantic_extra__", None)
        _set(match, "__pydantic_private__", None)
        return match


_set: Final = object.__setattr__
# Of all fields, in their order: that is the order in which a model is written.
_MATCH_DEFAULTS: Final = {name: field.default for name, field in Match.model_fields.items()}


class WriteResult(BaseModel):
    """The result of a write.

    Attributes:
        status: ``applied``, ``unchanged``, or ``pending`` if the requested level of
            durability was not reached in time.
        op_id: Identity of the write, 32 hexadecimal digits.
        version: ``epoch.seq`` of the write; send it as ``SR-Min-Version``.
        revision: The route's revision afterwards; None if there is no route.
        count: Utterances added or removed, or routes imported.
        ack: Level of durability reached.
        created: Whether the write created its route, decided by the order of the log.  Not part
            of the HTTP body, where the status 201 says it.
        held_by: How many of how many voters hold the write on disk, such as ``2/3``; only with
            ``ack=quorum`` or ``all``.  The header ``SR-Held-By`` says it.
        warnings: Utterances that do not work as one may expect, one sentence each; left out of
            the HTTP body if there are none.
    """

    status: Literal["applied", "unchanged", "pending"]
    op_id: str
    version: str
    revision: str | None = None
    count: int = 0
    ack: Literal["accepted", "applied", "quorum", "all"] = "applied"
    created: SkipJsonSchema[bool] = Field(default=False, exclude=True)
    held_by: SkipJsonSchema[str] = Field(default="", exclude=True)
    warnings: list[str] = Field(default=[], exclude_if=lambda found: not found)


class ImportResult(BaseModel):
    """The result of an import.

    Attributes:
        status: ``applied``, ``unchanged``, or ``pending`` as for a write.
        import_id: Identity of the import; repeat it to resume the import.
        op_id: Identity of its commit.
        version: ``epoch.seq`` of its commit.
        routes: Routes created, changed or removed.
        utterances: Utterances in the import.
        warnings: As for a write.
    """

    status: Literal["applied", "unchanged", "pending"]
    import_id: str
    op_id: str
    version: str
    routes: int
    utterances: int
    warnings: list[str] = Field(default=[], exclude_if=lambda found: not found)


class FeedbackSettings(BaseModel):
    """Settings of the review queue while it is on.

    Attributes:
        items_max: Items that the queue may hold; further ones are refused.
        retention_days: Items that nobody resolves are deleted after that.
        hash_only: Keep no texts, only how often the same was said.
        redaction: What is cut out of texts before they are stored: ``email``, ``url``,
            ``uuid``, ``long_number``, or patterns of RE2.
    """

    model_config = ConfigDict(extra="forbid")

    items_max: int = Field(default=1_000, ge=1, le=feedback.ITEMS_MAX)
    retention_days: float = Field(
        default=30.0, gt=0, le=feedback.RETENTION_DAYS_MAX, allow_inf_nan=False
    )
    hash_only: bool = False
    redaction: list[str] = Field(default=["email", "long_number"], max_length=feedback.PATTERNS_MAX)

    @classmethod
    def of(cls, text: str) -> FeedbackSettings | None:
        """Read the settings as the log holds them; None if the queue is off."""
        found = feedback.read_feedback_settings(text)
        if found is None:
            return None
        return cls(
            items_max=found.items_max,
            retention_days=found.retention_days,
            hash_only=found.is_hash_only,
            redaction=list(found.redaction),
        )

    @property
    def canonical(self) -> str:
        """The settings as the log holds them."""
        return feedback.write_feedback_settings(
            feedback.FeedbackSettings(
                self.items_max, self.retention_days, self.hash_only, tuple(self.redaction)
            )
        )


class StoredFeedback(BaseModel):
    """One item of the review queue.

    Attributes:
        id: 16 hexadecimal digits.
        text: After redaction; None if the queue keeps no texts.
        route: The route that somebody says is right; None for no route.
        was: The route of the answer; None for no route.
        at_ms: When it was said last, milliseconds since 1970.
        times: How often the same was said.
    """

    id: str
    text: str | None
    route: str | None
    was: str | None
    at_ms: int
    times: int


class FeedbackPage(BaseModel):
    """A page of the review queue, newest first.

    Attributes:
        is_on: Whether the queue takes feedback.
        items: The items.
        next_after: ``after`` of the next page; None at the end.
        total: Items of the queue that the filter lets pass.
        version: ``epoch.seq`` at which it was read.
    """

    is_on: bool
    items: list[StoredFeedback]
    next_after: str | None
    total: int
    version: str


class FeedbackReceipt(BaseModel):
    """The result of feedback.

    Attributes:
        id: The item of the review queue.
        times: How often the same was said.
        version: ``epoch.seq`` of the write.
        status: As of a write.
    """

    id: str
    times: int
    version: str
    status: Literal["applied", "unchanged", "pending"]


class RouteSetSettings(BaseModel):
    """Settings of the route set, replicated to every node.

    Attributes:
        aggregation: ``blend``, ``max``, ``mean``, ``centroid``, ``topk`` or ``adaptive``.
        topk: Utterances averaged by ``topk``.
        threshold: Default threshold; None for no least score.
        capacity_slots: Utterances that the tensor can hold.
        cascade: Whether the static stage may answer clear queries without the encoder, on
            nodes that have its table and a calibration that allows it.  ``auto`` where that pays
            by its own measurement, and silently not elsewhere.  Below level 5 of the log
            ``auto`` is off, and shown as ``false``.
        feedback: Settings of the review queue; None keeps none.
        confidence_min: Default of the lowest confidence at which a route matches; None for no
            such limit.
        expected_unmatched_share: Share of queries that you expect to belong to no route.
        ignore: Patterns of RE2: what they match is cut out of a query before it is encoded.
        repair_words: Whether misspelled words of a query are read as known words.

    ``adaptive``, no threshold and the last four need level 3 of the log.
    """

    model_config = ConfigDict(extra="forbid")

    aggregation: Aggregation
    topk: int = Field(ge=1, le=validation.TOPK_MAX)
    threshold: Threshold | None
    capacity_slots: int = Field(ge=1, le=validation.CAPACITY_SLOTS_MAX)
    cascade: CascadeMode = "auto"
    feedback: FeedbackSettings | None = Field(default=None, exclude_if=lambda value: value is None)
    # At their defaults the fields of level 3 are left out: a node of the release before takes
    # what this one shows.
    confidence_min: Confidence | None = Field(default=None, exclude_if=is_none)
    expected_unmatched_share: float = Field(
        default=DEFAULT_UNMATCHED_SHARE,
        ge=validation.UNMATCHED_SHARE_MIN,
        le=validation.UNMATCHED_SHARE_MAX,
        exclude_if=lambda value: value == DEFAULT_UNMATCHED_SHARE,
    )
    ignore: list[IgnorePattern] = Field(
        default_factory=list, max_length=validation.IGNORE_PATTERNS_MAX, exclude_if=is_empty
    )
    repair_words: bool = Field(default=False, exclude_if=lambda value: not value)


def check_prior(weights: Mapping[str, float]) -> dict[str, float]:
    """Check the prior of a query.

    Raises:
        ValueError: There are too many weights, or a name or a weight is malformed.
    """
    if len(weights) > PRIOR_ROUTES_MAX:
        raise ValueError(f"must name at most {PRIOR_ROUTES_MAX} routes")
    most = PRIOR_WEIGHT_MAX
    for weight in weights.values():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError("must have numbers as weights")
        if not -most <= weight <= most:  # also refuses NaN
            raise ValueError(f"must have weights from -{most:g} to {most:g}")
    checked = {check_name(name): float(weight) for name, weight in weights.items()}
    if len(checked) != len(weights):
        raise ValueError("must name each route once: two names are one in NFC")
    return checked


def check_context(turns: Sequence[str]) -> tuple[str, ...]:
    """Check the turns of a query's context.

    Raises:
        ValueError: There are too many, they are too long together, or one is malformed.
    """
    if isinstance(turns, str) or len(turns) > CONTEXT_TURNS_MAX:
        raise ValueError(f"must be a list of at most {CONTEXT_TURNS_MAX} texts")
    checked = tuple(check_text(turn, CONTEXT_BYTES_MAX) for turn in turns)
    if sum(len(turn.encode()) for turn in checked) > CONTEXT_BYTES_MAX:
        raise ValueError(f"must be at most {CONTEXT_BYTES_MAX} bytes of UTF-8 together")
    return checked


def route_names(names: Sequence[str]) -> frozenset[str]:
    """Check the names of a query's filter and return them as a set."""
    if len(names) > FILTER_ROUTES_MAX:
        raise ValueError(f"must name at most {FILTER_ROUTES_MAX} routes")
    return frozenset(check_name(name) for name in names)
