"""Bodies of requests and answers, beyond the public models, with their examples.

Requests are read strictly: a number is a number and not its text.  The limits
are those of ``synaptoroute.models``.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    model_validator,
)

from synaptoroute.core.names import NAME_CHARACTERS_MAX
from synaptoroute.core.validation import IGNORE_PATTERNS_MAX, NEGATIVES_MAX
from synaptoroute.learning.clusters import SIMILARITY_MIN
from synaptoroute.learning.clusters import TEXTS_MAX as CLUSTERED_MAX
from synaptoroute.models import (
    CANDIDATES_MAX,
    CONTEXT_TURNS_MAX,
    FILTER_ROUTES_MAX,
    PRIOR_ROUTES_MAX,
    QUERY_BATCH_TEXTS_MAX,
    QUERY_BYTES_MAX,
    UTTERANCES_PER_ROUTE_CALL_MAX,
    Confidence,
    IgnorePattern,
    Match,
    Name,
    Negatives,
    Route,
    RouteSetSettings,
    StoredRoute,
    TextReading,
    Threshold,
    Utterance,
    canonical_json,
    check_context,
    check_prior,
    check_text,
)
from synaptoroute.router.diagnostics import COMPARED_TEXTS_MAX
from synaptoroute.router.feedback import RESOLVED_MAX
from synaptoroute.router.route_sets import RouteSetLimits
from synaptoroute.trust.operator import WARRANT_CHARACTERS_MAX

QUERY_DEADLINE_MS_MAX: Final = 600_000
PREVIEW_TEXTS_MAX: Final = 200
BATCH_BYTES_MAX: Final = 2_097_152
"""UTF-8 bytes of all texts of one batch."""

QueryText = Annotated[
    str,
    Field(min_length=1, description="The text to route."),
    AfterValidator(partial(check_text, bytes_max=QUERY_BYTES_MAX)),
]


def _whole(value: Any) -> Any:
    """Convert 3.0 to 3, as JSON Schema does; some clients have no integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _prior(weights: Any) -> Any:
    return check_prior(weights) if isinstance(weights, dict) else weights


def _context(turns: list[str]) -> list[str]:
    return list(check_context(turns))


WholeNumber = Annotated[int, BeforeValidator(_whole)]
RouteFilter = Annotated[
    list[Name] | None,
    Field(max_length=FILTER_ROUTES_MAX, description="Only these routes may match."),
]


class RequestModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


SESSION_CHARACTERS_MAX: Final = 256


class QueryFields(RequestModel):
    """Fields that a query and a batch share."""

    limit: WholeNumber = Field(
        default=1, ge=1, le=CANDIDATES_MAX, description="Best routes to list as candidates."
    )
    routes: RouteFilter = None
    explain: bool = Field(
        default=False, description="List candidates with scores, thresholds and utterances."
    )
    split: bool = Field(
        default=False,
        description="Route each clause of the text; the answer is a list of matches with spans.",
    )
    prior: Annotated[dict[str, float] | None, BeforeValidator(_prior)] = Field(
        default=None,
        max_length=PRIOR_ROUTES_MAX,
        description="Weights of routes by name, -20 to 20: logarithms of the factors by which "
        "their odds are multiplied.",
    )
    context: Annotated[list[QueryText], AfterValidator(_context)] = Field(
        default_factory=list,
        max_length=CONTEXT_TURNS_MAX,
        description="Earlier turns of the conversation, oldest first; at most 32,768 bytes.",
    )
    deadline_ms: WholeNumber | None = Field(
        default=None,
        ge=1,
        le=QUERY_DEADLINE_MS_MAX,
        description="Give up after this time; the limit of the node still holds.",
    )
    session: str | None = Field(
        default=None,
        min_length=1,
        max_length=SESSION_CHARACTERS_MAX,
        description="Keeps the queries of one session on one side of an alias with a canary.",
    )


