"""Route folders against a real node: plans, exports, and the commands of the documents."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
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


# --- apply -------------------------------------------------------------------------------


@pytest.fixture
def empty(run: Run) -> None:
    """The node has no routes and no tests, whatever other tests left."""
    for each in json.loads(run("routes", "list", "--json").stdout):
        run("routes", "rm", each["name"])


def routes_of(run: Run) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(run("routes", "list", "--json").stdout)}


@pytest.mark.usefixtures("empty")
def test_applied_folder_has_nothing_left_to_do(run: Run, tmp_path: Path) -> None:
    """Routes, settings and tests; a second apply writes nothing, and the export is the folder."""
    (first,) = json.loads(run("apply", EXAMPLE, "--yes", "--json").stdout)["versions"]
    again = json.loads(run("apply", EXAMPLE, "--yes", "--json").stdout)
    run("plan", EXAMPLE, "--prune", "--detailed-exitcode")
    run("export", "--out", tmp_path / "exported")

    assert (False, []) == (again["has_changes"], again["versions"])
    assert {first} == {each["revision"] for each in routes_of(run).values()}
    exported = bodies(tmp_path / "exported")
    assert {name: body for name, body in bodies(EXAMPLE).items() if name != "settings.yaml"} == {
        name: body for name, body in exported.items() if name != "settings.yaml"
    }
    assert b"confidence_min: 0.45" in exported["settings.yaml"]


@pytest.mark.usefixtures("empty")
def test_nothing_is_deleted_without_prune(run: Run, folder: Path) -> None:
    run("routes", "put", "other", "-u", "something else")
    run("apply", folder, "--yes")
    assert "other" in routes_of(run)

    run("apply", folder, "--yes", "--prune")
    assert {"order-status", "refunds", "returns", "sign-in"} == routes_of(run).keys()


def test_dry_run_and_a_missing_answer_change_nothing(run: Run, folder: Path) -> None:
    run("apply", folder, "--yes")
    (folder / "new.yaml").write_text("name: new\nutterances: [a new text]\n", encoding="utf-8")
    shown = run("apply", folder, "--dry-run").stdout
    run("apply", folder, code=ExitCode.USAGE)

    assert "+ route new" in shown
    assert "new" not in routes_of(run)


def test_change_between_plan_and_answer_refuses_the_apply(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody writes while a person reads the plan: nothing of it is applied."""
    run("apply", folder, "--yes")
    (folder / "new.yaml").write_text("name: new\nutterances: [a new text]\n", encoding="utf-8")
    text = (folder / "refunds.yaml").read_text(encoding="utf-8")
    (folder / "refunds.yaml").write_text(text.replace("I want my", "I need my"), encoding="utf-8")

    def confirm() -> None:
        run("routes", "put", "refunds", "-u", "what somebody else wrote")

    monkeypatch.setattr("synaptoroute.cli.commands.apply._confirm", confirm)
    refused = run("apply", folder, code=ExitCode.REFUSED)

    assert "precondition_failed" in refused.stderr
    assert "'refunds' is at" in refused.stderr
    assert ["what somebody else wrote"] == routes_of(run)["refunds"]["utterances"]
    assert "new" not in routes_of(run)
    assert "[]" == run("imports", "list", "--json").stdout.strip()
    monkeypatch.undo()
    run("apply", folder, "--yes")


def test_note_is_in_the_history(run: Run, folder: Path) -> None:
    (folder / "noted.yaml").write_text("name: noted\nutterances: [noted]\n", encoding="utf-8")
    run("apply", folder, "--yes", "--note", "Für den Winter")
    (entry,) = json.loads(run("history", "noted", "--limit", "1", "--json").stdout)["entries"]

    assert ("commit_plan", "Für den Winter") == (entry["action"], entry["note"])
    run("apply", folder, "--yes", "--note", "two\nlines", code=ExitCode.USAGE)


# --- several sets ------------------------------------------------------------------------


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(body, encoding="utf-8")
    return folder


