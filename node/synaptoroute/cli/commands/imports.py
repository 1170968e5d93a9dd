"""``synaptoroute routes import`` and ``convert``, and ``synaptoroute imports``."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import BadUsage, FileRejected, NodeRefused
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import (
    Cell,
    note,
    print_json,
    print_line,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from synaptoroute.cli.lint import Finding
    from synaptoroute.importers import Imported
    from synaptoroute.models import Route

_CHUNK_BYTES: Final = 65_536
_WARNINGS_MAX: Final = 50
_OWN_SUFFIXES: Final = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".ndjson": "ndjson"}
_TARGET_BY_SUFFIX: Final = {**_OWN_SUFFIXES, ".csv": "csv", ".jsonl": "jsonl"}
TARGETS: Final = ("yaml", "json", "ndjson", "semantic-router", "csv", "jsonl")

FileFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        show_default="by its content",
        help="Format of the file, such as semantic-router, rasa, lex-v2 or openapi.",
    ),
]


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="A route file, or a file, folder or archive of another program.",
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove routes that are not in the file.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="With --dry-run: ask no node; all routes are new.")
    ] = False,
    file_format: FileFormat = None,
    import_id: Annotated[
        str | None, typer.Option(show_default=False, help="Continue an interrupted import.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Import routes from a file: all become visible at once, or none.

    Files of semantic-router, RedisVL, LiteLLM, Rasa, Dialogflow, Amazon Lex, tables, OpenAI and
    MCP tools and OpenAPI documents are recognised and converted.
    """
    from synaptoroute.cli.route_files import read_route_file

    if offline and not dry_run:
        raise BadUsage("--offline needs --dry-run")
    content = read_route_file(file, file_format)
    if dry_run:
        _show_plan(_plan(content, replace, None if offline else (url, api_key)), as_json)
        return
    _note_changes(file, content)
    with NodeClient(url, api_key) as client:
        result = _upload(client, content.routes, replace, import_id)
    if as_json:
        print_json(result)
    else:
        at = result["version"] or "a version not known yet: see `routes list`"
        print_line(
            f"imported {len(content.routes)} routes, {result['utterances']} utterances at {at}: "
            f"{result['routes']} routes changed"
        )
        for warning in result.get("warnings", ()):
            note(f"warning: {warning}")


def _note_changes(file: Path, content: Imported) -> None:
    """Say what the reader of a foreign file has changed and left out."""
    from synaptoroute.importers.formats import OWN

    if content.format != OWN:
        note(f"{file.name}: read as a {content.format} file")
    for before, after in content.renamed:
        note(f"{file.name}: {before!r} is now {after!r}")
    for name, why in content.skipped:
        note(f"{file.name}: {name!r} is left out: {why}")
    for text in content.notes:
        note(f"{file.name}: {text}")


# --- dry runs --------------------------------------------------------------------------


def _plan(content: Imported, replace: bool, node: tuple[str, str | None] | None) -> dict[str, Any]:
    """Report of what an import would do, as a document; ``node`` is an address and a key."""
    from synaptoroute.cli.lint import check_texts
    from synaptoroute.cli.route_files import compare, plain_route

    wanted = [plain_route(route) for route in content.routes]
    refused: list[dict[str, str]] = []
    if node is None:
        diff = compare((), wanted, replace=False)
    else:
        with NodeClient(*node) as client:
            diff = compare(client.routes(), wanted, replace=replace)
            refused = _refusals(client, content.routes)
    warnings = [*content.notes, *map(_warning, check_texts(list(content.routes)))]
    return {
        "format": content.format,
        "created": diff.created,
        "changed": [{"route": name, "what": what} for name, what in diff.changed],
        "unchanged": diff.unchanged,
        "removed": diff.removed,
        "renamed": [{"from": before, "to": after} for before, after in content.renamed],
        "refused": [{"route": name, "why": why} for name, why in content.skipped] + refused,
        "warnings": warnings,
    }


def _warning(finding: Finding) -> str:
    return f"{finding.route}: {finding.message}" if finding.route else finding.message


def _refusals(client: NodeClient, routes: Sequence[Route]) -> list[dict[str, str]]:
    """Routes that the node would refuse, because its log is at an earlier level."""
    from synaptoroute.core.levels import level_of
    from synaptoroute.core.mutation import PutRoute

    needs = {
        route.name: level_of(
            PutRoute(
                route.name,
                tuple(route.utterances),
                (),
                confidence_min=route.confidence_min,
                description=route.description,
                negatives=tuple(route.negatives),
            )
        )
        for route in routes
    }
    if max(needs.values()) == 1:
        return []
    level = _log_level(client)
    return [
        {"route": name, "why": f"needs level {need} of the log, which is at level {level}: "
         "`synaptoroute cluster finalize --apply`"}
        for name, need in needs.items()
        if need > level
    ]  # fmt: skip


