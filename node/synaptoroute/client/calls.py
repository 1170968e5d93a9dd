"""The calls of the API as requests; the sync and the async client send the same ones.

Values are checked by the node, which knows the rules of its release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter, ValidationError

from synaptoroute.change_models import (
    Erasure,
    ErasureStatus,
    HistoryPage,
    Promotion,
    SetDiff,
    SetTestPage,
    SetTestRun,
    ShadowReport,
)
from synaptoroute.client.core import JSON, Body, Reply, Request, encode
from synaptoroute.client.errors import UnexpectedAnswer
from synaptoroute.client.transport import checked_set_name
from synaptoroute.models import (
    FeedbackReceipt,
    ImportResult,
    Match,
    Route,
    RouteSetSettings,
    StoredRoute,
    WriteResult,
)

ResultT = TypeVar("ResultT")
WriteResultT = TypeVar("WriteResultT", bound=WriteResult)
Ack = Literal["accepted", "applied", "quorum", "all"]
Consistency = Literal["local", "head"]
Format = Literal["ndjson", "json", "yaml"]
RouteLike = Route | Mapping[str, Any]
Labels = Mapping[str, str | None]
"""Labelled queries: texts, and the route that is right for each; None for no route."""

MEDIA_TYPES: Final[Mapping[Format, str]] = {
    "ndjson": "application/x-ndjson",
    "json": JSON,
    "yaml": "application/yaml",
}
PAGE_ROUTES: Final = 100
TRANSFER_SECONDS: Final = 300.0
"""Longest attempt of an import or export."""
TESTS_SECONDS: Final = 150.0
"""Longest attempt of what asks many texts; the node gives them 120 s."""


class Keep:
    """Type of ``KEEP``."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP: Final = Keep()
"""A field that a change leaves as it is."""


class WriteOptions(BaseModel):
    """Options of a write.

    Attributes:
        ack: Level of durability to wait for.
        ack_timeout_seconds: How long the node waits for it; None for the node's own limit.
        if_match: Revision that the route, the set or the alias must have; ``*`` for any.
        if_absent: Whether the route must not exist.
        idempotency_key: Makes the write safe to repeat across calls; None for a new key.  A
            call that is tried several times keeps its key in either case.
        note: What the history says about the change.
    """

    ack: Ack = "applied"
    ack_timeout_seconds: float | None = None
    if_match: str | None = None
    if_absent: bool = False
    idempotency_key: str | None = None
    note: str | None = None


class SplitMatches(BaseModel):
    """The parts of a text in order, each with its ``span``."""

    matches: list[Match]


class RoutePage(BaseModel):
    """A page of routes, in order of name.

    Attributes:
        routes: The routes.
        next_after: ``after`` of the next page; None at the end.
        version: ``epoch.seq`` at which it was read.
    """

    routes: list[StoredRoute]
    next_after: str | None
    version: str


