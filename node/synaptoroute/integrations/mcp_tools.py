"""The tools of the MCP server: their arguments, their results, and what they do.

This module does not import the MCP SDK; ``mcp_server`` speaks the protocol.

Rule 1: the models below are the schemas that a client sees; ``field`` descriptions are read by
language models.  Rule 2: an error has the stable code of the HTTP API and never repeats a text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from synaptoroute.errors import InvalidQuery
from synaptoroute.integrations.backends import Backend, Writer
from synaptoroute.models import (
    CANDIDATES_MAX,
    CONTEXT_TURNS_MAX,
    FILTER_ROUTES_MAX,
    QUERY_BYTES_MAX,
    UTTERANCES_PER_ROUTE_CALL_MAX,
    FeedbackReceipt,
    Match,
    Name,
    Route,
    Utterance,
    WriteResult,
    check_text,
)

EXAMPLES_LISTED: Final = 3
PAGE_ROUTES_MAX: Final = 100


def _query_text(text: str) -> str:
    return check_text(text, QUERY_BYTES_MAX)


# --- arguments ---------------------------------------------------------------------------


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RouteArguments(Arguments):
    text: Annotated[str, AfterValidator(_query_text)] = Field(
        description="The user's message, as written; at most 32768 bytes of UTF-8."
    )
    routes: list[Name] | None = Field(
        default=None,
        max_length=FILTER_ROUTES_MAX,
        description="Choose among these routes only; all routes if left out.",
    )
    context: list[Annotated[str, AfterValidator(_query_text)]] = Field(
        default_factory=list,
        max_length=CONTEXT_TURNS_MAX,
        description="Earlier messages of the conversation, oldest first.",
    )


class ExplainArguments(RouteArguments):
    limit: int = Field(
        default=5, ge=1, le=CANDIDATES_MAX, description="How many routes to compare."
    )


class ListArguments(Arguments):
    after: str = Field(
        default="", max_length=128, description="`next_after` of the page before; empty at first."
    )
    limit: int = Field(default=50, ge=1, le=PAGE_ROUTES_MAX, description="Routes a page.")


class AddArguments(Arguments):
    name: Name = Field(description="Name of the route.")
    utterances: list[Utterance] = Field(
        min_length=1,
        max_length=UTTERANCES_PER_ROUTE_CALL_MAX,
        description="Messages that belong to the route, as users write them.",
    )


class PutArguments(AddArguments):
    description: Utterance | None = Field(default=None, description="What the route is for.")
    payload: Any = Field(default=None, description="JSON that every match returns.")


class DeleteArguments(Arguments):
    name: Name = Field(description="Name of the route.")


class FeedbackArguments(Arguments):
    text: Annotated[str, AfterValidator(_query_text)] = Field(description="The routed message.")
    route: Name | None = Field(description="The right route; null if no route is right.")
    was: Name | None = Field(default=None, description="The route that it was given.")


# --- results -----------------------------------------------------------------------------


class Result(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class RouteResult(Result):
    route: str | None = Field(
        default=None, description="The route of the message; null if none fits."
    )
    confidence: float | None = Field(
        default=None, description="Probability that the route is right, 0 to 1."
    )
    reason: str = Field(description="How it was decided, such as matched or below_confidence.")
    utterance: str | None = Field(
        default=None, description="The most similar example of the route."
    )
    payload: Any = Field(default=None, description="What the route's owner attached to it.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="The route's own data.")
    version: str = Field(description="State of the route set, epoch.seq.")


class CandidateResult(Result):
    route: str
    score: float
    confidence: float | None = None
    passed: bool = Field(description="Whether the route reaches its limits.")
    utterance: str | None = Field(default=None, description="Its most similar example.")
    similarity: float


class ExplainResult(RouteResult):
    score: float | None = Field(default=None, description="Score of the route.")
    confidence_min: float | None = Field(
        default=None, description="The confidence that the route needs."
    )
    p_none: float | None = Field(default=None, description="Probability that no route is right.")
    encoded_text: str | None = Field(
        default=None, description="The text that was compared, if it was changed."
    )
    candidates: list[CandidateResult] = Field(
        default_factory=list, description="The best routes, best first."
    )


class ListedRoute(Result):
    name: str
    description: str | None = None
    utterances_count: int
    examples: list[str] = Field(description="Its first utterances.")


class ListResult(Result):
    routes: list[ListedRoute]
    next_after: str | None = Field(
        default=None, description="Continue with `after`; null at the end."
    )
    version: str


class WriteDone(Result):
    status: str = Field(description="applied, unchanged, or pending if it is not visible yet.")
    version: str = Field(description="Place of the write, epoch.seq.")
    count: int = Field(default=0, description="Utterances that were added or removed.")
    warnings: list[str] = Field(default_factory=list)


class FeedbackDone(Result):
    id: str = Field(description="The item of the review queue.")
    times: int = Field(description="How often the same was said.")
    status: str
    version: str


# --- what they do ------------------------------------------------------------------------


async def _route(backend: Backend, asked: Any) -> Match:
    return await backend.query(asked.text, routes=asked.routes, context=asked.context)


async def _explain(backend: Backend, asked: Any) -> Match:
    match = await backend.query(
        asked.text,
        routes=asked.routes,
        context=asked.context,
        explain=True,
        limit=asked.limit,
    )
    # An explained query lists at least five.
    return match.model_copy(update={"candidates": (match.candidates or [])[: asked.limit]})


async def _list(backend: Backend, asked: Any) -> ListResult:
    page = await backend.list_routes(asked.after, asked.limit)
    routes = [
        ListedRoute(
            name=route.name,
            description=route.description,
            utterances_count=len(route.utterances),
            examples=route.utterances[:EXAMPLES_LISTED],
        )
        for route in page.routes
    ]
    return ListResult(routes=routes, next_after=page.next_after, version=page.version)


async def _add(writer: Writer, asked: Any) -> WriteResult:
    return await writer.add_utterances(asked.name, asked.utterances)


async def _put(writer: Writer, asked: Any) -> WriteResult:
    return await writer.put_route(Route(**asked.model_dump(exclude_none=True)))


async def _delete(writer: Writer, asked: Any) -> WriteResult:
    return await writer.delete_route(asked.name)


async def _feedback(writer: Writer, asked: Any) -> FeedbackReceipt:
    said = asked.model_dump(include=asked.model_fields_set - {"route"})
    return await writer.feedback(asked.route, **said)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool.

    Attributes:
        about: What it does, for the language model that chooses among tools.
        run: Does it: of a backend, or of a writer if it ``writes``.
        destroys: Whether it can delete what was there.
        repeats: Whether a second call with the same arguments changes nothing more.
    """

    name: str
    about: str
    arguments: type[Arguments]
    result: type[Result]
    run: Callable[[Any, Any], Awaitable[BaseModel]]
    writes: bool = False
    destroys: bool = False
    repeats: bool = True

    def read(self, arguments: dict[str, Any]) -> Arguments:
        """Validate the arguments of a call.

        Raises:
            InvalidQuery: They do not fit the schema; the message names the field alone.
        """
        try:
            return self.arguments.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(map(str, first["loc"])) or "arguments"
            reason = first["msg"].removeprefix("Value error, ")
            raise InvalidQuery(f"{field[:120]}: {reason[:300]}") from None

    def shape(self, answer: BaseModel) -> dict[str, Any]:
        """Bring an answer of the backend into the shape of the result's schema."""
        return self.result.model_validate(answer.model_dump()).model_dump(mode="json")


