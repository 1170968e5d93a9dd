"""Reads a route set from a node as a folder has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

from synaptoroute.cli.client import PAGE_ROUTES, NodeClient, set_segment
from synaptoroute.cli.exit_codes import NodeRefused
from synaptoroute.cli.set_plan import PresentSet
from synaptoroute.core.mutation import DEFAULT_SET, SetLimits
from synaptoroute.importers.folder import AliasEntry, RouteFolder, settings_document
from synaptoroute.models import Route, RouteSetSettings

READS_MAX: Final = 5
PAGE_TESTS: Final = 1_000
_UNFOUNDED: Final = "0."  # Version before the first write
_ROUTE_FIELDS: Final = tuple(name for name in Route.model_fields if name != "vectors")


def set_path(name: str) -> str:
    """The path of a set's resources; ``default`` has the paths without a set."""
    return "/v1" if name in ("", DEFAULT_SET) else f"/v1/sets/{set_segment(name)}"


def read_present(client: NodeClient, name: str) -> PresentSet:
    """Read a set; one that is not there is empty.

    Raises:
        NodeRefused: The node refuses, or the set changes all the time.
    """
    base = set_path(name)
    try:
        pages, version = _routes(client, base)
    except NodeRefused as error:
        if error.refused_code == "set_not_found":
            return PresentSet(exists=False)
        raise
    routes = {each["name"]: _route(each) for each in pages}
    settings: dict[str, Any] = {}
    if not version.startswith(_UNFOUNDED):
        found = RouteSetSettings.model_validate(client.get(f"{base}/settings"))
        settings = settings_document(found)
    return PresentSet(
        routes=routes,
        revisions={each["name"]: each["revision"] for each in pages},
        settings=settings,
        tests=_tests(client, base),
        limits=_limits(client, name),
    )


def read_aliases(client: NodeClient, names: Iterable[str]) -> dict[str, tuple[AliasEntry, str]]:
    """Read aliases, each with its revision; those that are not there are left out."""
    found = {}
    for name in names:
        try:
            each = client.get(f"/v1/aliases/{set_segment(name)}")
        except NodeRefused as error:
            if error.refused_code == "alias_not_found":
                continue
            raise
        found[name] = (_alias(each), str(each["revision"]))
    return found


def require_sets(client: NodeClient, names: Iterable[str]) -> None:
    """Check that sets are there.

    Raises:
        NodeRefused: ``set_not_found``: one is not.
    """
    for name in sorted(set(names)):
        client.get(f"/v1/sets/{set_segment(name)}")


def aliases_of(client: NodeClient, names: Collection[str]) -> dict[str, AliasEntry]:
    """The aliases that name nothing but the given sets."""
    found = {}
    parameters: dict[str, str | int] = {}
    while True:
        page = client.get("/v1/aliases", **parameters)
        for each in page["aliases"]:
            alias = _alias(each)
            if alias.sets <= set(names):
                found[str(each["name"])] = alias
        if not page["next_after"]:
            return found
        parameters["after"] = page["next_after"]


def _alias(document: dict[str, Any]) -> AliasEntry:
    return AliasEntry(
        document["set"],
        document.get("shadow") or "",
        document.get("shadow_share") or 0.0,
        document.get("canary") or "",
        document.get("canary_share") or 0.0,
    )


def folder_of(name: str, present: PresentSet) -> RouteFolder:
    """The folder of a set that a node has."""
    return RouteFolder(
        name="" if name == DEFAULT_SET else name,
        routes=[present.routes[each] for each in sorted(present.routes)],
        settings=dict(present.settings),
        tests=dict(present.tests) if present.tests else None,
        limits=present.limits,
    )


def _routes(client: NodeClient, base: str) -> tuple[list[dict[str, Any]], str]:
    """All routes at one version, and that version."""
    for _ in range(READS_MAX):
        found: list[dict[str, Any]] = []
        versions: set[str] = set()
        parameters: dict[str, str | int] = {"limit": PAGE_ROUTES}
        while True:
            page = client.get(f"{base}/routes", **parameters)
            found += page["routes"]
            versions.add(page["version"])
            if not page["next_after"]:
                break
            parameters["after"] = page["next_after"]
        if len(versions) == 1:
            return found, versions.pop()
    raise NodeRefused("the routes changed while they were read", code="conflict", status=409)


def _route(document: dict[str, Any]) -> Route:
    return Route.model_validate({key: document[key] for key in _ROUTE_FIELDS if key in document})


def _tests(client: NodeClient, base: str) -> dict[str, str | None] | None:
    """The tests of a set; None if the node keeps none."""
    found: dict[str, str | None] = {}
    parameters: dict[str, str | int] = {"limit": PAGE_TESTS}
    try:
        while True:
            page = client.get(f"{base}/tests", **parameters)
            found |= {each["text"]: each["route"] for each in page["tests"]}
            if not page.get("next_after"):
                return found
            parameters["after"] = page["next_after"]
    except NodeRefused as error:
        if error.status == 404 and error.refused_code != "set_not_found":
            return None  # a node of the release before
        raise


def _limits(client: NodeClient, name: str) -> SetLimits | None:
    try:
        found = client.get(f"/v1/sets/{set_segment(name or DEFAULT_SET)}")
    except NodeRefused as error:
        if error.status == 404 and error.refused_code != "set_not_found":
            return None  # a node of the release before
        raise
    limits = found.get("limits") or {}
    known = {key: limits[key] or 0 for key in SetLimits.__dataclass_fields__ if key in limits}
    return SetLimits(**known)
