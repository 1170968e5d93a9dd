"""``tests``, ``diff``, ``promote``, ``rollback`` and ``erase``: route sets are changed safely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient, set_segment
from synaptoroute.cli.commands.changes import Note, note_headers
from synaptoroute.cli.commands.routes import precondition_headers
from synaptoroute.cli.exit_codes import BadUsage, ExitCode
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url, route_set
from synaptoroute.cli.query_backend import read_labelled
from synaptoroute.cli.terminal import (
    Cell,
    note,
    number,
    print_json,
    print_line,
    print_table,
)

SHOWN_MAX: Final = 20
PAGE_TESTS: Final = 1_000
NO_ROUTE: Final = "–"

Alias = Annotated[str, typer.Argument(show_default=False, help="The alias.")]
Labelled = Annotated[
    Path,
    typer.Argument(
        exists=True, dir_okay=False, show_default=False, help="Labelled queries; see `evaluate`."
    ),
]
IfMatch = Annotated[
    str | None, typer.Option(show_default=False, help="Only if the alias is at this revision.")
]
Share = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the queries, 0 to 1.")]


def _alias_path(alias: str) -> str:
    return f"/v1/aliases/{set_segment(alias)}"


# --- tests -----------------------------------------------------------------------------


def list_tests(
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the tests of a route set."""
    tests: list[dict[str, Any]] = []
    after: str | None = ""
    with NodeClient(url, api_key) as client:
        while after is not None:
            given = {"after": after} if after else {}
            page = client.get("/v1/tests", limit=PAGE_TESTS, **given)
            tests += page["tests"]
            after = page["next_after"]
    if as_json:
        print_json({"tests": tests})
        return
    print_table(("text", "route"), [(each["text"], each["route"] or NO_ROUTE) for each in tests])


def put_tests(
    file: Labelled,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove the tests that the file does not have.")
    ] = False,
    message: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Add labelled queries to the tests of a route set."""
    tests = [{"text": each.text, "route": each.route} for each in read_labelled(file)]
    method = "PUT" if replace else "PATCH"
    with NodeClient(url, api_key) as client:
        result = client.write(method, "/v1/tests", {"tests": tests}, headers=note_headers(message))
    if as_json:
        print_json(result)
        return
    print_line(f"{result['count']} of {len(tests)} tests changed in {route_set() or 'default'}")


def run_tests(
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, show_default=False, help="Exit with 1 below this accuracy."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Ask a route set its tests, and show the wrong answers."""
    with NodeClient(url, api_key) as client:
        run = client.post("/v1/evaluation", {})
    if as_json:
        print_json(run)
    elif not run["tests"]:
        note(f"{route_set() or 'default'} has no tests")
    else:
        print_line(
            f"{run['right']} of {run['tests']} tests right"
            f" (accuracy {run['accuracy']:.4f}) at {run['revision']}"
        )
        _show_failures(run["failures"], run["failures_total"])
    if min_accuracy is not None and (run["accuracy"] or 0.0) < min_accuracy:
        raise typer.Exit(ExitCode.NO)


def _show_failures(failures: list[dict[str, Any]], total: int) -> None:
    if not failures:
        return
    rows: list[tuple[Cell, ...]] = [
        (
            each["text"],
            each["expected"] or NO_ROUTE,
            each["got"] or NO_ROUTE,
            number(each.get("confidence"), 2),
        )
        for each in failures[:SHOWN_MAX]
    ]
    print_table(("text", "expected", "got", "confidence"), rows)
    if total > len(rows):
        note(f"and {total - len(rows)} more")


# --- comparisons and promotions ----------------------------------------------------------