def test_folder_creates_its_set_with_limits(run: Run, node: NodeProcess, tmp_path: Path) -> None:
    """And changes only that set; the export of it plans nothing."""
    before = routes_of(run)
    folder = written(
        tmp_path / "winter",
        {
            "set.yaml": "name: winter@1\nlimits: {routes_max: 2}\n",
            "a.yaml": "name: refunds\nutterances: [a winter refund]\n",
            "settings.yaml": "topk: 5\n",
            "tests.yaml": "a refund in winter: refunds\n",
        },
    )
    assert "+ set winter@1" in run("plan", folder).stdout
    run("apply", folder, "--yes")
    run("plan", folder, "--detailed-exitcode")
    shown = httpx.get(f"{node.url}/v1/sets/winter@1").json()
    run("export", "--set", "winter@1", "--out", tmp_path / "exported")
    run("plan", tmp_path / "exported", "--prune", "--detailed-exitcode")

    assert (1, 2) == (shown["routes"], shown["limits"]["routes_max"])
    assert before == routes_of(run)
    settings = httpx.get(f"{node.url}/v1/sets/winter@1/settings").json()
    assert (5, "adaptive") == (settings["topk"], settings["aggregation"])

    written(
        folder, {"b.yaml": "name: b\nutterances: [b]\n", "c.yaml": "name: c\nutterances: [c]\n"}
    )
    refused = run("apply", folder, "--yes", code=ExitCode.REFUSED)
    assert "limit_exceeded" in refused.stderr
    assert 1 == httpx.get(f"{node.url}/v1/sets/winter@1").json()["routes"]
    written(folder, {"set.yaml": "name: winter@1\nlimits: {routes_max: 3}\n"})
    assert "~ limit routes_max: 2 → 3" in run("apply", folder, "--yes").stdout
    assert 3 == httpx.get(f"{node.url}/v1/sets/winter@1").json()["routes"]


def test_folder_of_several_sets_with_aliases(run: Run, node: NodeProcess, tmp_path: Path) -> None:
    folder = written(
        tmp_path / "sets",
        {
            "one/a.yaml": "name: a\nutterances: [the first]\n",
            "two/a.yaml": "name: a\nutterances: [the second]\n",
            "aliases.yaml": "desk: {set: one, shadow: two, shadow_share: 0.5}\n",
        },
    )
    run("apply", folder, "--yes")
    run("plan", folder, "--detailed-exitcode")
    alias = httpx.get(f"{node.url}/v1/aliases/desk").json()
    assert ("one", "two", 0.5) == (alias["set"], alias["shadow"], alias["shadow_share"])

    written(
        folder, {"aliases.yaml": "desk: {set: two}\n", "one/a.yaml": "name: a\nutterances: [x]\n"}
    )
    shown = run("plan", folder, "--detailed-exitcode", code=2).stdout
    assert "~ alias desk: one, shadow two at 0.5 → two" in shown
    assert "two" not in run("plan", folder, "--set", "one").stdout
    run("apply", folder, "--yes")
    assert "two" == httpx.get(f"{node.url}/v1/aliases/desk").json()["set"]
    run("plan", folder, "--set", "three", code=ExitCode.USAGE)

    written(
        folder, {"aliases.yaml": "desk: {set: ghost}\n", "two/b.yaml": "name: b\nutterances: [x]\n"}
    )
    assert "set_not_found" in run("apply", folder, "--yes", code=ExitCode.REFUSED).stderr
    assert 1 == httpx.get(f"{node.url}/v1/sets/two").json()["routes"]


