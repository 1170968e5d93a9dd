"""``synaptoroute evaluate``: how well are labelled queries routed?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synaptoroute.cli.exit_codes import CheckFailed
from synaptoroute.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    EncoderPrecision,
    Model,
    RoutesFile,
    Url,
)
from synaptoroute.cli.terminal import note, number, print_json, print_line, print_table

if TYPE_CHECKING:
    from synaptoroute.cli.evaluation import Answer, Evaluation

CONFUSIONS_SHOWN = 15
WRONG_SHOWN = 20


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Labelled queries: text, tab, route ('-' for none)."
        ),
    ],
    routes: RoutesFile = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, show_default=False, help="End with 1 below this share."),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every wrong answer.")] = False,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Route labelled queries and show what went wrong.

    Asks a node, or with --routes a router in this process.
    """
    from synaptoroute.cli.evaluation import evaluate as count
    from synaptoroute.cli.labelled import check_known, read_labelled
    from synaptoroute.cli.query_backend import ask_all, open_answering

    queries = read_labelled(file)
    with open_answering(url, api_key, routes, model, precision) as answering:
        names = frozenset(route["name"] for route in answering.routes())
        check_known(queries, names, file)
        answers = [answer for answer, _ in ask_all(answering, queries)]
    figures = count(answers)
    wrong = [answer for answer in answers if not answer.is_correct]
    if as_json:
        print_json(_document(figures, wrong))
    else:
        _show(figures, wrong if show_all else wrong[:WRONG_SHOWN])
        if len(wrong) > WRONG_SHOWN and not show_all:
            note(f"{len(wrong) - WRONG_SHOWN} more wrong answers: --all")
    if min_accuracy is not None and figures.accuracy < min_accuracy:
        raise CheckFailed(f"accuracy {figures.accuracy:.4f} is below {min_accuracy:g}")


def _document(figures: Evaluation, wrong: list[Answer]) -> dict[str, Any]:
    document = asdict(figures)
    document["accuracy"] = figures.accuracy
    document["confusions"] = [
        {"expected": expected, "given": given, "count": times}
        for expected, given, times in figures.confusions
    ]
    document["wrong"] = [asdict(answer) for answer in wrong]
    return document


def _show(figures: Evaluation, wrong: list[Answer]) -> None:
    print_table(
        ("route", "queries", "precision", "recall"),
        (
            (each.route, str(each.count), number(each.precision), number(each.recall))
            for each in figures.routes
        ),
        right=("queries", "precision", "recall"),
    )
    if figures.confusions:
        print_table(
            ("expected", "given", "times"),
            (
                (expected, (given, "fail"), str(times))
                for expected, given, times in figures.confusions[:CONFUSIONS_SHOWN]
            ),
            title="Confusions",
            right=("times",),
        )
        print_table(
            ("query", "expected", "given", "score", "margin"),
            (
                (
                    each.text,
                    each.expected or "-",
                    (each.given or "-", "fail"),
                    number(each.score),
                    number(each.margin),
                )
                for each in wrong
            ),
            title="Wrong answers",
            right=("score", "margin"),
        )
    for line in summary(figures):
        print_line(line)


def summary(figures: Evaluation) -> list[str]:
    """The figures that matter most, one a line."""
    latency = ", ".join(f"{name} {value:.1f} ms" for name, value in figures.latency_ms.items())
    return [
        f"accuracy       {figures.accuracy:.4f} ({figures.correct_count} of {figures.count})",
        f"in scope       {figures.in_scope_correct_count} of {figures.in_scope_count} right, "
        f"{figures.false_rejects} rejected",
        f"out of scope   {figures.false_accepts} of {figures.out_of_scope_count} accepted wrongly",
        f"latency        {latency}",
    ]
