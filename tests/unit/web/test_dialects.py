"""Errors in the shape that the callers of a path expect."""

from __future__ import annotations

import json

import pytest

from synaptoroute.web.dialects import render_error
from synaptoroute.web.problems import PROBLEM_JSON, Problem, internal_problem

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_openai_types_follow_the_status(status: int, kind: str) -> None:
    """Clients choose their exception by the status and show the type."""
    media, body = render_error(Problem(status, "some_code", "why"), "/v1/decisions", "urn:x")
    error = {"message": "why", "type": kind, "param": None, "code": "some_code"}

    assert ("application/json", {"error": error}) == (media, json.loads(body))


def test_openai_error_names_the_field_and_the_incident() -> None:
    """The first field that is at fault; an incident, by which the log explains an error."""
    problem = Problem(422, "invalid_query", "why", {"errors": [{"field": "input", "message": "m"}]})
    _, body = render_error(problem, "/v1/decisions/", "urn:x")
    assert "input" == json.loads(body)["error"]["param"]

    internal = internal_problem()
    _, body = render_error(internal, "/v1/decisions", "urn:x")
    assert internal.fields["incident"] == json.loads(body)["error"]["incident"]


def test_route_set_is_a_model_in_both_dialects() -> None:
    """Elsewhere the code is that of the problem."""
    problem = Problem(404, "set_not_found", "why")
    found = {
        path: json.loads(render_error(problem, path, "urn:x")[1])
        for path in ("/v1/decisions", "/v1/systemone", "/v1/query", "")
    }

    assert "model_not_found" == found["/v1/decisions"]["error"]["code"]
    assert "model_not_found" == found["/v1/systemone"]["code"]
    assert "urn:synaptoroute:error:model_not_found" == found["/v1/systemone"]["type"]
    assert {"set_not_found"} == {found[path]["code"] for path in ("/v1/query", "")}


@pytest.mark.parametrize("path", ["/v1/systemone", "/v1/query", "/v1/decisionsx", ""])
def test_other_paths_get_problem_documents(path: str) -> None:
    """With a detail, which clients of System One show."""
    media, body = render_error(Problem(422, "invalid_query", "why"), path, "urn:x")
    document = json.loads(body)

    assert PROBLEM_JSON == media
    assert ("why", 422, "urn:x") == (document["detail"], document["status"], document["instance"])