def _log_level(client: NodeClient) -> int:
    """The level of the node's log; the newest where it cannot be known."""
    newest = 99
    if client.get("/v1/routes", limit=1)["version"].startswith("0."):
        return newest  # the first write founds a log at the newest level
    try:
        return int(client.post("/v1/cluster/finalize", {"apply": False})["level"])
    except NodeRefused:  # only an admin's key may ask
        return newest


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    rows: list[tuple[Cell, ...]] = [(("create", "ok"), name, "") for name in plan["created"]]
    rows += [(("change", "warn"), each["route"], each["what"]) for each in plan["changed"]]
    rows += [(("remove", "fail"), name, "") for name in plan["removed"]]
    rows += [(("rename", "warn"), each["to"], f"was {each['from']!r}") for each in plan["renamed"]]
    rows += [(("refuse", "fail"), each["route"], each["why"]) for each in plan["refused"]]
    if rows:
        print_table(("change", "route", "what"), rows)
    for warning in plan["warnings"][:_WARNINGS_MAX]:
        note(f"warning: {warning}")
    if (more := len(plan["warnings"]) - _WARNINGS_MAX) > 0:
        note(f"and {more} more warnings: see --json, or `routes lint`")
    print_line(
        f"read as {plan['format']}: would create {len(plan['created'])}, "
        f"change {len(plan['changed'])}, remove {len(plan['removed'])}, "
        f"leave {len(plan['unchanged'])}; renamed {len(plan['renamed'])}, "
        f"refused {len(plan['refused'])}"
    )


# --- uploading -------------------------------------------------------------------------


def _upload(
    client: NodeClient, routes: Sequence[Route], replace: bool, import_id: str | None
) -> Any:
    """Stream the routes; the progress bar counts the routes sent."""
    parameters: dict[str, str | int] = {"import_id": import_id or uuid.uuid4().hex}
    if replace:
        parameters["replace"] = "true"
    with progress("Importing", len(routes)) as step:
        return client.upload(
            "/v1/import", lambda: _chunks(routes, step), "application/x-ndjson", parameters
        )


def _chunks(routes: Iterable[Route], step: Callable[[int], None]) -> Iterator[bytes]:
    """Pack lines into chunks, so that not every small route costs a packet."""
    from synaptoroute.cli.route_files import ndjson_line

    chunk = bytearray()
    for route in routes:
        chunk += ndjson_line(route)
        step(1)
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)


# --- converting ------------------------------------------------------------------------


def convert(
    source: Annotated[Path, typer.Argument(exists=True, help="What `import` takes.")],
    target: Annotated[Path, typer.Argument(dir_okay=False, help="The file to write.")],
    to: Annotated[
        str | None,
        typer.Option("--to", show_default="by the suffix", help=f"One of {', '.join(TARGETS)}."),
    ] = None,
    file_format: FileFormat = None,
    as_json: AsJson = False,
) -> None:
    """Convert a file to a route file, or to a format of another program; needs no node.

    semantic-router is the format of its release 1; CSV and JSONL are texts with their routes.
    """
    from synaptoroute.cli.route_files import read_route_file

    kind = to or _TARGET_BY_SUFFIX.get(target.suffix.lower())
    if kind not in TARGETS:
        raise BadUsage(f"--to must be one of {', '.join(TARGETS)}")
    content = read_route_file(source, file_format)
    _note_changes(source, content)
    body, notes = _written(content.routes, kind, target)
    for text in notes:
        note(f"{target.name}: {text}")
    part_file = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part_file.write_bytes(body)
        part_file.replace(target)
    except OSError as error:
        raise FileRejected(f"{target} cannot be written: {error.strerror}") from error
    finally:
        part_file.unlink(missing_ok=True)
    texts = sum(len(route.utterances) for route in content.routes)
    if as_json:
        print_json({"routes": len(content.routes), "utterances": texts, "format": kind})
        return
    print_line(f"{target}: {len(content.routes)} routes, {texts} utterances as {kind}")


def _written(routes: Sequence[Route], kind: str, target: Path) -> tuple[bytes, list[str]]:
    import yaml

    from synaptoroute.cli.route_files import ndjson_line, plain_route
    from synaptoroute.importers.writers import TABLES, to_semantic_router

    if kind == "semantic-router":
        return to_semantic_router(routes, as_yaml=target.suffix.lower() in (".yaml", ".yml"))
    if kind in TABLES:
        return TABLES[kind](routes)
    if kind == "ndjson":
        return b"".join(map(ndjson_line, routes)), []
    document = {"version": 1, "routes": [plain_route(route) for route in routes]}
    if kind == "json":
        return json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n", []
    text = yaml.dump(
        document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text.encode(), []


# --- open imports ----------------------------------------------------------------------


def list_imports(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the imports that are neither committed nor aborted."""
    with NodeClient(url, api_key) as client:
        found = client.get("/v1/imports")["imports"]
    if as_json:
        print_json(found)
        return
    rows = [(each["import_id"], str(each["chunks"]), str(each["utterances"])) for each in found]
    print_table(("import", "chunks", "utterances"), rows)


def abort_imports(
    import_id: Annotated[
        list[str], typer.Argument(show_default=False, help="Which ones; see `list`.")
    ],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Abort open imports; queries never saw what they staged."""
    with NodeClient(url, api_key) as client:
        for each in import_id:
            result = client.write("DELETE", f"/v1/imports/{quote(each, safe='')}")
            if as_json:
                print_json({"import_id": each, **result})
            else:
                print_line(f"{each} aborted at {result['version'] or 'a version not known yet'}")
