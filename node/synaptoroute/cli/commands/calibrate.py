"""``synaptoroute calibrate``: limits of acceptance fitted to labelled queries.

A limit is a threshold, the least score, or a least confidence.  ``learning.limits`` has the
rules of the fit, ``learning.guarantee`` those of a limit with a guarantee.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from synaptoroute.cli.client import NodeClient, route_path
from synaptoroute.cli.exit_codes import BadUsage, CheckFailed, NodeRefused
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
    Answer,
    LabelledQuery,
    NodeBackend,
    QueryBackend,
    RouteDocuments,
    ask_all,
    check_known,
    judge_own,
    open_backend,
    read_labelled,
)
from synaptoroute.cli.studies import read_objective, study, write_svg
from synaptoroute.cli.terminal import note, number, print_json, print_line, print_table, progress
from synaptoroute.learning.conversion import ComparedText, Conversion
from synaptoroute.learning.conversion import convert as conversion_of
from synaptoroute.learning.guarantee import Guarantee, TooFewTexts, guaranteed_limit
from synaptoroute.learning.limits import (
    CONFIDENCE_MIN,
    SCORE_MIN,
    Calibration,
    RankedQuery,
    Thresholds,
    Tried,
    fit_thresholds,
)

CANDIDATES: Final = 20
DELTA_DEFAULT: Final = 0.1
_WITHOUT_REVISIONS: Final = frozenset({"not_found", "method_not_allowed", "not_finalized"})
"""Answers of a node, or a log, that has no entry for several routes yet."""
By = Literal["auto", "threshold", "confidence"]


def calibrate(
    file: OptionalLabelledFile = None,
    apply: Annotated[bool, typer.Option("--apply", help="Set the proposed limits.")] = False,
    by: Annotated[
        By, typer.Option(help="What is fitted; auto takes the one that the settings use.")
    ] = "auto",
    convert: Annotated[
        bool,
        typer.Option(
            "--convert",
            help="Propose least confidences in place of the thresholds, which then go.",
        ),
    ] = False,
    objective: Objective = "accuracy",
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            min=0.001,
            max=0.5,
            show_default=False,
            help="Find the lowest limit whose error among answered queries is at most this, with "
            "a guarantee; needs 200 labelled queries of real traffic.",
        ),
    ] = None,
    doubt: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="Probability that the guarantee may fail."),
    ] = DELTA_DEFAULT,
    routes: RoutesFile = None,
    svg: SvgFile = None,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Fit the default limit and the limits of routes to labelled queries.

    Limits are proposed if they are better on these queries and not worse on held-out ones; both
    gains are shown. A route without labelled queries keeps its limit, and no route can be
    switched off.
    """
    _check_usage(file, routes, apply=apply, convert=convert, guaranteed=max_error is not None)
    wanted = read_objective(objective)
    queries = None if file is None else read_labelled(file)
    with open_backend(url, api_key, routes, model, precision) as backend:
        present = backend.routes()
        names = [route["name"] for route in present]
        if queries is not None and file is not None:
            check_known(queries, frozenset(names), file)
        if convert:
            _convert(backend, queries, present, apply, as_json)
            return
        kind = _kind_of(by, backend)
        answers, ranked = _ask(backend, queries, kind)
        if svg is not None:
            write_svg(svg, study(answers, wanted))
        before = _present_limits(backend, present, kind)
        if max_error is not None:
            after = _guaranteed(ranked, kind, max_error, doubt, as_json)
            if apply and isinstance(backend, NodeBackend):
                _apply(backend.client, kind, before, after, names)
            return
        lowest = SCORE_MIN if kind == "threshold" else CONFIDENCE_MIN
        found = fit_thresholds(ranked, names, before, wanted, lowest=lowest)
        _show(found, names, kind, as_json)
        if apply and isinstance(backend, NodeBackend):
            _apply(backend.client, kind, found.before, found.after, names)


def _check_usage(
    file: Path | None, routes: Path | None, *, apply: bool, convert: bool, guaranteed: bool
) -> None:
    if apply and routes is not None:
        raise BadUsage("--apply sets the limits of a node and cannot be used with --routes")
    if apply and file is None and not convert:
        raise BadUsage(
            "utterances do not show what belongs to no route: give a file of labelled queries"
        )
    if guaranteed and file is None:
        raise BadUsage("a guarantee needs labelled queries of real traffic: give a file")


# --- asking ------------------------------------------------------------------------------


def _kind_of(by: By, backend: QueryBackend) -> str:
    if by != "auto":
        return by
    return "threshold" if backend.settings().get("confidence_min") is None else "confidence"


def _ask(
    backend: QueryBackend, queries: list[LabelledQuery] | None, kind: str
) -> tuple[list[Answer], list[RankedQuery]]:
    answers, ranked = [], []
    asked = (
        judge_own(backend, CANDIDATES) if queries is None else ask_all(backend, queries, CANDIDATES)
    )
    for answer, match in asked:
        answers.append(answer)
        ranked.append(RankedQuery(answer.expected, _values(match, kind)))
    return answers, ranked


