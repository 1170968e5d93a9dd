"""``synaptoroute routes lint``: what is wrong with a route file, without a node."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synaptoroute.cli.exit_codes import CheckFailed
from synaptoroute.cli.options import AsJson, EncoderPrecision, Model
from synaptoroute.cli.terminal import note, print_json, print_table, progress, waiting

if TYPE_CHECKING:
    from synaptoroute.cli.lint import Finding
    from synaptoroute.config import Precision
    from synaptoroute.models import Route

_TEXTS_AT_ONCE = 64


def lint(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The route file.")],
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 on warnings, too.")] = False,
    model: Model = None,
    precision: EncoderPrecision = "auto",
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with a route file.

    Near-duplicates between routes, utterances that are nearer to another route,
    routes that nothing reaches, too few utterances, limits. Ends with 1 on errors.
    """
    from synaptoroute.cli.lint import Finding, check_texts
    from synaptoroute.cli.route_files import inspect_route_file

    routes, wrong = inspect_route_file(file)
    findings = [Finding("error", "invalid-route", "", message) for message in wrong]
    if not routes and not wrong:
        findings.append(Finding("error", "no-routes", "", "the file holds no route"))
    findings += check_texts(routes)
    if routes:
        findings += _check_by_encoder(routes, model, precision)
    findings.sort(key=lambda finding: (finding.level != "error", finding.route, finding.code))
    errors = sum(finding.level == "error" for finding in findings)
    _show(findings, as_json)
    said = f"{len(routes)} routes: {errors} errors, {len(findings) - errors} warnings"
    if errors or (strict and findings):
        raise CheckFailed(said)
    note(said)


def _check_by_encoder(
    routes: list[Route], model: str | None, precision: Precision
) -> list[Finding]:
    """Encode all utterances and look at them."""
    import numpy as np

    from synaptoroute.cli.lint import check_vectors
    from synaptoroute.core.mutation import Settings
    from synaptoroute.encoder import DEFAULT_MODEL, open_encoder

    texts = [text for route in routes for text in route.utterances]
    with waiting("Loading the model ..."):
        encoder = open_encoder(model or DEFAULT_MODEL, precision=precision)
    parts = []
    try:
        with progress("Encoding", len(texts)) as step:
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                part = texts[start : start + _TEXTS_AT_ONCE]
                parts.append(encoder.encode_utterances(part))
                step(len(part))
    finally:
        encoder.close()
    return list(check_vectors(routes, np.concatenate(parts), Settings().threshold))


def _show(findings: list[Finding], as_json: bool) -> None:
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