class QueryRequest(QueryFields):
    """One text to route."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"text": "How do I get my money back?", "limit": 3, "explain": True}]
        },
    )

    text: QueryText


class BatchRequest(QueryFields):
    """Several texts to route, with the same options."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"texts": ["How do I get my money back?", "Where is my parcel?"]}]
        },
    )

    texts: list[QueryText] = Field(min_length=1, max_length=QUERY_BATCH_TEXTS_MAX)

    @model_validator(mode="after")
    def _small_enough(self) -> BatchRequest:
        if sum(len(text.encode()) for text in self.texts) > BATCH_BYTES_MAX:
            raise ValueError(f"the texts must have at most {BATCH_BYTES_MAX} bytes together")
        return self


class FeedbackRequest(RequestModel):
    """The route that a text belongs to, as somebody says who knows."""

    decision_id: str | None = Field(
        default=None, max_length=64, description="`decision_id` of an answer of this node; or"
    )
    text: Annotated[
        Utterance | None, Field(description="the text; at most as long as an utterance.")
    ] = None
    route: Name | None = Field(description="The route that is right; null for no route.")
    was: Name | None = Field(default=None, description="The route of the answer, with `text`.")


class ResolveRequest(RequestModel):
    """The decision on one item of the review queue."""

    resolve_as: Literal["utterance", "negative", "dismiss"] = Field(
        alias="as", description="Learn it as an utterance or as a negative, or dismiss it."
    )
    route: Name | None = Field(
        default=None,
        description="The route that learns; null for the one that the item names, and for a"
        " negative the one of the answer.",
    )
    text: Utterance | None = Field(
        default=None, description="The text to learn; null for that of the item."
    )
    create: bool = Field(default=False, description="Create the route; it must not exist.")


class ItemResolution(ResolveRequest):
    """The decision on the item ``id``."""

    id: str = Field(pattern=r"^[0-9a-f]{16}$")


class ResolutionsRequest(RequestModel):
    """Several resolutions, which become one entry of the log."""

    items: list[ItemResolution] = Field(min_length=1, max_length=RESOLVED_MAX)


class RouteChangeBody(RequestModel):
    """Changes of one route."""

    name: Name
    utterances: list[Utterance] = Field(
        default_factory=list, max_length=UTTERANCES_PER_ROUTE_CALL_MAX, description="To add."
    )
    create: bool = Field(default=False, description="Create the route; it must not exist.")
    revision: str | None = Field(
        default=None,
        pattern=r"^\d{1,16}\.\d{1,16}$",
        description="The route must have this revision.",
    )
    threshold: Threshold | None = Field(
        default=None, description="Its own threshold; null restores the default."
    )
    confidence_min: Confidence | None = Field(
        default=None, description="Its own least confidence; null restores the default."
    )
    negatives: list[Utterance] = Field(
        default_factory=list,
        max_length=NEGATIVES_MAX,
        description="Texts to add that must not get the route.",
    )


class RevisionRequest(RequestModel):
    """Changes of several routes, which become one entry of the log."""

    routes: list[RouteChangeBody] = Field(default_factory=list, max_length=RESOLVED_MAX)
    resolved: list[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]] = Field(
        default_factory=list, max_length=RESOLVED_MAX, description="Items that leave the queue."
    )
    settings: RouteSetSettings | None = Field(
        default=None, description="All settings of the route set, as for `PUT /v1/settings`."
    )


class PreviewedText(RequestModel):
    """A text to judge before and after a revision."""

    text: QueryText
    route: Name | None = Field(
        default=None, description="The route that it belongs to; null for none, absent if unknown."
    )


class RevisionPreviewRequest(RevisionRequest):
    """A revision, and texts by which to judge it."""

    texts: list[PreviewedText] = Field(default_factory=list, max_length=PREVIEW_TEXTS_MAX)


class ClusteredText(RequestModel):
    """A text to cluster, and how often it occurred."""

    text: QueryText
    times: WholeNumber = Field(default=1, ge=1, le=1_000_000_000)