class Operation(BaseModel):
    """The outcome of a write, as the node remembers it.

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


class Choice(BaseModel):
    """The answer to one question with several options.

    Attributes:
        choice: The option.
        confidence: How sure the answer is, 0 to 1.
        probabilities: Probability of each option.
        model: Route set that answered.
    """

    choice: str | bool
    confidence: float
    probabilities: dict[str | bool, float]
    model: str


_MATCHES: Final = TypeAdapter(list[Match])


# --- queries -----------------------------------------------------------------------------


def query_fields(
    *,
    limit: int = 1,
    routes: Sequence[str] | None = None,
    explain: bool = False,
    context: Sequence[str] = (),
    prior: Mapping[str, float] | None = None,
    session: str | None = None,
) -> dict[str, Any]:
    """Options of a query, without those that have their default."""
    fields: dict[str, Any] = {}
    if limit != 1:
        fields["limit"] = limit
    if routes is not None:
        fields["routes"] = list(routes)
    if explain:
        fields["explain"] = True
    if context:
        fields["context"] = list(context)
    if prior is not None:
        fields["prior"] = dict(prior)
    if session is not None:
        fields["session"] = session
    return fields


def query(
    text: str, fields: Mapping[str, Any], consistency: Consistency = "local"
) -> Request[Match]:
    return _query("/v1/query", {"text": text, **fields}, consistency, _model(Match))


def query_split(
    text: str, fields: Mapping[str, Any], consistency: Consistency = "local"
) -> Request[list[Match]]:
    document = {"text": text, "split": True, **fields}
    read = _model(SplitMatches)
    return _query("/v1/query", document, consistency, lambda reply: read(reply).matches)


def query_batch(
    texts: Sequence[str], fields: Mapping[str, Any], consistency: Consistency = "local"
) -> Request[list[Match]]:
    def read(reply: Reply) -> list[Match]:
        return _checked(reply, lambda: _MATCHES.validate_python(reply.json()["matches"]))

    return _query("/v1/query/batch", {"texts": list(texts), **fields}, consistency, read)


def decide(
    state: Any, questions: Sequence[Mapping[str, Any]], model: str
) -> Request[dict[str, Any]]:
    document = {"model": model, "input": state, "questions": list(questions)}
    return _query("/v1/decisions", document, "local", lambda reply: _object(reply))


def choose(
    state: Any,
    options: Sequence[str | bool] | Mapping[str, str | None],
    instructions: str,
    model: str,
) -> Request[Choice]:
    described = options if isinstance(options, Mapping) else dict.fromkeys(options)
    choices = [
        {"value": value, **({} if text is None else {"description": text})}
        for value, text in described.items()
    ]
    question = {
        "type": "choice",
        "name": "choice",
        "instructions": instructions,
        "choices": choices,
    }
    asked = decide(state, [question], model)

    def read(reply: Reply) -> Choice:
        def parse() -> Choice:
            document = reply.json()
            (answer,) = document["answers"]
            if answer["type"] != "choice":
                raise ValueError(f"an answer of type {answer['type']!r} to a choice")
            return Choice(
                choice=answer["choice"],
                confidence=answer["confidence"],
                probabilities={
                    each["value"]: each["probability"] for each in answer["probabilities"]
                },
                model=document["model"],
            )

        return _checked(reply, parse)

    return Request(
        asked.method,
        asked.path,
        read,
        body=asked.body,
        content_type=JSON,
        is_versioned=True,
    )


# --- routes ------------------------------------------------------------------------------


def route_path(name: str) -> str:
    return f"/v1/routes/{quote(name, safe='')}"


def list_routes(after: str, limit: int, consistency: Consistency) -> Request[RoutePage]:
    parameters = {"limit": str(limit), **({"after": after} if after else {})}
    return read("/v1/routes", _model(RoutePage), parameters, consistency)


def get_route(name: str, consistency: Consistency) -> Request[StoredRoute]:
    return read(route_path(name), _model(StoredRoute), {}, consistency)


def put_route(route: RouteLike, options: WriteOptions) -> Request[WriteResult]:
    document = route_document(route)
    return write("PUT", route_path(str(document["name"])), document, options, _write_result)


def patch_route(
    name: str, changes: Mapping[str, Any], options: WriteOptions
) -> Request[WriteResult]:
    given = {key: value for key, value in changes.items() if value is not KEEP}
    return write("PATCH", route_path(name), given, options, _write_result)


def delete_route(name: str, options: WriteOptions) -> Request[WriteResult]:
    return write("DELETE", route_path(name), None, options, _write_result)


def add_utterances(
    name: str, utterances: Sequence[str], options: WriteOptions
) -> Request[WriteResult]:
    document = {"utterances": list(utterances)}
    return write("POST", f"{route_path(name)}/utterances", document, options, _write_result)


def remove_utterances(
    name: str, utterances: Sequence[str], options: WriteOptions
) -> Request[WriteResult]:
    document = {"utterances": list(utterances)}
    return write("DELETE", f"{route_path(name)}/utterances", document, options, _write_result)


# --- transfer ----------------------------------------------------------------------------


def import_routes(
    routes: Iterable[RouteLike] | bytes,
    *,
    format: Format,
    replace: bool,
    import_id: str | None,
    ack: Ack,
) -> Request[ImportResult]:
    parameters = {"replace": "true"} if replace else {}
    if import_id is not None:
        parameters["import_id"] = import_id
    if ack != "applied":
        parameters["ack"] = ack
    # An iterator has one pass, anything else makes a new one for each attempt.
    can_repeat = isinstance(routes, bytes) or iter(routes) is not routes
    body: Body = routes if isinstance(routes, bytes) else partial(_lines_of, routes)
    kind = format if isinstance(routes, bytes) else "ndjson"
    return Request(
        "POST",
        "/v1/import",
        _model(ImportResult),
        parameters,
        body,
        MEDIA_TYPES[kind],
        is_write=True,
        can_repeat=can_repeat,
        attempt_seconds=TRANSFER_SECONDS,
    )


def _lines_of(routes: Iterable[RouteLike]) -> Iterator[bytes]:
    return (encode(route_document(each)) + b"\n" for each in routes)


def export_routes(format: Format, consistency: Consistency) -> Request[bytes]:
    return Request(
        "GET",
        "/v1/export",
        lambda reply: reply.body,
        _consistency(consistency),
        headers={"Accept": MEDIA_TYPES[format]},
        is_versioned=True,
        attempt_seconds=TRANSFER_SECONDS,
    )


class Lines:
    """Splits a stream of bytes into lines, at line feeds only."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the lines that are complete now, without empty ones."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [line for line in lines if line]

    def end(self) -> list[bytes]:
        """Return the last line, if the stream did not end with a line feed."""
        return [self._rest] if self._rest else []


