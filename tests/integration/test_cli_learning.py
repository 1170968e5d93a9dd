"""The commands that learn from mistakes, against a real node process with the real model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ports import free_port
from repository import QUERIES, ROUTES
from synaptoroute.cli.app import app
from synaptoroute.cli.exit_codes import ExitCode
from synaptoroute.cli.processes import NodeProcess

pytestmark = pytest.mark.integration

Run = Callable[..., Any]
VISITS = ["can I park a bicycle at the office", "where do I park my bicycle at your office"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a command against a node with the example routes, which keeps unmatched queries."""
    folder = tmp_path_factory.mktemp("node")
    settings = {"database": str(folder / "node.sqlite"), "unmatched_kept": "50"}
    process = NodeProcess(free_port(), settings, folder / "node.log")
    process.start()

    def invoke(*words: str, code: int = ExitCode.DONE) -> Any:
        result = CliRunner().invoke(app, list(words), env={"SYNAPTOROUTE_URL": process.url})
        assert code == result.exit_code, result.output
        return result

    try:
        process.wait_ready()
        invoke("routes", "import", str(ROUTES), "--replace")
        yield invoke
    finally:
        process.stop()


def output(result: Any) -> Any:
    """Parse the JSON output of a command."""
    return json.loads(result.stdout)


def test_feedback_is_added_listed_and_resolved(run: Run) -> None:
    said = ("feedback", "add", "I want to give them back", "--route", "returns")
    assert "feedback_off" in run(*said, code=ExitCode.REFUSED).stderr
    run("feedback", "queue", "on", "--retention-days", "2", "--redact", "email")
    item = output(run(*said, "--json"))
    run(*said)
    run("feedback", "add", "my mail is a@example.org", "--route", "sign-in", "--was", "returns")
    items = output(run("feedback", "list", "--json"))
    found = {each["text"]: each for each in items}

    assert {"I want to give them back", "my mail is [email]"} == set(found)
    assert 2 == found["I want to give them back"]["times"]
    assert "my mail is" in run("feedback", "list", "--route", "sign-in").stdout

    other = found["my mail is [email]"]["id"]
    run("feedback", "resolve", item["id"], "--as", "utterance")
    run("feedback", "resolve", other, "--as", "dismiss")
    route = output(run("routes", "show", "returns", "--json"))
    assert "I want to give them back" in route["utterances"]
    assert [] == output(run("feedback", "list", "--json"))
    assert "feedback_not_found" in run("feedback", "resolve", other, code=ExitCode.REFUSED).stderr
    run("feedback", "queue", "off")
    assert "off" in run("feedback", "list").stderr


def test_usage_is_checked(run: Run) -> None:
    run("feedback", "add", code=ExitCode.USAGE)
    run("feedback", "add", "text", "--decision-id", "x", code=ExitCode.USAGE)
    run("feedback", "resolve", "0" * 16, "1" * 16, "--text", "x", code=ExitCode.USAGE)
    run("unmatched", "add", "99", "--route", "returns", code=ExitCode.USAGE)


def test_unmatched_queries_become_a_route(run: Run, tmp_path: Path) -> None:
    for text in (*VISITS, VISITS[0], "is the moon made of cheese"):
        run("query", text, code=ExitCode.NO)
    groups = output(run("unmatched", "list", "--json"))
    run("unmatched", "list", "--export", str(tmp_path / "unmatched.jsonl"))
    lines = (tmp_path / "unmatched.jsonl").read_text(encoding="utf-8").splitlines()

    assert [3, 1] == [each["size"] for each in groups]
    assert set(VISITS) == {each["text"] for each in groups[0]["texts"]}
    assert 3 == len(lines)

    run("unmatched", "add", "1", "--route", "visits", "--create")
    assert "visits" in run("query", VISITS[1]).stdout
    run("unmatched", "dismiss", "1")
    assert [] == output(run("unmatched", "list", "--json"))


def test_thresholds_become_least_confidences_in_one_write(run: Run, tmp_path: Path) -> None:
    """Previewed without a change, then applied; thresholds are gone."""
    run("routes", "import", str(ROUTES), "--replace")
    before = output(run("calibrate", "--convert", "--json"))
    assert "threshold of its own" not in run("routes", "show", "returns").stdout
    run("calibrate", str(QUERIES), "--convert", "--apply")
    routes = {each["name"]: each for each in output(run("routes", "list", "--json"))}
    entries = output(run("history", "--limit", "2", "--json"))["entries"]
    # The node may have fitted the new limits since.
    newest = next(each for each in entries if each["action"] != "calibrate_decision")
    said = run("calibrate", "--convert", code=ExitCode.NO).stderr

    assert 0.0 < before["default"]["confidence_min"] < 1.0
    assert {None} == {each["threshold"] for each in routes.values()}
    assert "revise_routes" == newest["action"]
    assert "nothing to convert" in said


def test_least_confidences_are_fitted_and_applied(run: Run, tmp_path: Path) -> None:
    """After the conversion the settings use confidences, so these are fitted."""
    shown = output(run("calibrate", str(QUERIES), "--objective", "precision>=0.97", "--json"))
    run("calibrate", str(QUERIES), "--objective", "precision>=0.97", "--apply")
    curve = tmp_path / "curve.svg"
    figures = output(run("evaluate", str(QUERIES), "--svg", str(curve), "--json"))
    own = output(run("evaluate", "--json"))

    assert "confidence" == shown["by"] == figures["by"]
    answered = [each for each in figures["curve"] if each["coverage"] > 0]
    again = output(run("calibrate", str(QUERIES), "--objective", "precision>=0.97", "--json"))
    assert shown["default"]["after"] == again["default"]["before"]
    assert figures["calibration_error"]["mixed"] < 0.3
    assert answered
    assert "<svg" in curve.read_text(encoding="utf-8")
    assert own["count"] > 100
    run("calibrate", "--apply", code=ExitCode.USAGE)
    run("calibrate", str(QUERIES), "--max-error", "0.1", code=ExitCode.NO)
