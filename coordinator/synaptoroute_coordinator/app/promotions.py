"""Promotions in the dashboard: tests, comparisons, aliases, shadows, reverts and erasures.

The nodes do the work.  The coordinator forwards, records who asked, and adds up what the nodes
count about a shadow.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from synaptoroute.models import NAME_CHARACTERS_MAX
from synaptoroute_coordinator.app.gateway import (
    Forwarded,
    NodeName,
    ask_node,
    choose_node,
    forward,
)
from synaptoroute_coordinator.app.responses import FORWARDED_RESPONSES, RESPONSES, json_response
from synaptoroute_coordinator.app.runtime import runtime_of

endpoints = APIRouter(tags=["promotions"])

VERSION_PATTERN: Final = r"^[0-9]{1,16}\.[0-9]{1,16}$"
PAIRS_MAX: Final = 256
SAMPLE_MAX: Final = 100
AliasName = Annotated[str, Path(max_length=NAME_CHARACTERS_MAX, min_length=1)]
_WRITTEN: Final = "Written through one node to all; the response has the position of the write."
_TEST: Final = {"text": "send my headphones back", "route": "returns"}
_BY_ADMIN: Final = f"{_WRITTEN} Scope `admin`."
_ACK: Final = "ack ack_timeout"
_PROMOTION: Final = {"set": "support@13", "gate": {"min_accuracy": 0.95}}
_BOTH: Final = {"from": "support@12", "to": "support@13"}
_TESTS: Final = {"tests": [_TEST]}
_ERASED: Final = {"texts": ["my name is Ann Smith"]}
_ALIAS: Final = "/v1/aliases/{alias}"
_ANSWER: Final = "The response of the node."
_FORWARDED: Final = tuple(
    Forwarded.of(*each)
    for each in (
        ("GET", "/v1/tests", "list_tests", "List the tests", _ANSWER, "after limit"),
        ("PUT", "/v1/tests", "put_tests", "Replace the tests", _WRITTEN, _ACK, _TESTS),
        ("PATCH", "/v1/tests", "patch_tests", "Change tests", _WRITTEN, _ACK, _TESTS),
        ("POST", "/v1/evaluation", "run_tests", "Ask a set its tests", _ANSWER, "", {}),
        ("POST", "/v1/diff", "diff_sets", "Compare two route sets", _ANSWER, "", _BOTH),
        ("GET", "/v1/aliases", "list_aliases", "List aliases", _ANSWER, "after limit"),
        ("GET", _ALIAS, "show_alias", "Show an alias"),
        ("PUT", _ALIAS, "put_alias", "Point an alias at a set", _BY_ADMIN, _ACK, _PROMOTION),
        ("DELETE", _ALIAS, "delete_alias", "Delete an alias", _BY_ADMIN, _ACK),
        ("POST", f"{_ALIAS}/rollback", "roll_back", "Roll an alias back", _BY_ADMIN, _ACK, {}),
        (
            "POST",
            "/v1/history/{version}/revert",
            "revert_change",
            "Revert a change",
            _BY_ADMIN,
            _ACK,
        ),
        ("POST", "/v1/erase", "erase_texts", "Erase texts", _BY_ADMIN, _ACK, _ERASED),
    )
)


async def _forward_alias(request: Request, alias: AliasName, node: NodeName = "") -> Response:
    return await forward(request, node)


async def _forward_change(
    request: Request,
    version: Annotated[str, Path(pattern=VERSION_PATTERN)],
    node: NodeName = "",
) -> Response:
    return await forward(request, node)


def _handler(path: str) -> Any:
    if "{alias}" in path:
        return _forward_alias
    return _forward_change if "{version}" in path else forward


for _each in _FORWARDED:
    endpoints.add_api_route(
        _each.path,
        _handler(_each.path),
        methods=[_each.method],
        name=_each.operation,
        summary=_each.summary,
        description=_each.description,
        responses=FORWARDED_RESPONSES,
        openapi_extra=_each.openapi,
    )


@endpoints.get(
    "/v1/aliases/{alias}/shadow",
    summary="Show what a shadow would have answered",
    responses=RESPONSES,
)
async def show_shadow(request: Request, alias: AliasName) -> Response:
    """The counts of all live nodes together; those of a node that counts about another content
    of the sets are left out, and `nodes` says how many counted.
    """
    runtime = runtime_of(request)
    path = f"/v1/aliases/{quote(alias, safe='')}/shadow"
    chosen = await ask_node(runtime, choose_node(runtime), "GET", path)
    if chosen.status_code != 200:
        return chosen
    first = json.loads(bytes(chosen.body))
    found = [document for _, document in await runtime.ask_live(path)]
    return json_response(summed(first, found))


@endpoints.delete(
    "/v1/aliases/{alias}/shadow", summary="Count a shadow from zero", responses=RESPONSES
)
async def reset_shadow(request: Request, alias: AliasName) -> Response:
    """Every live node forgets its counts. Scope `admin`."""
    runtime, count = runtime_of(request), 0
    path = f"/v1/aliases/{quote(alias, safe='')}/shadow"
    for node in runtime.reconciler.view.live:
        if node.url:
            answer = await ask_node(runtime, node, "DELETE", path)
            count += answer.status_code == 200
    return json_response({"nodes": count})


def summed(first: Mapping[str, Any], documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up what nodes counted about the same content of both sets as ``first``."""
    same = ("set", "shadow", "revision", "shadow_revision")
    wanted = [first.get(name) for name in same]
    counted = [each for each in documents if [each.get(name) for name in same] == wanted]
    totals = {
        name: sum(int(each.get(name, 0)) for each in counted)
        for name in ("compared", "agreed", "disagreed", "skipped", "other")
    }
    pairs: Counter[tuple[str | None, str | None]] = Counter()
    for each in counted:
        for pair in each.get("pairs", ()):
            pairs[pair["answered"], pair["shadowed"]] += int(pair["count"])
    sample = sorted(
        (one for each in counted for one in each.get("sample", ())),
        key=lambda one: -int(one["at_ms"]),
    )
    compared = totals["compared"]
    return {
        "alias": first["alias"],
        **{name: first.get(name) for name in same},
        **totals,
        "agreement": round(totals["agreed"] / compared, 6) if compared else None,
        "pairs": [
            {"answered": answered, "shadowed": shadowed, "count": count}
            for (answered, shadowed), count in pairs.most_common(PAIRS_MAX)
        ],
        "sample": sample[:SAMPLE_MAX],
        "nodes": len(counted),
    }