def exported_route(line: bytes) -> Route:
    """Read one line of an export.

    Raises:
        UnexpectedAnswer: It is no route.
    """
    try:
        return Route.model_validate_json(line)
    except ValidationError as error:
        raise UnexpectedAnswer("a line of the export is not a route") from error


# --- feedback, settings, outcomes ----------------------------------------------------------


def feedback(
    route: str | None,
    *,
    text: str | None,
    decision_id: str | None,
    was: str | Keep | None,
    options: WriteOptions,
) -> Request[FeedbackReceipt]:
    document: dict[str, Any] = {"route": route}
    if text is not None:
        document["text"] = text
    if decision_id is not None:
        document["decision_id"] = decision_id
    if not isinstance(was, Keep):
        document["was"] = was
    return write("POST", "/v1/feedback", document, options, _model(FeedbackReceipt))


def get_settings(consistency: Consistency) -> Request[RouteSetSettings]:
    return read("/v1/settings", _model(RouteSetSettings), {}, consistency)


def put_settings(settings: RouteSetSettings, options: WriteOptions) -> Request[WriteResult]:
    document = settings.model_dump(mode="json")
    return write("PUT", "/v1/settings", document, options, _write_result)


def operation(op_id: str) -> Request[Operation]:
    return read(f"/v1/ops/{quote(op_id, safe='')}", _model(Operation))


# --- route sets --------------------------------------------------------------------------


def list_sets(after: str, limit: int) -> Request[dict[str, Any]]:
    return read("/v1/sets", _object, _page(after, limit), "local")


def get_set(name: str) -> Request[dict[str, Any]]:
    return read(_set_path(name), _object, {}, "local")


def put_set(
    name: str, limits: Mapping[str, int] | None, options: WriteOptions
) -> Request[WriteResult]:
    document = {} if limits is None else {"limits": dict(limits)}
    return write("PUT", _set_path(name), document, options, _write_result)


def delete_set(name: str, options: WriteOptions) -> Request[WriteResult]:
    return write("DELETE", _set_path(name), None, options, _write_result)