def _values(match: dict[str, Any], kind: str) -> tuple[tuple[str, float], ...]:
    """Routes in order of rank with the value that a limit compares."""
    candidates = match.get("candidates") or ()
    if kind == "threshold":
        return tuple((each["route"], each["score"]) for each in candidates)
    if any(each.get("confidence") is None for each in candidates):
        raise BadUsage("this node reports no confidences; use --by threshold")
    # A route that its threshold refuses stays refused whatever its confidence is.
    return tuple(
        (each["route"], each["confidence"])
        for each in candidates
        if each["threshold"] is None or each["score"] >= each["threshold"]
    )


def _present_limits(backend: QueryBackend, routes: RouteDocuments, kind: str) -> Thresholds:
    name = "threshold" if kind == "threshold" else "confidence_min"
    default = backend.settings().get(name)
    lowest = SCORE_MIN if kind == "threshold" else CONFIDENCE_MIN
    own = {each["name"]: each[name] for each in routes if each.get(name) is not None}
    return Thresholds(lowest if default is None else float(default), own)


# --- showing -----------------------------------------------------------------------------


def _changes(
    before: Thresholds, after: Thresholds, names: list[str]
) -> list[tuple[str, float | None, float | None]]:
    """List (route, before, after) of changed limits; None stands for the default."""
    return [
        (name, before.own.get(name), after.own.get(name))
        for name in names
        if before.own.get(name) != after.own.get(name)
    ]


def _show(found: Calibration, names: list[str], kind: str, as_json: bool) -> None:
    changes = _changes(found.before, found.after, names)
    if as_json:
        print_json(
            {
                "by": kind,
                "objective": str(found.objective),
                "default": {"before": found.before.default, "after": found.after.default},
                "routes": [
                    {"route": name, "before": before, "after": after}
                    for name, before, after in changes
                ],
                "queries": found.count,
                "right_before": found.right_before,
                "accuracy_before": found.accuracy_before,
                "accuracy_after": found.accuracy_after,
                "held_out_accuracy_after": found.held_out_after,
                "tried": [_tried_document(each) for each in found.tried],
                "warnings": found.warnings,
            }
        )
        return
    rows = [("(default)", number(found.before.default), number(found.after.default), "")]
    rows += [
        (name, _own(before), _own(after), str(found.queries_by_route[name]))
        for name, before, after in changes
    ]
    title = "threshold of" if kind == "threshold" else "least confidence of"
    print_table((title, "before", "after", "queries"), rows, right=("before", "after", "queries"))
    print_line(
        f"accuracy {found.accuracy_before:.4f} before, {found.accuracy_after:.4f} after; "
        f"{found.held_out_after:.4f} on held-out queries"
    )
    for each in found.tried:
        print_line(_gain(each, found))
    if found.after == found.before:
        print_line("nothing is proposed")
    for warning in found.warnings:
        note(f"warning: {warning}")


def _tried_document(tried: Tried) -> dict[str, Any]:
    return {
        **asdict(tried),
        "limits": {"default": tried.limits.default, "own": dict(tried.limits.own)},
    }


def _gain(tried: Tried, found: Calibration) -> str:
    """One line about limits that were fitted: what they gain, and why they are not proposed."""
    what = f"a default of {tried.limits.default:g}"
    if tried.name == "routes":
        own = sum(tried.limits.own.get(name) != found.before.own.get(name)
                  for name in {*tried.limits.own, *found.before.own})  # fmt: skip
        what += f" and {own} own limits"
    gain = tried.right - found.right_before
    held_out = tried.gained - tried.lost
    verdict = "proposed" if tried.is_proposed else "not proposed"
    if not tried.is_better:
        verdict += ": no better on these queries"
    elif held_out < 0:
        verdict += ": worse on held-out queries"
    elif not tried.is_proposed:
        verdict += ": another is better or simpler"
    elif held_out == 0:
        verdict += ", although held-out queries show no gain: more labelled queries would tell"
    return (
        f"{what}: {gain:+d} of {found.count} queries right; held out {held_out:+d} "
        f"({tried.gained} gained, {tried.lost} lost); {verdict}"
    )


def _own(limit: float | None) -> str:
    return "default" if limit is None else number(limit)


# --- a guarantee -------------------------------------------------------------------------


def _guarantee(ranked: list[RankedQuery], max_error: float, doubt: float) -> Guarantee | None:
    try:
        return guaranteed_limit([query.judged for query in ranked], max_error, doubt)
    except TooFewTexts as error:
        raise CheckFailed(f"{error}; label more answers of real traffic") from error


def _guaranteed(
    ranked: list[RankedQuery], kind: str, max_error: float, doubt: float, as_json: bool
) -> Thresholds:
    """Find and show the limit with a guarantee, for all routes."""
    found = _guarantee(ranked, max_error, doubt)
    _show_guarantee(found, kind, max_error, doubt, as_json)
    if found is None:
        raise CheckFailed(f"no limit keeps the error at {max_error:g}; nothing is proposed")
    return Thresholds(found.limit, {})


