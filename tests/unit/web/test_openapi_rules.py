"""Rules that hold for every operation of the OpenAPI documents of node and coordinator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from synaptoroute.config import NodeConfig
from synaptoroute.server.app import create_app as create_node
from synaptoroute.web.openapi import with_servers
from synaptoroute_coordinator.app.app import create_app as create_coordinator
from synaptoroute_coordinator.app.app import make_runtime
from synaptoroute_coordinator.config import CoordinatorConfig

pytestmark = pytest.mark.unit

NODE = """
abort_import add_utterances apply_change change_voter cluster_texts decisions delete_alias
delete_route delete_set delete_tests diff_sets dismiss_unmatched erase_texts export_routes finalize
fit_calibration fork_set import_routes list_aliases list_conflicts list_feedback list_imports
list_open_imports list_orphans list_routes list_sets list_tests list_unmatched live metrics
patch_route patch_set patch_tests preview preview_revision preview_texts put_alias put_feedback
put_route put_set put_settings put_tests query query_batch ready recover remove_utterances
replay_orphan reset_shadow resolve_item resolve_items revert_change revise roll_back run_tests scrub
show_alias show_calibration show_cascade show_cluster show_digest show_erasures show_evaluation
show_generations show_history show_key show_operation show_process_settings show_propagation
show_route show_set show_settings show_shadow show_state show_traffic systemone try_encoder unfreeze
"""
COORDINATOR = """
abort_import change_encoder change_voter close_session delete_alias delete_route delete_set
diff_sets dismiss_unmatched erase_texts follow fork_set list_actions list_alarms list_aliases
list_backups list_conflicts list_feedback list_orphans list_routes list_sets list_tests open_session
patch_route patch_set patch_tests preview preview_revision preview_texts put_alias put_feedback
put_route put_set put_settings put_tests query query_batch recover replay_orphan reset_shadow
resolve_items resync_node revert_change revise roll_back run_tests scrub_node show_alias
show_cluster show_clusters show_diagnostics show_encoders show_evaluation show_fleet_history
show_history show_live show_log
show_metrics show_propagation show_ready show_route show_session show_set show_settings
show_shadow show_traffic show_unmatched start_audit take_backup trim try_encoder
"""
"""Generated clients name their functions after these, so none of them may change or go."""
DIALECTS = {"/v1/decisions", "/v1/systemone"}
"""Paths whose errors have the form that the callers of another protocol know."""
PROBES = {"/livez", "/readyz", "/metrics"}


def node_document() -> dict[str, Any]:
    return create_node(lambda: pytest.fail("not opened"), NodeConfig()).openapi()


def coordinator_document() -> dict[str, Any]:
    return create_coordinator(make_runtime(CoordinatorConfig())).openapi()


@pytest.fixture(
    scope="module",
    params=[(node_document, NODE), (coordinator_document, COORDINATOR)],
    ids=["node", "coordinator"],
)
def described(request: pytest.FixtureRequest) -> tuple[dict[str, Any], list[str]]:
    """A document, and the identifiers that it must have."""
    make, identifiers = request.param
    return make(), identifiers.split()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every operation with its method and path."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_identifiers_are_stable_and_unique(described: tuple[dict[str, Any], list[str]]) -> None:
    document, listed = described
    found = [operation["operationId"] for _, operation in operations(document)]

    assert sorted(listed) == sorted(found)
    assert len(set(found)) == len(found)
    assert [] == [each for each in found if not re.fullmatch("[a-z][a-z0-9_]*", each)]


def test_every_operation_is_described(described: tuple[dict[str, Any], list[str]]) -> None:
    """It has a summary, a description, and tags that the document explains."""
    document, _ = described
    explained = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        assert set(operation["tags"]) <= explained, name


def test_every_operation_has_its_errors(described: tuple[dict[str, Any], list[str]]) -> None:
    """Errors are problem documents, by one schema, except in the dialect of another protocol."""
    document, _ = described
    problem = {"$ref": "#/components/schemas/ProblemDocument"}
    for name, operation in operations(document):
        path = name.partition(" ")[2]
        failures = {
            status: answer
            for status, answer in operation["responses"].items()
            if status[0] in "45" and (status, path) != ("503", "/readyz")
        }
        assert "500" in failures, name
        assert path in PROBES or {"401", "403"} <= failures.keys(), name
        for status, answer in failures.items():
            if path in DIALECTS:
                assert all(each.get("schema") for each in answer["content"].values()), name
            else:
                assert {"application/problem+json": {"schema": problem}} == answer["content"], (
                    name,
                    status,
                )
    assert "ProblemDocument" in document["components"]["schemas"]


def test_every_body_has_a_schema_and_an_example(
    described: tuple[dict[str, Any], list[str]],
) -> None:
    document, _ = described
    schemas = document["components"]["schemas"]
    for name, operation in operations(document):
        for kind, body in operation.get("requestBody", {"content": {}})["content"].items():
            reference = body["schema"].get("$ref", "").rpartition("/")[2]
            has_example = "example" in body or "examples" in body or reference
            assert body["schema"], (name, kind)
            assert has_example, (name, kind)
            assert not reference or reference in schemas, (name, kind)


def test_import_and_export_name_their_formats() -> None:
    document = node_document()
    body = document["paths"]["/v1/import"]["post"]["requestBody"]["content"]
    answer = document["paths"]["/v1/export"]["get"]["responses"]["200"]["content"]
    formats = {"application/x-ndjson", "application/json", "application/yaml"}

    assert formats == set(body) == set(answer)
    assert all(each["schema"] and each["example"] for each in (*body.values(), *answer.values()))


def test_references_resolve(described: tuple[dict[str, Any], list[str]]) -> None:
    document, _ = described
    found = set(re.findall(r"'\$ref': '#/components/schemas/([^']+)'", str(document)))

    assert found <= document["components"]["schemas"].keys()


def test_keys_are_described(described: tuple[dict[str, Any], list[str]]) -> None:
    document, _ = described
    named = {name for each in document["security"] for name in each}

    assert named == document["components"]["securitySchemes"].keys() == {"bearer", "api_key"}


@pytest.mark.parametrize(("prefix", "url"), [("", "/"), ("/router", "/router")])
def test_server_is_named(prefix: str, url: str) -> None:
    assert [url] == [each["url"] for each in with_servers({}, prefix)["servers"]]