def fork_set(name: str, into: str, options: WriteOptions) -> Request[WriteResult]:
    return write("POST", f"{_set_path(name)}/fork", {"as": into}, options, _write_result)


def list_aliases(after: str, limit: int) -> Request[dict[str, Any]]:
    return read("/v1/aliases", _object, _page(after, limit), "local")


def get_alias(name: str) -> Request[dict[str, Any]]:
    return read(_alias_path(name), _object, {}, "local")


def put_alias(
    name: str, route_set: str, fields: Mapping[str, Any], options: WriteOptions
) -> Request[Promotion]:
    document = {"set": route_set, **fields}
    return replace(
        write("PUT", _alias_path(name), document, options, _written(Promotion)),
        attempt_seconds=TESTS_SECONDS if fields.get("gate") is not None else None,
    )


def delete_alias(name: str, options: WriteOptions) -> Request[WriteResult]:
    return write("DELETE", _alias_path(name), None, options, _write_result)


# --- tests and promotions ------------------------------------------------------------------


def list_tests(after: str, limit: int) -> Request[SetTestPage]:
    return read("/v1/tests", _model(SetTestPage), _page(after, limit))


def put_tests(tests: Labels, options: WriteOptions) -> Request[WriteResult]:
    return write("PUT", "/v1/tests", {"tests": _labelled(tests)}, options, _write_result)


def patch_tests(
    tests: Labels, removed: Sequence[str], options: WriteOptions
) -> Request[WriteResult]:
    document = {"tests": _labelled(tests), "removed": list(removed)}
    return write("PATCH", "/v1/tests", document, options, _write_result)


def delete_tests(options: WriteOptions) -> Request[WriteResult]:
    return write("DELETE", "/v1/tests", None, options, _write_result)


def evaluate(texts: Labels | None) -> Request[SetTestRun]:
    document = {} if texts is None else {"texts": _labelled(texts)}
    return _measure("/v1/evaluation", document, _model(SetTestRun))


def diff(before: str, after: str, texts: Labels | Sequence[str] | None) -> Request[SetDiff]:
    document: dict[str, Any] = {"from": before, "to": after}
    if isinstance(texts, Mapping):
        document["texts"] = _labelled(texts)
    elif texts is not None:
        document["texts"] = [{"text": text} for text in texts]
    return _measure("/v1/diff", document, _model(SetDiff))


def roll_back(name: str, version: str | None, options: WriteOptions) -> Request[WriteResult]:
    document = None if version is None else {"version": version}
    return write("POST", f"{_alias_path(name)}/rollback", document, options, _write_result)


def shadow_report(name: str) -> Request[ShadowReport]:
    return read(f"{_alias_path(name)}/shadow", _model(ShadowReport))


def reset_shadow(name: str) -> Request[ShadowReport]:
    path, read_reply = f"{_alias_path(name)}/shadow", _model(ShadowReport)
    return write("DELETE", path, None, WriteOptions(), read_reply)


def history(
    route: str | None, route_set: str | None, before: int | None, limit: int, *, changes: bool
) -> Request[HistoryPage]:
    given = {"route": route, "set": route_set, "before": before, "limit": limit}
    parameters = {key: str(value) for key, value in given.items() if value is not None}
    if not changes:
        parameters["changes"] = "false"
    return read("/v1/history", _model(HistoryPage), parameters)


def revert(version: str, options: WriteOptions) -> Request[WriteResult]:
    path = f"/v1/history/{quote(version, safe='')}/revert"
    return write("POST", path, None, options, _write_result)


def erase(texts: Sequence[str], options: WriteOptions) -> Request[Erasure]:
    return write("POST", "/v1/erase", {"texts": list(texts)}, options, _model(Erasure))


def erasure_status() -> Request[ErasureStatus]:
    return read("/v1/erase", _model(ErasureStatus))


def _labelled(texts: Labels) -> list[dict[str, str | None]]:
    return [{"text": text, "route": route} for text, route in texts.items()]


