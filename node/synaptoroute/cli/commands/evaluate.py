"""``synaptoroute query`` and ``evaluate``: route texts, and measure how well that works."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import typer

from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.exit_codes import CheckFailed, ExitCode
from synaptoroute.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    EncoderPrecision,
    Model,
    Objective,
    OptionalLabelledFile,
    RoutesFile,
    SvgFile,
    Url,
)
from synaptoroute.cli.query_backend import (
    NO_ROUTE,
    Answer,
    ask_all,
    check_known,
    judge_own,
    open_backend,
    read_labelled,
    tests_of_folder,
)
from synaptoroute.cli.studies import read_objective, show_study, study, write_svg
from synaptoroute.cli.terminal import (
    Cell,
    note,
    number,
    print_json,
    print_line,
    print_table,
    printable,
)

CONFUSIONS_SHOWN: Final = 15
WRONG_SHOWN: Final = 20
_EXPLAINED: Final = (
    "encoded_text",
    "context_weight",
    "p_none",
    "margin",
    "runner_up",
    "reason",
    "payload",
    "metadata",
    "version",
    "node",
)
REFUSED_SHOWN: Final = 20
CANDIDATES: Final = 2
"""So that the best route is listed where it is refused."""


def evaluate(
    file: OptionalLabelledFile = None,
    routes: RoutesFile = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, show_default=False, help="Exit with 1 below this accuracy."),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show every wrong answer.")] = False,
    objective: Objective = "accuracy",
    svg: SvgFile = None,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Route labelled queries; show the wrong answers, and what other limits would give.

    Asks a node, or with --routes a router in this process. Without a file the tests of a route
    folder are asked; where there are none, the routes' own utterances are judged, each left out
    of its route; none of them is out of scope.
    """
    wanted = read_objective(objective)
    file = file or tests_of_folder(routes)
    queries = None if file is None else read_labelled(file)
    with open_backend(url, api_key, routes, model, precision) as backend:
        names = frozenset(route["name"] for route in backend.routes())
        if queries is None or file is None:
            answers = [answer for answer, _ in judge_own(backend, CANDIDATES)]
        else:
            check_known(queries, names, file)
            answers = [answer for answer, _ in ask_all(backend, queries, CANDIDATES)]
    result = count_answers(answers)
    found = study(answers, wanted)
    wrong = [answer for answer in answers if not answer.is_correct]
    if svg is not None:
        write_svg(svg, found)
    if as_json:
        print_json({**_document(result, wrong), **found.document()})
    else:
        _show(result, wrong if show_all else wrong[:WRONG_SHOWN])
        show_study(found, REFUSED_SHOWN)
        if len(wrong) > WRONG_SHOWN and not show_all:
            note(f"{len(wrong) - WRONG_SHOWN} more wrong answers; --all shows them")
    if min_accuracy is not None and result.accuracy < min_accuracy:
        raise CheckFailed(f"accuracy {result.accuracy:.4f} is below {min_accuracy:g}")


def _document(result: Evaluation, wrong: list[Answer]) -> dict[str, Any]:
    document = asdict(result)
    document["accuracy"] = result.accuracy
    document["confusions"] = [
        {"expected": expected, "given": given, "count": times}
        for expected, given, times in result.confusions
    ]
    document["wrong"] = [asdict(answer) for answer in wrong]
    return document


