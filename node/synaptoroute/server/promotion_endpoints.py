"""Tests of route sets, comparisons of two sets, and promotions by aliases."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from pydantic import AfterValidator
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.change_models import Evidence, SetDiff, SetTestPage, SetTestRun
from synaptoroute.core.mutation import Revision, SetTest
from synaptoroute.errors import InvalidQuery
from synaptoroute.models import NAME_CHARACTERS_MAX, normal_name
from synaptoroute.router.promotion import AliasTarget
from synaptoroute.router.route_sets import alias_not_found
from synaptoroute.router.set_tests import AFTER_CHARACTERS_MAX, PAGE_TESTS_MAX
from synaptoroute.server.parameters import (
    ReadingRoute,
    WriteParameters,
    WriteRequest,
    checked,
    read_document,
    take_texts,
)
from synaptoroute.server.promotion_schemas import (
    AliasBody,
    DiffRequest,
    EvaluationRequest,
    RollbackRequest,
    TestBody,
    TestsBody,
    TestsPatch,
)
from synaptoroute.server.responses import (
    BODY_PROBLEMS,
    READ_PROBLEMS,
    json_body,
    json_response,
    model_response,
    problems,
    success,
    unless_gone,
    version_headers,
    write_response,
)
from synaptoroute.server.route_endpoints import write_responses
from synaptoroute.server.runtime import router_of, runtime_of
from synaptoroute.server.set_access import check_may, may
from synaptoroute.web.problems import InvalidParameter

endpoints = APIRouter(route_class=ReadingRoute, tags=["sets"])

_TEST: Final = {"text": "send my headphones back", "route": "returns"}
_PAGE_EXAMPLE: Final = {
    "route_set": "support",
    "tests": [_TEST],
    "total": 1,
    "next_after": None,
    "revision": "1.42",
    "version": "1.57",
}
_RUN_EXAMPLE: Final = {
    "route_set": "support",
    "revision": "1.42",
    "version": "1.57",
    "is_current": True,
    "tests": 2,
    "right": 1,
    "accuracy": 0.5,
    "routes": [{"route": "returns", "tests": 2, "right": 1}],
    "failures": [
        {
            "text": "send my headphones back",
            "expected": "returns",
            "got": None,
            "confidence": 0.31,
            "is_regression": None,
        }
    ],
    "failures_total": 1,
}
_DIFF_EXAMPLE: Final = {
    "before": {"route_set": "support@12", "revision": "1.42", "right": 1, "accuracy": 0.5},
    "after": {"route_set": "support@13", "revision": "1.56", "right": 2, "accuracy": 1.0},
    "texts": 2,
    "labelled": 2,
    "changed_total": 1,
    "fixed": 1,
    "broken": 0,
    "changed": [
        {
            "text": "send my headphones back",
            "expected": "returns",
            "before": {"route": None, "confidence": 0.31},
            "after": {"route": "returns", "confidence": 0.87},
            "verdict": "fixed",
        }
    ],
    "routes": [
        {
            "route": "returns",
            "before": 1,
            "after": 2,
            "expected": 2,
            "right_before": 1,
            "right_after": 2,
        }
    ],
    "is_current": True,
}
_ALIAS_EXAMPLE: Final = {
    "set": "support@13",
    "gate": {"min_accuracy": 0.95, "max_regressions": 0},
}
AliasName = Annotated[
    str,
    Path(description="Name of the alias.", min_length=1, max_length=NAME_CHARACTERS_MAX),
    AfterValidator(normal_name),
]


# --- tests ---------------------------------------------------------------------------


@endpoints.get(
    "/v1/tests",
    summary="List the tests of the route set",
    responses={
        200: success(
            "One page, in order of text", _PAGE_EXAMPLE, SetTestPage, headers="ETag SR-Version"
        ),
        **problems(*READ_PROBLEMS),
    },
)
async def list_tests(
    request: Request,
    after: Annotated[
        str,
        Query(description="The `next_after` of the page before.", max_length=AFTER_CHARACTERS_MAX),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE_TESTS_MAX)] = 100,
) -> Response:
    """Labelled queries that belong to the set: a fork copies them, and a gate asks them. Follow
    `next_after` until it is null. The ETag is the revision of the set.
    """
    page = await router_of(request).changes.tests.page(after=after, limit=limit)
    return model_response(page, headers=version_headers(page.version, page.revision))


@endpoints.put(
    "/v1/tests",
    summary="Replace the tests of the route set",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("TestsBody", {"tests": [_TEST]}),
)
async def put_tests(request: Request, write: WriteParameters) -> Response:
    """Tests that the body does not name are removed."""
    document = await read_document(request)
    asked = checked(TestsBody, document, InvalidQuery)
    options = _options(write, document)
    tests = router_of(request).changes.tests
    result = await tests.put(_labelled(asked.tests), options, is_replacing=True)
    return write_response(result, options)


@endpoints.patch(
    "/v1/tests",
    summary="Add, replace and remove tests",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("TestsPatch", {"tests": [_TEST], "removed": ["an old text"]}),
)
async def patch_tests(request: Request, write: WriteParameters) -> Response:
    """Tests that the body does not name stay. A text that is not there is removed without an
    error.
    """
    document = await read_document(request)
    asked = checked(TestsPatch, document, InvalidQuery)
    options = _options(write, document)
    tests = router_of(request).changes.tests
    result = await tests.put(_labelled(asked.tests), options, removed=asked.removed)
    return write_response(result, options)


@endpoints.delete(
    "/v1/tests",
    summary="Remove all tests of the route set",
    responses=write_responses(404),
)
async def delete_tests(request: Request, write: WriteParameters) -> Response:
    """The routes stay as they are."""
    options = _options(write, None)
    result = await router_of(request).changes.tests.put([], options, is_replacing=True)
    return write_response(result, options)


@endpoints.post(
    "/v1/evaluation",
    summary="Ask the route set its tests",
    responses={
        200: success("Answers and figures", _RUN_EXAMPLE, SetTestRun, headers="SR-Version"),
        **problems(*BODY_PROBLEMS, *READ_PROBLEMS, 404, 504),
    },
    openapi_extra=json_body("EvaluationRequest", {"texts": [_TEST]}),
)
async def run_tests(request: Request) -> Response:
    """The accuracy of the set on its tests, by route, with the wrong answers. Without a body, or
    with `texts` null, its own tests are asked, else those of the body; nothing is stored.
    """
    document = await read_document(request) if await _has_body(request) else {}
    asked = checked(EvaluationRequest, document, InvalidQuery)
    texts = None if asked.texts is None else _labelled(asked.texts)
    tests = router_of(request).changes.tests
    run = await unless_gone(request, tests.run(texts, partial(take_texts, request)))
    return model_response(run, headers=version_headers(run.version))


@endpoints.post(
    "/v1/diff",
    summary="Compare two route sets",
    responses={
        200: success("The differences", _DIFF_EXAMPLE, SetDiff),
        **problems(*BODY_PROBLEMS, *READ_PROBLEMS, 404, 504),
    },
    openapi_extra=json_body("DiffRequest", {"from": "support@12", "to": "support@13"}),
)
async def diff_sets(request: Request) -> Response:
    """Both sets answer the same texts: accuracy, decisions that change, and the differences of
    each route. Without `texts` they are the tests of both and, for the scope `admin`, unmatched
    queries that this node keeps. Aliases stand for the sets that answer for them. Nothing is
    stored.
    """
    asked = checked(DiffRequest, await read_document(request), InvalidQuery)
    for name in (asked.from_set, asked.to_set):
        check_may(request, "read", name)
    texts: list[SetTest | str] | None = None
    if asked.texts is not None:
        texts = [
            SetTest(each.text, each.route) if "route" in each.model_fields_set else each.text
            for each in asked.texts
        ]
    promotions = runtime_of(request).serving_router.changes.promotions

    def check(name: str) -> bool:
        check_may(request, "read", name)
        return may(request, "admin", name)

    work = promotions.diff(
        asked.from_set, asked.to_set, texts, check=check, take=partial(take_texts, request)
    )
    found = await unless_gone(request, work)
    return model_response(found)


# --- aliases -------------------------------------------------------------------------


@endpoints.put(
    "/v1/aliases/{alias}",
    summary="Point an alias at a route set",
    responses=write_responses(*BODY_PROBLEMS, 404, created=True),
    openapi_extra=json_body("AliasBody", _ALIAS_EXAMPLE),
)
async def put_alias(request: Request, alias: AliasName, write: WriteParameters) -> Response:
    """On every node at one position. With a `gate`, the node asks the set its tests first, and
    the alias moves only if the set still has that content: else 409 `gate_failed`, with the
    evidence and the wrong answers.
    """
    document = await read_document(request)
    asked = checked(AliasBody, document, InvalidQuery)
    check_may(request, "write", alias, alias_not_found(alias))
    for name in (asked.route_set, asked.shadow, asked.canary):
        if name is not None:
            check_may(request, "read", name)
    options = write.options(document)
    wanted = AliasTarget(
        asked.route_set,
        asked.shadow or "",
        asked.shadow_share,
        asked.canary or "",
        asked.canary_share,
    )
    promotions = runtime_of(request).router.changes.promotions
    result, evidence = await promotions.promote(
        alias, wanted, options, asked.gate, partial(take_texts, request)
    )
    response = write_response(result, options, is_new=result.created)
    return response if evidence is None else _with_evidence(response, evidence)


def _with_evidence(response: Response, evidence: Evidence) -> Response:
    document = json.loads(bytes(response.body))
    document["evidence"] = evidence.model_dump(exclude_none=True)
    kept = {name: value for name, value in response.headers.items() if name != "content-length"}
    return json_response(json.dumps(document), status=response.status_code, headers=kept)


@endpoints.post(
    "/v1/aliases/{alias}/rollback",
    summary="Roll an alias back",
    responses=write_responses(*BODY_PROBLEMS, 404),
    openapi_extra=json_body("RollbackRequest", {"version": "1.42"}),
)
async def roll_back(request: Request, alias: AliasName, write: WriteParameters) -> Response:
    """A new change that restores what the alias named before its last change, or since the change
    that the body names. A second one without a body returns to where it was.
    """
    document: Any = await read_document(request) if await _has_body(request) else {}
    asked = checked(RollbackRequest, document, InvalidQuery)
    check_may(request, "write", alias, alias_not_found(alias))
    options = write.options(document)
    version = None
    if asked.version is not None:
        epoch, _, seq = asked.version.partition(".")
        version = Revision(int(epoch), int(seq))
    promotions = runtime_of(request).router.changes.promotions
    check = partial(check_may, request, "read")
    result = await promotions.roll_back(alias, options, version, check)
    return write_response(result, options)


async def _has_body(request: Request) -> bool:
    headers = request.headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _options(write: WriteRequest, document: Any) -> Any:
    if "if-match" in write.request.headers or "if-none-match" in write.request.headers:
        raise InvalidParameter("a change of tests has no preconditions")
    return write.options(document)


def _labelled(tests: list[TestBody]) -> list[SetTest]:
    return [SetTest(each.text, each.route) for each in tests]
