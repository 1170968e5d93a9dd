"""``synaptoroute routes``: read, write, import, export and lint routes."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient, route_path
from synaptoroute.cli.commands.imports import FileFormat
from synaptoroute.cli.exit_codes import BadUsage, CheckFailed, FileRejected
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, EncoderPrecision, Model, Url
from synaptoroute.cli.terminal import (
    note,
    number,
    print_json,
    print_line,
    print_table,
    progress,
    waiting,
)
from synaptoroute.core.names import is_name
from synaptoroute.errors import InvalidRoute

if TYPE_CHECKING:
    from synaptoroute.cli.lint import Finding
    from synaptoroute.config import Precision
    from synaptoroute.models import Route

FORMATS: Final = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "yaml": "application/yaml",
}
_FORMAT_BY_SUFFIX: Final = {
    ".jsonl": "ndjson",
    ".yml": "yaml",
    **{f".{name}": name for name in FORMATS},
}
_CHUNK_BYTES: Final = 65_536
_TEXTS_PER_BATCH: Final = 64

IfMatch = Annotated[
    str | None, typer.Option(show_default=False, help="Only if the route is at this revision.")
]


# --- reading ---------------------------------------------------------------------------


def list_routes(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the routes of a node."""
    with NodeClient(url, api_key) as client:
        routes = list(client.routes())
    if as_json:
        print_json(routes)
        return
    print_table(
        ("route", "utterances", "threshold", "revision"),
        (
            (
                route["name"],
                str(len(route["utterances"])),
                number(route["effective_threshold"])
                + (" default" if route["threshold"] is None else " own    "),
                route["revision"],
            )
            for route in routes
        ),
        right=("utterances", "threshold", "revision"),
    )
    note(f"{len(routes)} routes, {sum(len(route['utterances']) for route in routes)} utterances")


