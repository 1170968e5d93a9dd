"""``synaptoroute cluster``: what an operator does after a loss."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import CheckFailed
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import Cell, note, print_json, print_line, print_table


def recover(
    force: Annotated[
        bool,
        typer.Option("--force", help="Open the log with the nodes that are there, at that risk."),
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show how a recovery stands and what may be lost by forcing it; with --force, do it.

    Ends with 1 while the log is closed and nothing was forced.
    """
    with NodeClient(url, api_key) as client:
        outlook = client.post("/v1/cluster/recover", {"force": force})
    if as_json:
        print_json(outlook)
    else:
        print_table(("recovery", ""), rows_of(outlook))
    if force:
        if outlook["is_needed"] and not as_json:
            note("Forced: the log opens with the nodes that are there.")
        return
    if outlook["is_needed"]:
        raise CheckFailed("the log is closed; --force opens it at the risk shown")


def rows_of(outlook: dict[str, Any]) -> list[tuple[Cell, ...]]:
    """What an operator should know before forcing."""
    risk = outlook["risk"] or "nothing that a majority held"
    rows: list[tuple[Cell, ...]] = [
        ("log", (outlook["log_state"], "ok" if not outlook["is_needed"] else "warn")),
        ("detail", outlook["detail"]),
    ]
    if outlook["is_needed"]:
        rows += [
            ("kept up to", outlook["base"]),
            ("voters that are missing", ", ".join(outlook["missing"])),
            ("may be lost", (risk, "warn" if outlook["risk"] else "ok")),
        ]
    return rows


def voter(
    node: Annotated[
        str, typer.Argument(help="Identity of the node, as `status --cluster --json` shows it.")
    ],
    remove: Annotated[bool, typer.Option("--remove", help="Let it vote no longer.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let one node vote on recoveries, or no longer; one at a time."""
    with NodeClient(url, api_key) as client:
        result = client.write("POST", "/v1/cluster/voters", {"node": node, "vote": not remove})
    if as_json:
        print_json(result)
    else:
        print_line(f"{result['status']} at {result['version']}, held by: {result['ack']}")


def list_orphans(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the writes that recoveries left behind on this node."""
    with NodeClient(url, api_key) as client:
        found = client.get("/v1/cluster/orphans")["orphans"]
    if as_json:
        print_json(found)
        return
    rows: list[tuple[Cell, ...]] = [
        (each["op_id"], each["version"], each["kind"], each["route"] or "") for each in found
    ]
    print_table(("op_id", "version", "kind", "route"), rows)


def replay(
    op_id: Annotated[list[str], typer.Argument(show_default=False, help="Which ones; see `list`.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make writes again that were left behind, in the order given."""
    with NodeClient(url, api_key) as client:
        for each in op_id:
            result = client.write("POST", "/v1/cluster/orphans", {"op_id": each})
            if as_json:
                print_json({"op_id": each, **result})
            else:
                print_line(f"{each} {result['status']} at {result['version']}")
