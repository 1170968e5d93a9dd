"""Sends plans of route folders to a node."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Final

from synaptoroute.cli.client import NodeClient, set_segment
from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.cli.route_files import ndjson_line
from synaptoroute.cli.set_plan import AliasChangePlan, SetPlan
from synaptoroute.cli.set_reader import set_path
from synaptoroute.core.set_validation import NOTE_BYTES_MAX
from synaptoroute.importers.folder import limits_document

_CHUNK_BYTES: Final = 65_536
NOTE_HEADER: Final = "SR-Note"


def apply_plan(client: NodeClient, plan: SetPlan, note: str | None) -> str:
    """Carry out a plan of one set; return the version at which it is visible.

    The set is created, and its limits are set, by entries of their own; routes, settings and
    tests change together, if none of what the plan saw has changed.

    Raises:
        NodeRefused: With ``precondition_failed`` if something has.
    """
    headers = note_headers(note)
    version = ""
    if plan.creates_set or plan.limits:
        limits = None if plan.limits_after is None else limits_document(plan.limits_after)
        document = {} if limits is None else {"limits": limits}
        condition = {"If-None-Match": "*"} if plan.creates_set else {}
        path = f"/v1/sets/{set_segment(plan.name)}"
        result = client.write("PUT", path, document, headers={**headers, **condition})
        version = result["version"]
    if plan.has_content:
        result = client.upload(
            f"{set_path(plan.name)}/apply",
            lambda: _body(plan),
            "application/x-ndjson",
            {"import_id": uuid.uuid4().hex},
            headers,
        )
        version = result["version"]
    return version


def apply_alias(client: NodeClient, plan: AliasChangePlan, note: str | None) -> str:
    """Point an alias as planned; return the version at which it does.

    Raises:
        NodeRefused: With ``precondition_failed`` if somebody else changed the alias.
    """
    after = plan.after
    document: dict[str, Any] = {"set": after.target}
    if after.shadow:
        document |= {"shadow": after.shadow, "shadow_share": after.shadow_share}
    if after.canary:
        document |= {"canary": after.canary, "canary_share": after.canary_share}
    condition = (
        {"If-None-Match": "*"} if plan.revision is None else {"If-Match": f'"{plan.revision}"'}
    )
    path = f"/v1/aliases/{set_segment(plan.name)}"
    result = client.write("PUT", path, document, headers={**note_headers(note), **condition})
    version: str = result["version"]
    return version


def note_headers(note: str | None) -> dict[str, str]:
    """The header that says why a change is made.

    Raises:
        BadUsage: It cannot be sent.
    """
    if not note:
        return {}
    if not note.isprintable() or len(note.encode()) > NOTE_BYTES_MAX:
        raise BadUsage(f"--note takes {NOTE_BYTES_MAX} bytes without control characters")
    return {NOTE_HEADER: note}


def change_document(plan: SetPlan) -> dict[str, Any]:
    """The first line of the request: what changes, and what the plan saw."""
    tests = plan.tests
    document: dict[str, Any] = {
        "seen": {change.name: change.revision for change in plan.routes},
        "removed": [change.name for change in plan.routes if change.action == "delete"],
        "settings": {each.name: each.after for each in plan.settings},
        "settings_seen": {},
        "tests": dict(tests.put),
        "tests_removed": list(tests.removed),
        "tests_seen": {**tests.changed, **tests.removed},
    }
    if plan.are_settings_known:
        document["settings_seen"] = {each.name: each.before for each in plan.settings}
    return document


def _body(plan: SetPlan) -> Iterator[bytes]:
    """The lines of the request in larger pieces."""
    chunk = bytearray()
    for line in _lines(plan):
        chunk += line
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def _lines(plan: SetPlan) -> Iterable[bytes]:
    yield json.dumps(change_document(plan), ensure_ascii=False).encode() + b"\n"
    for change in plan.routes:
        if change.route is not None:
            yield ndjson_line(change.route)