def diff(
    before: Annotated[str, typer.Argument(show_default=False, help="A route set or an alias.")],
    after: Annotated[str, typer.Argument(show_default=False, help="The one to compare with it.")],
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", exists=True, dir_okay=False, show_default=False,
            help="Labelled queries to ask both, instead of their tests.",
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Compare the answers of two route sets."""
    asked: dict[str, Any] = {"from": before, "to": after}
    if file is not None:
        asked["texts"] = [{"text": each.text, "route": each.route} for each in read_labelled(file)]
    with NodeClient(url, api_key) as client:
        found = client.post("/v1/diff", asked)
    if as_json:
        print_json(found)
        return
    sides = [found["before"], found["after"]]
    print_table(
        ("set", "revision", "accuracy"),
        [(each["route_set"], each["revision"], number(each["accuracy"], 4)) for each in sides],
    )
    print_line(
        f"{found['changed_total']} of {found['texts']} answers change:"
        f" {found['fixed']} fixed, {found['broken']} broken"
    )
    rows: list[tuple[Cell, ...]] = [
        (
            each["verdict"],
            each["text"],
            each["before"]["route"] or NO_ROUTE,
            each["after"]["route"] or NO_ROUTE,
        )
        for each in found["changed"][:SHOWN_MAX]
    ]
    if rows:
        print_table(("", "text", "before", "after"), rows)
    if found["changed_total"] > len(rows):
        note(f"and {found['changed_total'] - len(rows)} more")


def promote(
    alias: Alias,
    target: Annotated[
        str, typer.Argument(metavar="SET", show_default=False, help="The set that is to answer.")
    ],
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, show_default=False, help="Least accuracy on its tests."),
    ] = None,
    max_regressions: Annotated[
        int | None,
        typer.Option(
            min=0, show_default=False, help="Most tests that are right now and would be wrong."
        ),
    ] = None,
    min_tests: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Fewer tests do not pass.")
    ] = None,
    min_shadow_agreement: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, show_default=False, help="Least agreement with it as a shadow."
        ),
    ] = None,
    shadow: Annotated[
        str | None, typer.Option(show_default=False, help="A set to ask as well; see the guide.")
    ] = None,
    shadow_share: Share = 1.0,
    canary: Annotated[
        str | None, typer.Option(show_default=False, help="A set that answers some sessions.")
    ] = None,
    canary_share: Share = 0.05,
    if_match: IfMatch = None,
    message: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a route set, if the set passes the gate.

    Exits with an error and names the failing tests if it does not pass.
    """
    demands = {
        "min_accuracy": min_accuracy,
        "max_regressions": max_regressions,
        "min_tests": min_tests,
        "min_shadow_agreement": min_shadow_agreement,
    }
    body: dict[str, Any] = {"set": target}
    if shadow is not None:
        body |= {"shadow": shadow, "shadow_share": shadow_share}
    if canary is not None:
        body |= {"canary": canary, "canary_share": canary_share}
    if gate := {name: value for name, value in demands.items() if value is not None}:
        body["gate"] = gate
    headers = {**precondition_headers(if_match, False), **note_headers(message)}
    with NodeClient(url, api_key) as client:
        result = client.write("PUT", _alias_path(alias), body, headers=headers)
    if as_json:
        print_json(result)
        return
    if result["status"] == "unchanged":
        print_line(f"{alias} names {target} already")
        return
    print_line(f"{alias} names {target} since {result['version'] or 'a pending change'}")
    if (evidence := result.get("evidence")) and evidence.get("tests") is not None:
        print_line(
            f"{evidence['tests']} tests, accuracy {evidence['accuracy']:.4f},"
            f" {evidence['regressions']} regressions"
        )


def rollback(
    alias: Alias,
    to: Annotated[
        str | None,
        typer.Option("--to", show_default=False, help="Restore what it named since this version."),
    ] = None,
    if_match: IfMatch = None,
    message: Note = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Restore what an alias named before its last change, by a new change."""
    headers = {**precondition_headers(if_match, False), **note_headers(message)}
    body = {} if to is None else {"version": to}
    with NodeClient(url, api_key) as client:
        path = f"{_alias_path(alias)}/rollback"
        result = client.write("POST", path, body, headers=headers)
        named = client.get(_alias_path(alias))
    if as_json:
        print_json(result)
        return
    print_line(f"{alias} names {named['set']} again since {result['version']}")


# --- erasure -----------------------------------------------------------------------------


def erase(
    text: Annotated[list[str], typer.Argument(show_default=False, help="Texts to erase.")],
    yes: Annotated[bool, typer.Option("--yes", help="Really do it.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Remove texts from every route set and from the logs; there is no way back.

    The history from before goes with them. Backups keep a text until they are deleted.
    """
    if not yes:
        raise BadUsage("an erasure cannot be undone, and the history goes with it: say --yes")
    with NodeClient(url, api_key) as client:
        found = client.write("POST", "/v1/erase", {"texts": text})
    if as_json:
        print_json(found)
        return
    parts = [f"{count} {name}" for name, count in found["found"].items() if count]
    print_line(f"erased at {found['version']}: {', '.join(parts) or 'found nowhere'}")
    if not found["logs"]["is_clean"]:
        note("the logs still hold it: `GET /v1/erase` shows when a node is clean")
