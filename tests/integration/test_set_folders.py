"""Route folders against a real node: plans, exports, and the commands of the documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ports import free_port
from repository import ROOT
from synaptoroute.cli.app import app
from synaptoroute.cli.exit_codes import ExitCode
from synaptoroute.cli.processes import NodeProcess

pytestmark = pytest.mark.integration

EXAMPLE = ROOT / "examples/support"
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    folder = tmp_path_factory.mktemp("node")
    settings = {"database": str(folder / "node.sqlite")}
    process = NodeProcess(free_port(), settings, folder / "node.log")
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


@pytest.fixture
def run(node: NodeProcess) -> Run:
    """Runs a command against the node."""

    def invoke(*words: str | Path, code: int = ExitCode.DONE) -> Any:
        arguments = [str(word) for word in words]
        result = CliRunner().invoke(app, arguments, env={"SYNAPTOROUTE_URL": node.url})
        assert code == result.exit_code, result.output
        return result

    return invoke


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example folder, without tests."""
    copied = tmp_path / "support"
    shutil.copytree(EXAMPLE, copied)
    (copied / "tests.yaml").unlink()
    return copied


def bodies(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_example_folder_passes_its_checks(run: Run) -> None:
    """Without a node; its tests are asked with its settings."""
    run("routes", "lint", EXAMPLE, "--strict")
    report = json.loads(
        run("evaluate", "--routes", EXAMPLE, "--min-accuracy", "0.9", "--json").stdout
    )

    assert 16 == report["count"]
    assert "of 16" in run("evaluate", "--routes", EXAMPLE).stdout


def test_evaluation_takes_the_settings_of_the_folder(run: Run, tmp_path: Path) -> None:
    copied = tmp_path / "strict"
    shutil.copytree(EXAMPLE, copied)
    (copied / "settings.yaml").write_text("confidence_min: 1.0\n", encoding="utf-8")

    run("evaluate", "--routes", copied, "--min-accuracy", "0.9", code=ExitCode.NO)


def test_export_of_an_imported_folder_plans_nothing(run: Run, folder: Path, tmp_path: Path) -> None:
    """And a second export has the same bytes."""
    (folder / "settings.yaml").unlink()
    run("routes", "import", folder, "--replace")
    run("export", "--out", tmp_path / "one")
    run("export", "--out", tmp_path / "two")
    run("plan", tmp_path / "one", "--detailed-exitcode")
    run("plan", folder, "--detailed-exitcode")

    assert bodies(tmp_path / "one") == bodies(tmp_path / "two")
    assert bodies(folder).items() <= bodies(tmp_path / "one").items()


def test_export_is_the_same_after_detours(run: Run, folder: Path, tmp_path: Path) -> None:
    """Rows that were freed and taken again change the order in the node, not the files."""
    (folder / "settings.yaml").unlink()
    run("routes", "import", folder, "--replace")
    run("export", "--out", tmp_path / "one")
    run("routes", "rm", "refunds")
    run("routes", "put", "other", "-u", "something else")
    run("routes", "import", folder, "--replace")
    run("export", "--out", tmp_path / "two")

    assert bodies(tmp_path / "one") == bodies(tmp_path / "two")


def test_plan_shows_each_text_and_changes_nothing(run: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "settings.yaml").unlink()
    run("routes", "import", folder, "--replace")
    path = folder / "refunds.yaml"
    text = path.read_text(encoding="utf-8").replace(
        "- I want my money back\n", "- '```pay``` me'\n"
    )
    path.write_text(text, encoding="utf-8")
    (folder / "sign-in.yaml").unlink()
    comment = tmp_path / "plan.md"
    shown = run("plan", folder, "--prune", "--markdown", comment, "--detailed-exitcode", code=2)
    document = json.loads(run("plan", folder, "--json").stdout)

    for line in ("~ route refunds", "- route sign-in", '+     "```pay``` me"'):
        assert line in shown.stdout
    assert "````diff" in comment.read_text(encoding="utf-8")
    assert document["has_changes"]
    assert ["sign-in"] == document["sets"][0]["kept_routes"]
    (change,) = document["sets"][0]["routes"]
    assert (["```pay``` me"], ["I want my money back"]) == (
        change["utterances_added"],
        change["utterances_removed"],
    )
    revision = json.loads(run("routes", "show", "refunds", "--json").stdout)["revision"]
    assert revision == change["revision"]


def test_errors_of_a_plan_have_their_exit_codes(run: Run, folder: Path) -> None:
    """2 for a file, as everywhere; 1 with the codes of infrastructure tools."""
    (folder / "refunds.yaml").write_text("name: refunds\n", encoding="utf-8")
    shown = run("plan", folder, code=ExitCode.USAGE)
    run("plan", folder, "--detailed-exitcode", code=1)

    assert "invalid_route" in shown.stderr
    assert "refunds.yaml" in shown.stderr