TOOLS: Final = {
    spec.name: spec
    for spec in (
        ToolSpec(
            "route",
            "Decide which named route a message belongs to, in milliseconds and without a "
            "language model. A null route means that none fits.",
            RouteArguments,
            RouteResult,
            _route,
        ),
        ToolSpec(
            "explain",
            "Route a message and show why: the best routes with their scores, confidences and "
            "nearest examples.",
            ExplainArguments,
            ExplainResult,
            _explain,
        ),
        ToolSpec(
            "list_routes",
            "List the routes in order of name, with a few examples each.",
            ListArguments,
            ListResult,
            _list,
        ),
        ToolSpec(
            "add_utterances",
            "Add example messages to an existing route; every node of the cluster has them when "
            "the call returns `applied`.",
            AddArguments,
            WriteDone,
            _add,
            writes=True,
        ),
        ToolSpec(
            "put_route",
            "Create a route, or replace the whole route of that name.",
            PutArguments,
            WriteDone,
            _put,
            writes=True,
            destroys=True,
        ),
        ToolSpec(
            "delete_route",
            "Delete a route with all its examples.",
            DeleteArguments,
            WriteDone,
            _delete,
            writes=True,
            destroys=True,
        ),
        ToolSpec(
            "feedback",
            "Say which route would have been right for a message; a person reviews it before it "
            "changes anything.",
            FeedbackArguments,
            FeedbackDone,
            _feedback,
            writes=True,
            repeats=False,
        ),
    )
}