class ClustersRequest(RequestModel):
    """Texts to cluster by what they mean."""

    texts: list[ClusteredText] = Field(min_length=1, max_length=CLUSTERED_MAX)
    similarity_min: float = Field(
        default=SIMILARITY_MIN,
        ge=-1,
        le=1,
        description="Lowest similarity of two groups that become one.",
    )


class DismissRequest(RequestModel):
    """Texts of unmatched queries to forget."""

    texts: list[QueryText] = Field(min_length=1, max_length=CLUSTERED_MAX)


class SplitAnswer(BaseModel):
    """The parts of a text, in order, each with its match and its ``span``."""

    matches: list[Match]


class SplitBatchAnswer(BaseModel):
    """The parts of each text, in the order of the request."""

    texts: list[SplitAnswer]


class BatchAnswer(BaseModel):
    """One match for each text, in the order of the request."""

    matches: list[Match]


class PreviewRequest(RequestModel):
    """A change of a route that is only tried."""

    name: Name
    route: Route | None = Field(
        default=None, description="The route as it would be; null for its deletion."
    )
    texts: list[str] = Field(min_length=1, max_length=PREVIEW_TEXTS_MAX)


class ReadingRequest(RequestModel):
    """Texts, and patterns to try on them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"texts": ["> old mail\nwhere is my refnud"], "ignore": ["(?m)^>.*$"]}]
        },
    )

    texts: list[QueryText] = Field(min_length=1, max_length=PREVIEW_TEXTS_MAX)
    ignore: list[IgnorePattern] | None = Field(
        default=None,
        max_length=IGNORE_PATTERNS_MAX,
        description="Patterns in place of those of the settings; null for the settings' own.",
    )


class ReadingAnswer(BaseModel):
    """The reading of each text, in the order of the request."""

    texts: list[TextReading]


class RoutePatch(RequestModel):
    """Fields of a route to change; a field that is absent stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={"minProperties": 1, "examples": [{"threshold": 0.45}]},
    )

    threshold: Threshold | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    payload: Any = None
    confidence_min: Confidence | None = Field(
        default=None, description="Its own lowest confidence; null restores the default."
    )
    description: Utterance | None = Field(
        default=None, description="What the route is for; null removes it."
    )
    negatives: Negatives = Field(
        default_factory=list,
        description="Texts that must not get the route, all of them; an empty list removes them.",
    )

    @model_validator(mode="after")
    def _something(self) -> RoutePatch:
        if not self.model_fields_set:
            raise ValueError("give at least one field to change")
        canonical_json(self.metadata)
        canonical_json(self.payload)
        return self


class UtterancesToAdd(RequestModel):
    """Examples to add to a route; examples that it already has stay as they are."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"utterances": ["Give me my money back"]}]}
    )

    utterances: list[Utterance] = Field(min_length=1, max_length=UTTERANCES_PER_ROUTE_CALL_MAX)
    vectors: list[list[float]] | None = Field(
        default=None,
        description="One unit vector for each utterance; encoded here if absent.",
    )

    @model_validator(mode="after")
    def _one_vector_each(self) -> UtterancesToAdd:
        if self.vectors is not None and len(self.vectors) != len(self.utterances):
            raise ValueError(
                f"vectors: {len(self.vectors)} given for {len(self.utterances)} utterances"
            )
        return self


class UtterancesToRemove(RequestModel):
    """Examples to remove from a route; the last one cannot be removed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"utterances": ["Give me my money back"]}]}
    )

    utterances: list[Utterance] = Field(min_length=1, max_length=UTTERANCES_PER_ROUTE_CALL_MAX)


class RecoveryRequest(RequestModel):
    """Whether to force a recovery, or only to show its state."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"force": False}]})

    force: StrictBool = False
    warrant: str = Field(default="", max_length=WARRANT_CHARACTERS_MAX)


class FinalizeRequest(RequestModel):
    """Whether to raise the level of the formats, or only to show what keeps it from rising."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"apply": False}]})

    apply: StrictBool = False


