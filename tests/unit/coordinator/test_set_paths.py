"""The fleet API of a route set: which endpoint answers, and which scope it needs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from synaptoroute.web.middleware import CONTEXT, RequestContext
from synaptoroute_coordinator.app.runtime import CoordinatorPolicy, path_at_node, scope_needed

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "scope"),
    [
        ("GET", "/v1/sets/support/routes/a", "/v1/routes/a", "read"),
        ("PUT", "/v1/sets/support@2/routes/a", "/v1/routes/a", "write"),
        ("PUT", "/v1/sets/support/settings", "/v1/settings", "admin"),
        ("GET", "/v1/sets/support/feedback", "/v1/feedback", "admin"),
        ("POST", "/v1/sets/support/revisions/preview", "/v1/revisions/preview", "admin"),
        ("GET", "/v1/sets/support/unmatched", "/v1/unmatched", "admin"),
        ("GET", "/v1/sets/support/unmatched/clusters", "/v1/unmatched/clusters", "admin"),
        ("POST", "/v1/sets/support/query", "/v1/query", "read"),
        ("PUT", "/v1/sets/support", "/v1/sets/support", "admin"),
        ("POST", "/v1/sets/support/fork", "/v1/sets/support/fork", "write"),
        ("DELETE", "/v1/sets/support", "/v1/sets/support", "write"),
    ],
)
def test_path_of_a_set_needs_the_scope_of_its_endpoint(
    method: str, path: str, endpoint: str, scope: str
) -> None:
    context = RequestContext(None)
    located = CoordinatorPolicy.locate(cast(Any, None), path, context)

    assert (endpoint, scope) == (located, scope_needed(method, located))


@pytest.mark.parametrize(
    ("name", "endpoint", "path"),
    [
        ("", "/-/unmatched", "/-/unmatched"),
        ("", "/v1/clusters", "/v1/clusters"),
        ("support@2", "/v1/clusters", "/v1/sets/support%402/clusters"),
        ("a b", "/-/unmatched/dismiss", "/v1/sets/a%20b/unmatched/dismiss"),
    ],
)
def test_node_is_asked_for_the_set_of_the_request(name: str, endpoint: str, path: str) -> None:
    context = RequestContext(None)
    context.route_set = name

    assert path == path_at_node(cast(Any, SimpleNamespace(scope={CONTEXT: context})), endpoint)