def _measure(
    path: str, document: Mapping[str, Any], read_reply: Callable[[Reply], ResultT]
) -> Request[ResultT]:
    request = _query(path, document, "local", read_reply)
    return replace(request, attempt_seconds=TESTS_SECONDS)


def _page(after: str, limit: int) -> dict[str, str]:
    parameters = {"limit": str(limit)}
    return {**parameters, "after": after} if after else parameters


def _set_path(name: str) -> str:
    return f"/v1/sets/{quote(checked_set_name(name), safe='')}"


def _alias_path(name: str) -> str:
    return f"/v1/aliases/{quote(checked_set_name(name), safe='')}"


# --- requests ------------------------------------------------------------------------------


def read(
    path: str,
    read_reply: Callable[[Reply], ResultT],
    parameters: Mapping[str, str] | None = None,
    consistency: Consistency = "local",
) -> Request[ResultT]:
    """A request that reads."""
    return Request(
        "GET",
        path,
        read_reply,
        {**(parameters or {}), **_consistency(consistency)},
        is_versioned=True,
    )


def write(
    method: str,
    path: str,
    document: Any,
    options: WriteOptions,
    read_reply: Callable[[Reply], ResultT],
) -> Request[ResultT]:
    """A request that changes something, which takes effect once however often it is sent."""
    parameters: dict[str, str] = {}
    headers: dict[str, str] = {}
    if options.ack != "applied":
        parameters["ack"] = options.ack
    if options.ack_timeout_seconds is not None:
        parameters["ack_timeout"] = f"{options.ack_timeout_seconds:g}"
    if options.if_match is not None:
        tag = options.if_match
        headers["If-Match"] = tag if tag == "*" or tag.startswith('"') else f'"{tag}"'
    if options.if_absent:
        headers["If-None-Match"] = "*"
    if options.idempotency_key is not None:
        headers["Idempotency-Key"] = options.idempotency_key
    if options.note is not None:
        headers["SR-Note"] = options.note
    has_body = document is not None
    return Request(
        method,
        path,
        read_reply,
        parameters,
        encode(document) if has_body else None,
        JSON if has_body else "",
        headers,
        is_write=True,
    )


def route_document(route: RouteLike) -> dict[str, Any]:
    """A route as its document."""
    if isinstance(route, Route):
        return route.model_dump(mode="json", exclude_unset=True)
    return dict(route)


def _query(
    path: str,
    document: Mapping[str, Any],
    consistency: Consistency,
    read_reply: Callable[[Reply], ResultT],
) -> Request[ResultT]:
    return Request(
        "POST",
        path,
        read_reply,
        _consistency(consistency),
        encode(document),
        JSON,
        is_versioned=True,
        is_query=path.startswith("/v1/query"),
    )


def _consistency(consistency: Consistency) -> dict[str, str]:
    return {} if consistency == "local" else {"consistency": consistency}


def _model(model: type[BaseModel]) -> Callable[[Reply], Any]:
    def read_reply(reply: Reply) -> Any:
        # A node of a newer release may say more than this one knows.
        return _checked(reply, lambda: model.model_validate_json(reply.body, extra="ignore"))

    return read_reply


def _written(model: type[WriteResultT]) -> Callable[[Reply], WriteResultT]:
    def read_reply(reply: Reply) -> WriteResultT:
        result: WriteResultT = _model(model)(reply)
        result.created = reply.status == 201
        result.held_by = reply.headers.get("sr-held-by", "")
        return result

    return read_reply


_write_result: Final = _written(WriteResult)


def _object(reply: Reply) -> dict[str, Any]:
    found = reply.json()
    if not isinstance(found, dict):
        raise UnexpectedAnswer("the answer is not an object", status=reply.status)
    return found


def _checked(reply: Reply, parse: Callable[[], ResultT]) -> ResultT:
    try:
        return parse()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswer(
            "the answer has another form than this release reads", status=reply.status
        ) from error