class VoterChange(RequestModel):
    """A node, and whether it votes."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"node": "5f0c6a5e9d1b4b0f", "vote": True}]},
    )

    node: str = Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$")
    vote: StrictBool
    warrant: str = Field(default="", max_length=WARRANT_CHARACTERS_MAX)


class OrphanToReplay(RequestModel):
    """The orphaned write to replay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"op_id": "0f" * 16}]})

    op_id: str = Field(pattern=r"^[0-9a-f]{32}$")


class RouteList(BaseModel):
    """One page of the routes, in order of name.

    Attributes:
        routes: At most ``limit`` of them.
        next_after: Send it as ``after`` for the next page; None at the end.
        version: ``epoch.seq`` at which the page was read.
    """

    routes: list[StoredRoute]
    next_after: str | None
    version: str


class Operation(BaseModel):
    """The outcome of a write, as long as the node remembers it.

    Attributes:
        op_id: Identity of the write.
        status: ``applied``, ``unchanged`` or ``rejected``.
        version: ``epoch.seq`` at which it was decided.
        revision: The route's revision afterwards; None where it has no route.
        count: Utterances added or removed, or routes imported.
        code: Error code of a rejection.
        detail: One sentence about a rejection.
    """

    op_id: str
    status: str
    version: str
    revision: str | None = None
    count: int = 0
    code: str | None = None
    detail: str | None = None


class SetBody(RequestModel):
    """A route set to create, or whose limits are replaced.

    Attributes:
        limits: Its limits; absent, they stay as they are.
    """

    limits: RouteSetLimits | None = None


class SetPatch(RequestModel):
    """Limits of a route set to change; absent ones stay as they are."""

    limits: dict[str, int]


class ForkBody(RequestModel):
    """A copy of a route set.

    Attributes:
        into: Name of the copy.
    """

    into: str = Field(alias="as", min_length=1, max_length=NAME_CHARACTERS_MAX)


class KeyDescription(BaseModel):
    """Permissions of the API key of a request.

    Attributes:
        name: Name of the key; None where the node serves clients without a key.
        scopes: What it allows everywhere; ``admin`` allows everything.
        expires_at: Unix time in seconds from which on it is refused; None for never.
        grants: What it allows in some route sets, such as ``read@support-*``.
        limits: How fast it may be used at one node, by the name of the limit.
    """

    name: str | None
    scopes: list[Literal["read", "write", "admin", "metrics"]]
    expires_at: float | None
    grants: list[str] = Field(default_factory=list, exclude_if=lambda value: not value)
    limits: dict[str, float] = Field(default_factory=dict, exclude_if=lambda value: not value)


class Liveness(BaseModel):
    """The process runs."""

    status: str = "live"


class Readiness(BaseModel):
    """Whether the node is ready for queries.

    Attributes:
        status: ``ready`` or ``not_ready``.
        state: State of the node's router.
        reasons: Why it is not ready.
    """

    status: str
    state: str
    reasons: list[str]


class FieldError(BaseModel):
    """An error in one field."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """RFC 9457 problem details; ``code`` is stable, ``detail`` is for people."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    errors: list[FieldError] | None = None
    outcome: Literal["not_taken", "unknown"] | None = Field(
        default=None,
        description="In 429, 503 and 504 of a write: `not_taken`, or `unknown` if it may still "
        "be applied. The same Idempotency-Key resolves it.",
    )
    op_id: str | None = Field(default=None, description="Identity of the write.")
    version: str | None = Field(default=None, description="Version at which it was decided.")
    current: str | None = Field(default=None, description="Present revision, in a 412.")
    limit: int | None = Field(default=None, description="The limit that was exceeded, in a 413.")


class LabelledText(RequestModel):
    """A text and the route that it belongs to."""

    text: str
    route: str | None = None


class TrialRequest(RequestModel):
    """Labelled texts for a standby encoder."""

    encoder: str = Field(pattern=r"^[0-9a-f]{64}$", description="Fingerprint of the encoder.")
    texts: list[LabelledText] = Field(min_length=1, max_length=COMPARED_TEXTS_MAX)