def _show_guarantee(
    found: Guarantee | None, kind: str, max_error: float, doubt: float, as_json: bool
) -> None:
    if as_json:
        shown = None if found is None else {**asdict(found), "error": found.error}
        print_json({"by": kind, "guarantee": shown, "max_error": max_error, "doubt": doubt})
        return
    if found is None:
        return
    print_line(
        f"a least {kind} of {found.limit:g} for all routes answers {found.answered} of "
        f"{found.texts} queries, {found.wrong} of them wrong ({found.error:.4f})"
    )
    print_line(
        f"with probability {1 - doubt:g} at most {max_error:g} of the answers to queries like "
        f"these are wrong (exact binomial bound, p = {found.p_value:.2g})"
    )
    note(
        "it holds for queries from the same source as the labelled ones and for these routes; not "
        "for single routes, not after traffic or routes change, and not if the labelled queries "
        "are utterances"
    )


# --- thresholds become least confidences ---------------------------------------------------


def _convert(
    backend: QueryBackend,
    queries: list[LabelledQuery] | None,
    routes: RouteDocuments,
    apply: bool,
    as_json: bool,
) -> None:
    settings = backend.settings()
    with_own = [each["name"] for each in routes if each["threshold"] is not None]
    if settings["threshold"] is None and not with_own:
        raise CheckFailed("no threshold is set: there is nothing to convert")
    answers, _ = _ask(backend, queries, "threshold")
    texts = [
        ComparedText(each.best, each.given == each.best, each.confidence)
        for each in answers
        if each.best is not None and each.confidence is not None
    ]
    if not texts:
        raise BadUsage("this node reports no confidences")
    least = settings.get("confidence_min")
    found = conversion_of(texts, with_own, least if settings["threshold"] is None else None)
    before = sum(each.is_correct for each in answers)
    after = sum(_answer_after(each, found) == each.expected for each in answers)
    if as_json:
        print_json({**asdict(found), "texts": len(answers), "right": [before, after]})
    else:
        _show_conversion(found, settings, {each["name"]: each["threshold"] for each in routes})
        print_line(f"right: {before} of {len(answers)} before, {after} after")
    if apply and isinstance(backend, NodeBackend):
        body = {
            "settings": {
                **settings, "threshold": None, "confidence_min": found.default.confidence_min
            },
            "routes": [
                {
                    "name": name,
                    "threshold": None,
                    "confidence_min": found.own[name].confidence_min if name in found.own else None,
                }
                for name in with_own
            ],
        }  # fmt: skip
        backend.client.write("POST", "/v1/revisions", body)
        note(f"applied in one write: {len(with_own)} routes and the settings changed")


def _answer_after(answer: Answer, found: Conversion) -> str | None:
    """The answer by the least confidences, if the best route is the only one that may pass."""
    limit = found.own.get(answer.best or "", found.default).confidence_min
    return answer.best if (answer.confidence or 0.0) >= limit else None


def _show_conversion(
    found: Conversion, settings: dict[str, Any], thresholds: dict[str, float | None]
) -> None:
    rows = [("(default)", settings["threshold"], found.default)]
    rows += [(name, thresholds[name], limit) for name, limit in found.own.items()]
    print_table(
        ("limit of", "threshold", "least confidence", "texts", "answered as before"),
        (
            (
                name,
                number(threshold),
                number(limit.confidence_min),
                str(limit.texts),
                str(limit.same),
            )
            for name, threshold, limit in rows
        ),
        right=("threshold", "least confidence", "texts", "answered as before"),
    )
    for name in found.dropped:
        note(f"{name} has a threshold of its own and too few texts: it gets the default")


# --- applying ----------------------------------------------------------------------------


def _apply(
    client: NodeClient, kind: str, before: Thresholds, after: Thresholds, names: list[str]
) -> None:
    changes = _changes(before, after, names)
    is_default_new = after.default != before.default
    if not changes and not is_default_new:
        note("nothing to apply")
        return
    field = "threshold" if kind == "threshold" else "confidence_min"
    body: dict[str, Any] = {"routes": [{"name": name, field: limit} for name, _, limit in changes]}
    if is_default_new:
        body["settings"] = {**client.get("/v1/settings"), field: after.default}
    try:
        client.write("POST", "/v1/revisions", body)
    except NodeRefused as refusal:
        if refusal.refused_code not in _WITHOUT_REVISIONS:
            raise
        _apply_one_by_one(client, field, after, changes, is_default_new)
        return
    note(f"applied in one write: default {after.default:g}, {len(changes)} routes changed")


def _apply_one_by_one(
    client: NodeClient,
    field: str,
    after: Thresholds,
    changes: list[tuple[str, float | None, float | None]],
    is_default_new: bool,
) -> None:
    """Apply without an entry for several routes."""
    # Own limits before the default: with the new default first, a route would for a moment
    # have neither its present limit nor its new one.
    with progress("Applying", len(changes) + 1) as step:
        for name, _, limit in changes:
            client.write("PATCH", route_path(name), {field: limit})
            step(1)
        if is_default_new:
            settings = client.get("/v1/settings")
            client.write("PUT", "/v1/settings", {**settings, field: after.default})
        step(1)
    note(f"applied: default {after.default:g}, {len(changes)} routes changed")
