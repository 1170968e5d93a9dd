"""Route sets and aliases from the command line, against a real node process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ports import free_port
from synaptoroute.cli.app import app
from synaptoroute.cli.exit_codes import ExitCode
from synaptoroute.cli.processes import NodeProcess

pytestmark = pytest.mark.integration

Run = Callable[..., Any]
ROUTES = "routes:\n  - name: refund\n    utterances: [I want my money back, refund my order]\n"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node process without routes."""
    folder = tmp_path_factory.mktemp("node")
    process = NodeProcess(
        free_port(), {"database": str(folder / "node.sqlite")}, folder / "node.log"
    )
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


@pytest.fixture
def run(node: NodeProcess) -> Run:
    """Runs a command against the node."""

    def invoke(*words: str, code: int = ExitCode.DONE) -> Any:
        result = CliRunner().invoke(app, list(words), env={"SYNAPTOROUTE_URL": node.url})
        assert code == result.exit_code, result.output
        return result

    return invoke


def test_commands_work_in_a_set(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES)
    run("sets", "create", "support@1", "--limit", "routes_max=5", "--note", "the first draft")
    run("routes", "import", str(file), "--set", "support@1")
    run("sets", "fork", "support@1", "support@2")
    run("routes", "rm", "refund", "--set", "support@2")
    run("alias", "set", "support", "support@1", "--canary", "support@2", "--canary-share", "0.5")
    asked = ["query", "I want my money back", "--json"]
    by_alias = json.loads(run(*asked, "--set", "support").stdout)
    by_draft = json.loads(run(*asked, "--set", "support@2", code=ExitCode.NO).stdout)
    default = json.loads(run(*asked, code=ExitCode.NO).stdout)
    listed = json.loads(run("routes", "list", "--set", "support@1", "--json").stdout)
    sets = {each["name"]: each for each in json.loads(run("sets", "list", "--json").stdout)}
    shown = run("sets", "list").stdout
    aliases = run("alias", "list").stdout
    history = run("alias", "show", "support").stdout
    exported = run("routes", "export", "--set", "support@1").stdout

    assert "refund" in json.dumps(by_alias)
    assert "refund" not in json.dumps(by_draft)
    assert "refund" not in json.dumps(default)
    assert ["refund"] == [each["name"] for each in listed]
    assert 5 == sets["support@2"]["limits"]["routes_max"]
    assert ["support"] == sets["support@1"]["aliases"]
    assert "routes_max=5" in shown
    assert "support@2 at 0.5" in aliases
    assert "support@1" in history
    assert "refund" in exported


def test_malformed_name_of_a_set_is_refused_before_it_is_sent(run: Run) -> None:
    """A dot segment would lead to another set."""
    for name in ("..", ".", "a/b", "-x"):
        run("routes", "put", "stray", "-u", "stray", f"--set={name}", code=ExitCode.USAGE)
        run("sets", "create", "--", name, code=ExitCode.USAGE)

    assert "stray" not in run("routes", "list", "--json").stdout


def test_refusals_name_their_code(run: Run) -> None:
    run("sets", "create", "used")
    run("alias", "set", "live", "used")
    in_use = run("sets", "rm", "used", code=ExitCode.REFUSED)
    missing = run("routes", "list", "--set", "nowhere", code=ExitCode.REFUSED)
    usage = run("sets", "create", "x", "--limit", "routes_max", code=ExitCode.USAGE)
    run("alias", "rm", "live")
    run("sets", "rm", "used")

    assert "set_in_use" in in_use.stderr
    assert "set_not_found" in missing.stderr
    assert "--limit" in usage.stderr