def _show(result: Evaluation, wrong: list[Answer]) -> None:
    print_table(
        ("route", "queries", "precision", "recall"),
        (
            (each.route, str(each.count), number(each.precision), number(each.recall))
            for each in result.routes
        ),
        right=("queries", "precision", "recall"),
    )
    if result.confusions:
        print_table(
            ("expected", "given", "times"),
            (
                (expected, (given, "fail"), str(times))
                for expected, given, times in result.confusions[:CONFUSIONS_SHOWN]
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
    for line in summary(result):
        print_line(line)


def summary(result: Evaluation) -> list[str]:
    """Return the most important figures, one per line."""
    latency = ", ".join(f"{name} {value:.1f} ms" for name, value in result.latency_ms.items())
    return [
        f"accuracy       {result.accuracy:.4f} ({result.correct_count} of {result.count})",
        f"in scope       {result.in_scope_correct_count} of {result.in_scope_count} right, "
        f"{result.false_rejects} rejected",
        f"out of scope   {result.false_accepts} of {result.out_of_scope_count} accepted wrongly",
        f"latency        {latency}",
    ]


# --- counting --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RouteScore:
    """Precision and recall of one route; None stands for a share of nothing."""

    route: str
    count: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one run; ``confusions`` are (expected, given, count), most frequent first."""

    count: int
    correct_count: int
    in_scope_count: int
    in_scope_correct_count: int
    false_rejects: int
    out_of_scope_count: int
    false_accepts: int
    routes: tuple[RouteScore, ...]
    confusions: tuple[tuple[str, str, int], ...]
    latency_ms: dict[str, float]

    @property
    def accuracy(self) -> float:
        return self.correct_count / self.count


def count_answers(answers: Sequence[Answer]) -> Evaluation:
    """Count right and wrong answers; there must be at least one answer."""
    in_scope = [answer for answer in answers if answer.expected is not None]
    out_of_scope = [answer for answer in answers if answer.expected is None]
    wrong = Counter(
        (_name(answer.expected), _name(answer.given)) for answer in answers if not answer.is_correct
    )
    return Evaluation(
        count=len(answers),
        correct_count=sum(answer.is_correct for answer in answers),
        in_scope_count=len(in_scope),
        in_scope_correct_count=sum(answer.is_correct for answer in in_scope),
        false_rejects=sum(answer.given is None for answer in in_scope),
        out_of_scope_count=len(out_of_scope),
        false_accepts=sum(answer.given is not None for answer in out_of_scope),
        routes=_route_scores(answers),
        confusions=tuple(
            (expected, given, count)
            for (expected, given), count in sorted(
                wrong.items(), key=lambda item: (-item[1], item[0])
            )
        ),
        latency_ms=_percentiles([answer.latency_ms for answer in answers]),
    )


def _route_scores(answers: Sequence[Answer]) -> tuple[RouteScore, ...]:
    expected = Counter(_name(answer.expected) for answer in answers)
    given = Counter(_name(answer.given) for answer in answers)
    right = Counter(_name(answer.expected) for answer in answers if answer.is_correct)
    return tuple(
        RouteScore(
            name,
            expected[name],
            _share(right[name], given[name]),
            _share(right[name], expected[name]),
        )
        for name in sorted(expected | given)
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return nearest-rank percentiles."""
    ordered = sorted(values)
    ranks = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
    return {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in ranks.items()}


def _name(route: str | None) -> str:
    return NO_ROUTE if route is None else route


# --- query -------------------------------------------------------------------------------


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
    split: Annotated[
        bool, typer.Option("--split", help="Route each clause of a text on its own.")
    ] = False,
    prior: Annotated[
        list[str] | None,
        typer.Option(help="A weight of a route, ROUTE=WEIGHT, -20 to 20; repeatable."),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(help="An earlier turn of the conversation, oldest first; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show how the texts are read.")
    ] = False,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="With --dry-run: a pattern to try in place of the settings' own."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Route texts and show the candidates.

    Exits with 1 when a text matches no route.
    """
    if ignore and not dry_run:
        raise typer.BadParameter("only with --dry-run", param_hint="--ignore")
    if dry_run:
        with NodeClient(url, api_key) as client:
            asked = {"texts": text, "ignore": ignore or None}
            readings = client.post("/v1/preview/texts", asked)
        _show_readings(readings, as_json)
        return
    options: dict[str, Any] = {"limit": limit, "explain": explain}
    if routes is not None:
        options["routes"] = [name.strip() for name in routes.split(",") if name.strip()]
    if context:
        options["context"] = context
    if prior:
        options["prior"] = dict(map(_weight, prior))
    if split:
        options["split"] = True
    with NodeClient(url, api_key) as client:
        answers = [client.post("/v1/query", {"text": each, **options}) for each in text]
    parts = [
        (each[slice(*match["span"])] if split else each, match)
        for each, answer in zip(text, answers, strict=True)
        for match in (answer["matches"] if split else [answer])
    ]
    if as_json:
        print_json(answers if len(answers) > 1 else answers[0])
    else:
        for each, match in parts:
            _show_match(each, match, explain)
    if not all(match["route"] for _, match in parts):
        raise typer.Exit(ExitCode.NO)


def _weight(given: str) -> tuple[str, float]:
    name, _, weight = given.rpartition("=")
    try:
        return name.strip(), float(weight)
    except ValueError:
        raise typer.BadParameter("must be ROUTE=WEIGHT", param_hint="--prior") from None


def _show_readings(readings: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(readings)
        return
    for reading in readings["texts"]:
        text = reading["text"]
        print_line(f"{printable(text)}  →  {printable(reading['encoded_text'] or '(nothing)')}")
        for repair in reading["repairs"]:
            print_line(f"  {printable(repair['written'])} is read as {printable(repair['read'])}")
        if len(reading["spans"]) > 1:
            for span in reading["spans"]:
                print_line(f"  clause: {printable(text[slice(*span)])}")


def _show_match(text: str, match: dict[str, Any], explain: bool) -> None:
    route = match["route"] or f"no route ({match['reason']})"
    print_line(f"{printable(text)}  →  {route}")
    candidates = match.get("candidates") or [_single_candidate(match)]
    if match["score"] is not None:
        columns = ("confidence", "needed", "score", "threshold")
        print_table(
            ("route", *columns, "passed", "nearest utterance", "similarity"),
            (_candidate_row(candidate) for candidate in candidates),
            right=(*columns, "similarity"),
        )
    if match.get("truncated"):
        print_line("  the encoder read only the beginning of the text")
    if explain:
        for key in _EXPLAINED:
            if match.get(key) not in (None, {}, ""):
                print_line(f"  {key}: {printable(str(match[key]))}")
        print_line()


def _single_candidate(match: dict[str, Any]) -> dict[str, Any]:
    """Make the candidate of a match without a list of candidates."""
    passed = match["route"] is not None
    return {**match, "route": match["route"] or "–", "passed": passed}


def _candidate_row(candidate: dict[str, Any]) -> tuple[Cell, ...]:
    passed = bool(candidate["passed"])
    return (
        (candidate["route"], "ok" if passed else "no"),
        number(candidate.get("confidence"), 2),
        number(candidate.get("confidence_min"), 2),
        number(candidate["score"]),
        number(candidate["threshold"]),
        ("yes", "ok") if passed else ("no", "no"),
        candidate["utterance"] or "",
        number(candidate["similarity"]),
    )