def show(
    name: Annotated[str, typer.Argument(help="Name of the route.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show one route with its utterances."""
    with NodeClient(url, api_key) as client:
        route = client.get(_path_of(name))
    if as_json:
        print_json(route)
        return
    kind = "default" if route["threshold"] is None else "own"
    print_line(route["name"])
    print_line(f"  revision   {route['revision']}")
    print_line(f"  threshold  {number(route['effective_threshold'])} ({kind})")
    if (confidence := route.get("effective_confidence_min")) is not None:
        kind = "default" if route.get("confidence_min") is None else "own"
        print_line(f"  confidence {number(confidence)} ({kind})")
    if description := route.get("description"):
        print_line(f"  about      {description}")
    for key in ("metadata", "payload"):
        if route[key]:
            print_line(f"  {key:<10} {json.dumps(route[key], ensure_ascii=False)}")
    for text in route.get("negatives", ()):
        print_line(f"  not        {text}")
    print_table(("utterance",), ((text,) for text in route["utterances"]))


def calibration(
    refit: Annotated[bool, typer.Option("--refit", help="Fit the routes now.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show the numbers behind the confidence of answers, or fit them again."""
    path = "/v1/settings/calibration"
    with NodeClient(url, api_key) as client:
        report = client.post(path, {}) if refit else client.get(path)
    if as_json:
        print_json(report)
        return
    print_line(f"state        {report['state']}, pending: {report['pending']}")
    if report["at"] is None:
        note("confidences come from numbers that ship with the encoder, if it has some")
        return
    where = f"{report['fitted_at']} on revision {report['at']} by node {report['fitted_by']}"
    print_line(f"fitted       {where}")
    print_line(f"             {report['routes']} routes, {report['utterances']} rows")
    changed = f"{report['changed_share']:.1%} of the utterances"
    print_line(f"changed      {changed}; fitted again at {report['refit_changed_share']:.0%}")
    accuracy, ece = number(report["accuracy"]), number(report["ece"])
    print_line(f"accuracy     {accuracy}, calibration error {ece}")
    columns = ("confidence_min", "coverage", "accuracy")
    rows = (tuple(number(point[each]) for each in columns) for point in report["curve"])
    print_table(columns, rows, right=columns)


def export(
    file: Annotated[
        Path | None,
        typer.Argument(show_default=False, help="File to write; standard output if absent."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", show_default=False, help="ndjson, json or yaml; else by suffix."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Export all routes as a file that `routes import` reads.

    The file appears complete or not at all.
    """
    media_type = FORMATS[_format(file, format_)]
    with NodeClient(url, api_key) as client, client.download("/v1/export", media_type) as chunks:
        if file is None:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        # A file beside the target: a rename is atomic only within one file system.
        part_file = file.with_name(f".{file.name}.{os.getpid()}.part")
        try:
            with part_file.open("wb") as output, progress("Exporting, bytes", None) as step:
                for chunk in chunks:
                    output.write(chunk)
                    step(len(chunk))
            part_file.replace(file)
        except OSError as error:
            raise FileRejected(f"{file} cannot be written: {error.strerror}") from error
        finally:
            part_file.unlink(missing_ok=True)


def _format(file: Path | None, requested: str | None) -> str:
    """Choose the format by the option, else by the suffix."""
    if requested is None:
        return _FORMAT_BY_SUFFIX.get(file.suffix.lower(), "ndjson") if file else "ndjson"
    if requested not in FORMATS:
        raise BadUsage(f"--format must be one of {', '.join(FORMATS)}, got {requested!r}")
    return requested


# --- writing ---------------------------------------------------------------------------


def put(
    name: Annotated[
        str | None,
        typer.Argument(show_default=False, help="Name of the route, unless a file is given."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", dir_okay=False, show_default=False, help="Routes to put."),
    ] = None,
    utterance: Annotated[
        list[str] | None,
        typer.Option("--utterance", "-u", show_default=False, help="An example; may be repeated."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=-1.0, max=1.0, show_default="the default one", help="Its threshold."),
    ] = None,
    confidence_min: Annotated[
        float | None, typer.Option(min=0, max=1, show_default=False, help="Its least confidence.")
    ] = None,
    description: Annotated[
        str | None, typer.Option(show_default=False, help="What it is for; one more example.")
    ] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option(show_default=False, help="A text that must not get it; may be repeated."),
    ] = None,
    payload: Annotated[
        str | None, typer.Option(show_default=False, help="JSON returned with every match.")
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(show_default=False, help="JSON object with any information.")
    ] = None,
    if_match: IfMatch = None,
    if_new: Annotated[
        bool, typer.Option("--if-new", help="Only if no route has this name yet.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create or replace a route, from options or from a file."""
    if (file is None) == (name is None):
        raise BadUsage("give either a name with -u or --file")
    fields = {
        "threshold": threshold,
        "confidence_min": confidence_min,
        "description": description,
        "negatives": negative or None,
    }
    if file is not None:
        given = (*fields.values(), utterance, payload, metadata)
        routes = _from_file(file, has_options=any(each is not None for each in given))
    else:
        assert name is not None
        routes = [_from_options(name, utterance or [], fields, payload, metadata)]
    if len(routes) > 1 and if_match is not None:
        raise BadUsage("--if-match needs a single route")
    headers = precondition_headers(if_match, if_new)
    with NodeClient(url, api_key) as client:
        results = [
            client.write("PUT", _path_of(route["name"]), route, headers=headers) for route in routes
        ]
    if as_json:
        print_json(results if file is not None else results[0])
        return
    for route, result in zip(routes, results, strict=True):
        print_line(f"{route['name']}: {result['status']} at {result['version']}")
    _note_warnings(results)


def _path_of(name: str) -> str:
    """The path of a route; the node would say of a malformed name that it has no such path.

    Raises:
        InvalidRoute: The name is malformed.
    """
    name = unicodedata.normalize("NFC", name)
    if not is_name(name):
        raise InvalidRoute(
            f"the name {name!r} is not 1 to 128 letters, digits, '_', '.', ':', '-' or inner "
            "spaces, beginning with a letter or digit"
        )
    return route_path(name)


def _note_warnings(results: Iterable[dict[str, Any]]) -> None:
    for result in results:
        for warning in result.get("warnings", ()):
            note(f"warning: {warning}")


def rm(
    name: Annotated[list[str], typer.Argument(help="Names of routes.")],
    if_match: IfMatch = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Remove routes."""
    if len(name) > 1 and if_match is not None:
        raise BadUsage("--if-match needs a single route")
    headers = precondition_headers(if_match, False)
    results = []
    with NodeClient(url, api_key) as client:
        for each in name:
            results.append(client.write("DELETE", _path_of(each), headers=headers))
            if not as_json:
                print_line(f"{each}: removed at {results[-1]['version']}")
    if as_json:
        print_json(results)


def precondition_headers(if_match: str | None, if_new: bool) -> dict[str, str]:
    headers = {}
    if if_match is not None:
        headers["If-Match"] = f'"{if_match.strip(chr(34))}"'
    if if_new:
        headers["If-None-Match"] = "*"
    return headers


def _from_file(file: Path, *, has_options: bool) -> list[dict[str, Any]]:
    if has_options:
        raise BadUsage("--file defines whole routes: other options cannot be used with it")
    from synaptoroute.cli.route_files import plain_route, read_route_file

    return [plain_route(route) for route in read_route_file(file).routes]


def _from_options(
    name: str,
    utterances: list[str],
    fields: dict[str, Any],  # Those that are None are left out
    payload: str | None,
    metadata: str | None,
) -> dict[str, Any]:
    """Build a route; the node validates it."""
    if not utterances:
        raise BadUsage("give at least one example with -u")
    route: dict[str, Any] = {"name": name, "utterances": utterances}
    route |= {key: value for key, value in fields.items() if value is not None}
    for key, text in (("payload", payload), ("metadata", metadata)):
        if text is not None:
            route[key] = _json_option(key, text)
    return route


def _json_option(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadUsage(f"--{key} is not JSON: {error}") from error


# --- schemas ---------------------------------------------------------------------------


def schema(
    kind: Annotated[
        str, typer.Argument(help="One of route, settings, tests, set, aliases.")
    ] = "route",
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema of a file of a route folder, for editors."""
    from synaptoroute.importers.folder_schemas import SCHEMAS, schema_of

    if kind not in SCHEMAS:
        raise BadUsage(f"the kind must be one of {', '.join(SCHEMAS)}, got {kind!r}")
    del as_json  # a schema is JSON
    print_json(schema_of(kind))


# --- linting ---------------------------------------------------------------------------


def lint(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", exists=True, help="Files that `import` takes."),
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings, too.")] = False,
    file_format: FileFormat = None,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    as_json: AsJson = False,
) -> None:
    """Find mistakes in route files, without a node.

    Finds near-duplicates between routes, utterances that are nearer to another route or that
    the encoder does not understand, unreachable routes, too few utterances, and broken
    limits. Exits with 1 on errors.
    """
    failed = []
    for file in files:
        findings, count = _lint_file(file, file_format, model, precision)
        errors = sum(finding.level == "error" for finding in findings)
        _show_findings(findings, as_json)
        summary = f"{count} routes: {errors} errors, {len(findings) - errors} warnings"
        if len(files) > 1:
            summary = f"{file}: {summary}"
        if errors or (strict and findings):
            failed.append(summary)
        else:
            note(summary)
    if failed:
        raise CheckFailed("; ".join(failed))


def _lint_file(
    file: Path, file_format: str | None, model: str | None, precision: Precision
) -> tuple[list[Finding], int]:
    """Check one route file; return the findings, errors first, and the number of routes."""
    from synaptoroute.cli.lint import Finding, check_texts
    from synaptoroute.cli.route_files import inspect_route_file

    routes, errors_found = inspect_route_file(file, file_format)
    findings = [Finding("error", "invalid-route", "", message) for message in errors_found]
    if not routes and not errors_found:
        findings.append(Finding("error", "no-routes", "", "the file has no routes"))
    findings += check_texts(routes)
    if routes:
        findings += _check_vectors(routes, model, precision)
    findings.sort(key=lambda finding: (finding.level != "error", finding.route, finding.code))
    return findings, len(routes)


def _check_vectors(routes: list[Route], model: str | None, precision: Precision) -> list[Finding]:
    """Encode all utterances and check their vectors."""
    import numpy as np

    from synaptoroute.cli.lint import check_barred, check_tokens, check_vectors
    from synaptoroute.core.mutation import Settings
    from synaptoroute.encoder import DEFAULT_MODEL, open_encoder

    texts = [text for route in routes for text in route.utterances]
    with waiting("Loading the model ..."):
        encoder = open_encoder(model or DEFAULT_MODEL, precision=precision)
    parts, tokens = [], []
    try:
        with progress("Encoding", len(texts)) as step:
            for start in range(0, len(texts), _TEXTS_PER_BATCH):
                part = encoder.tokenize_utterances(texts[start : start + _TEXTS_PER_BATCH])
                parts.append(encoder.encode_tokens(part))
                tokens += part
                step(len(part))
        against = [text for route in routes for text in route.negatives]
        negatives = np.empty((0, encoder.dim), np.float32)
        if against:
            negatives = encoder.encode_utterances(against)
    finally:
        encoder.close()
    findings = list(check_barred(routes, np.concatenate(parts), negatives))
    findings += list(check_tokens(routes, tokens, encoder.name))
    default = Settings().threshold_of(None)
    return findings + list(check_vectors(routes, np.concatenate(parts), default))


def _show_findings(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        print_json([asdict(finding) for finding in findings])
    elif findings:
        print_table(
            ("level", "rule", "route", "what"),
            (
                (
                    (finding.level, "fail" if finding.level == "error" else "warn"),
                    finding.code,
                    finding.route,
                    finding.message,
                )
                for finding in findings
            ),
        )