def test_archive_moves_sets_with_everything(run: Run, node: NodeProcess, tmp_path: Path) -> None:
    """Routes, settings, tests, limits and aliases; equal sets give equal bytes."""
    folder = written(
        tmp_path / "sets",
        {
            "moved/set.yaml": "limits: {utterances_max: 50}\n",
            "moved/a.yaml": "name: a\nutterances: [the first]\npayload: {n: 1.0}\n",
            "moved/settings.yaml": "confidence_min: 0.7\n",
            "moved/tests.yaml": "a test: a\nno route: null\n",
            "aliases.yaml": "moving: {set: moved}\n",
        },
    )
    run("apply", folder, "--yes")
    first, second = tmp_path / "one.tar", tmp_path / "two.tar"
    run("sets", "export", "moved", "--out", first)
    for path in ("/v1/aliases/moving", "/v1/sets/moved"):
        assert 200 == httpx.delete(f"{node.url}{path}").status_code
    run("plan", first, "--detailed-exitcode", code=2)
    run("sets", "import", first, "--note", "moved here")
    run("sets", "export", "moved", "--out", second)

    assert first.read_bytes() == second.read_bytes()
    run("plan", folder, "--prune", "--detailed-exitcode")
    assert "set_exists" in run("sets", "import", first, code=ExitCode.REFUSED).stderr
    run("sets", "import", first, "--replace")
    run("sets", "import", first, "--as", "copied")
    assert 1 == httpx.get(f"{node.url}/v1/sets/copied").json()["routes"]
    run("sets", "export", "ghost", "--out", tmp_path / "x.tar", code=ExitCode.REFUSED)


def large_folder(tmp_path: Path, routes: int) -> Path:
    """A folder whose texts take seconds to encode."""
    out = tmp_path / "large"
    out.mkdir()
    for number in range(routes):
        texts = [f"a text of route {number} with the number {each}" for each in range(60)]
        body = json.dumps({"name": f"r{number}", "utterances": texts})
        (out / f"r{number}.yaml").write_text(body, encoding="utf-8")
    return out


def test_killed_apply_changes_all_or_nothing(run: Run, node: NodeProcess, tmp_path: Path) -> None:
    """The command dies by -9 while its texts are encoded.

    A node that has the whole request goes on with it.
    """
    large = large_folder(tmp_path, 20)
    before = routes_of(run)
    program = "from synaptoroute.cli import main; main()"
    command = [sys.executable, "-c", program, "apply", str(large), "--yes", "--url", node.url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while "[]" == run("imports", "list", "--json").stdout.strip():
            assert time.monotonic() < deadline, "the apply did not begin"
            assert process.poll() is None, "the apply ended"
            time.sleep(0.02)
        process.kill()
    assert len(routes_of(run).keys() - before.keys()) in (0, 20)
    while "[]" != run("imports", "list", "--json").stdout.strip():
        assert time.monotonic() < deadline, "the import stays open"
        time.sleep(0.1)
    assert len(routes_of(run).keys() - before.keys()) in (0, 20)

    run("apply", large, "--yes")
    assert 20 == len(routes_of(run).keys() - before.keys())
    run("plan", large, "--detailed-exitcode")


def test_node_that_is_killed_during_an_apply_has_all_of_it_or_nothing(tmp_path: Path) -> None:
    large = large_folder(tmp_path, 20)
    settings = {"database": str(tmp_path / "node.sqlite")}
    node = NodeProcess(free_port(), settings, tmp_path / "node.log")
    node.start()
    node.wait_ready()
    program = "from synaptoroute.cli import main; main()"
    command = [sys.executable, "-c", program, "apply", str(large), "--yes", "--url", node.url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not httpx.get(f"{node.url}/v1/imports").json()["imports"]:
            assert time.monotonic() < deadline, "the apply did not begin"
            time.sleep(0.02)
        os.kill(node.pid, signal.SIGKILL)
        process.kill()
        while node.is_running:
            time.sleep(0.02)
    node.start()
    try:
        node.wait_ready()
        assert [] == httpx.get(f"{node.url}/v1/routes").json()["routes"]
        result = CliRunner().invoke(app, ["apply", str(large), "--yes", "--url", node.url])
        assert ExitCode.DONE == result.exit_code, result.output
        assert 20 == len(httpx.get(f"{node.url}/v1/routes").json()["routes"])
    finally:
        node.stop()
