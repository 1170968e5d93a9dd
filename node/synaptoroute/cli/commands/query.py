"""``synaptoroute query``: route texts and show the candidates."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import ExitCode
from synaptoroute.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from synaptoroute.cli.terminal import Cell, number, print_json, print_line, print_table, printable


def query(
    text: Annotated[list[str], typer.Argument(help="Texts to route.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="Number of candidates.")] = 3,
    routes: Annotated[
        str | None,
        typer.Option(show_default=False, help="Only these routes: names separated by commas."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also show the reason and the data of the route.")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Route texts and show the candidates.

    Exits with 1 when a text matches no route.
    """
    options: dict[str, Any] = {"limit": limit, "explain": explain}
    if routes is not None:
        options["routes"] = [name.strip() for name in routes.split(",") if name.strip()]
    with NodeClient(url, api_key) as client:
        matches = [client.post("/v1/query", {"text": each, **options}) for each in text]
    if as_json:
        print_json(matches if len(matches) > 1 else matches[0])
    else:
        for each, match in zip(text, matches, strict=True):
            _show(each, match, explain)
    if not all(match["route"] for match in matches):
        raise typer.Exit(ExitCode.NO)


def _show(text: str, match: dict[str, Any], explain: bool) -> None:
    route = match["route"] or f"no route ({match['reason']})"
    print_line(f"{printable(text)}  →  {route}")
    candidates = match.get("candidates") or [_single_candidate(match)]
    if match["threshold"] is not None:
        print_table(
            ("route", "score", "threshold", "passed", "nearest utterance", "similarity"),
            (_row(candidate) for candidate in candidates),
            right=("score", "threshold", "similarity"),
        )
    if explain:
        for key in ("margin", "runner_up", "reason", "payload", "metadata", "version", "node"):
            if match.get(key) not in (None, {}, ""):
                print_line(f"  {key}: {printable(str(match[key]))}")
        print_line()


def _single_candidate(match: dict[str, Any]) -> dict[str, Any]:
    """Make the candidate of a match without a list of candidates."""
    passed = match["route"] is not None
    return {**match, "route": match["route"] or "–", "passed": passed}


def _row(candidate: dict[str, Any]) -> tuple[Cell, ...]:
    passed = bool(candidate["passed"])
    return (
        (candidate["route"], "ok" if passed else "no"),
        number(candidate["score"]),
        number(candidate["threshold"]),
        ("yes", "ok") if passed else ("no", "no"),
        candidate["utterance"] or "",
        number(candidate["similarity"]),
    )
