"""``synaptoroute calibrate``: fit thresholds to labelled queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synaptoroute.cli.exit_codes import BadUsage
from synaptoroute.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    EncoderPrecision,
    Model,
    RoutesFile,
    Url,
)
from synaptoroute.cli.terminal import note, number, print_json, print_line, print_table, progress

if TYPE_CHECKING:
    from synaptoroute.cli.calibration import Calibration, Ranked
    from synaptoroute.cli.labelled import LabelledQuery
    from synaptoroute.cli.query_backend import Answering

CANDIDATES = 20


def calibrate(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Labelled queries: text, tab, route ('-' for none)."
        ),
    ],
    apply: Annotated[
        bool, typer.Option("--apply", help="Set the thresholds that are proposed.")
    ] = False,
    routes: RoutesFile = None,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Fit the default threshold and those of routes to labelled queries.

    What is not better on queries left out of the fit is not proposed. A route without
    labelled queries keeps its threshold, and no route can be switched off.
    """
    from synaptoroute.cli.calibration import Thresholds
    from synaptoroute.cli.calibration import calibrate as fit
    from synaptoroute.cli.labelled import check_known, read_labelled
    from synaptoroute.cli.query_backend import NodeAnswers, open_answering

    if apply and routes is not None:
        raise BadUsage("--apply sets the thresholds of a node: it does not go with --routes")
    queries = read_labelled(file)
    with open_answering(url, api_key, routes, model, precision) as answering:
        present = answering.routes()
        names = [route["name"] for route in present]
        check_known(queries, frozenset(names), file)
        own = {r["name"]: r["threshold"] for r in present if r["threshold"] is not None}
        before = Thresholds(answering.default_threshold(), own)
        found = fit(_rank(answering, queries), names, before)
        _show(found, names, as_json)
        if apply and isinstance(answering, NodeAnswers):
            _apply(answering, found)


def _rank(answering: Answering, queries: list[LabelledQuery]) -> list[Ranked]:
    from synaptoroute.cli.calibration import Ranked
    from synaptoroute.cli.query_backend import ask_all

    return [
        Ranked(
            answer.expected,
            tuple((each["route"], each["score"]) for each in match.get("candidates") or ()),
        )
        for answer, match in ask_all(answering, queries, CANDIDATES)
    ]


def _changes(found: Calibration, names: list[str]) -> list[tuple[str, float | None, float | None]]:
    """Routes whose own threshold changes: (route, before, after); None is the default."""
    before, after = found.before.own, found.after.own
    return [
        (name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _show(found: Calibration, names: list[str], as_json: bool) -> None:
    changes = _changes(found, names)
    if as_json:
        print_json(
            {
                "default": {"before": found.before.default, "after": found.after.default},
                "routes": [
                    {"route": name, "before": before, "after": after}
                    for name, before, after in changes
                ],
                "accuracy_before": found.accuracy_before,
                "accuracy_after": found.accuracy_after,
                "held_out_accuracy_after": found.held_out_after,
                "warnings": found.warnings,
            }
        )
        return
    rows = [("(default)", number(found.before.default), number(found.after.default), "")]
    rows += [
        (name, _own(before), _own(after), str(found.queries_by_route[name]))
        for name, before, after in changes
    ]
    print_table(
        ("threshold of", "before", "after", "queries"), rows, right=("before", "after", "queries")
    )
    print_line(
        f"accuracy {found.accuracy_before:.4f} before, {found.accuracy_after:.4f} after; "
        f"{found.held_out_after:.4f} on queries left out of the fit"
    )
    if found.after == found.before:
        print_line("nothing was better than the present thresholds")
    for warning in found.warnings:
        note(f"warning: {warning}")


def _own(threshold: float | None) -> str:
    return "default" if threshold is None else number(threshold)


def _apply(node: Any, found: Calibration) -> None:
    """Write own thresholds first: a route is never without the one that keeps it apart."""
    client = node.client
    changes = _changes(found, sorted({*found.before.own, *found.after.own}))
    from synaptoroute.cli.client import route_path

    with progress("Applying", len(changes) + 1) as step:
        for name, _, after in changes:
            client.write("PATCH", route_path(name), {"threshold": after})
            step(1)
        if found.after.default != found.before.default:
            settings = client.get("/v1/settings")
            client.write("PUT", "/v1/settings", {**settings, "threshold": found.after.default})
        step(1)
    note(f"applied: default {found.after.default:g}, {len(changes)} routes changed")
