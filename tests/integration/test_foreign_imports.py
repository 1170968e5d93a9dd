"""Files of other programs, imported by the command line into a real node process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from foreign_files import FOREIGN_FILES, write_foreign_file
from ports import free_port
from synaptoroute.cli.app import app
from synaptoroute.cli.client import NodeClient
from synaptoroute.cli.commands import imports
from synaptoroute.cli.exit_codes import ExitCode
from synaptoroute.cli.processes import NodeProcess
from synaptoroute.cli.route_files import read_route_file

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node process without routes."""
    folder = tmp_path_factory.mktemp("node")
    settings = {"database": str(folder / "node.sqlite"), "model": "test-hash-64"}
    process = NodeProcess(free_port(), settings, folder / "node.log")
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def run(node: NodeProcess, *words: str, code: int = ExitCode.DONE) -> str:
    result = CliRunner().invoke(app, list(words), env={"SYNAPTOROUTE_URL": node.url})
    assert code == result.exit_code, result.output
    return result.stdout


def plan(node: NodeProcess, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(node, "routes", "import", *words, "--dry-run", "--json"))
    return found


def held(node: NodeProcess) -> dict[str, int]:
    routes = httpx.get(f"{node.url}/v1/routes", params={"limit": 500}).json()["routes"]
    return {each["name"]: len(each["utterances"]) for each in routes}


@pytest.mark.parametrize("name", FOREIGN_FILES)
def test_foreign_file_is_imported_with_the_right_counts(
    node: NodeProcess, tmp_path: Path, name: str
) -> None:
    """The dry run says what the import does then, and a second dry run finds nothing to do."""
    file_format, _, expected = FOREIGN_FILES[name]
    path = str(write_foreign_file(tmp_path, name))
    before = held(node)
    planned = plan(node, path, "--replace")
    assert (file_format, before) == (planned["format"], held(node))
    assert sorted(expected) == sorted([*planned["created"], *planned["unchanged"]])
    assert sorted(set(before) - set(expected)) == planned["removed"]
    offline = plan(node, path, "--offline", "--url", "http://127.0.0.1:9")
    assert (sorted(expected), []) == (offline["created"], offline["removed"])

    run(node, "routes", "import", path, "--replace")
    assert expected == held(node)
    again = plan(node, path, "--replace")
    assert (sorted(expected), []) == (again["unchanged"], again["created"] + again["changed"])


def test_changes_names_and_refusals_are_shown(node: NodeProcess, tmp_path: Path) -> None:
    run(node, "routes", "import", str(write_foreign_file(tmp_path, "nlu.yml")), "--replace")
    path = tmp_path / "es.yaml"
    path.write_text("- name: greet\n  utterances: [hello, 'good evening']\n", encoding="utf-8")
    planned = plan(node, str(path))
    assert [{"route": "greet", "what": "utterances +1 −2"}] == planned["changed"]
    planned = plan(node, str(write_foreign_file(tmp_path, "es.zip")))
    assert [{"from": "Hello & Welcome", "to": "Hello _ Welcome"}] == planned["renamed"]
    refused = {each["route"]: each["why"] for each in planned["refused"]}
    assert {"Default Fallback Intent", "Event only"} == set(refused)
    assert any("template mode" in warning for warning in planned["warnings"])
    shown = run(node, "routes", "import", str(tmp_path / "es.zip"), "--dry-run")
    assert "renamed 1, refused 2" in shown


def test_import_reports_each_changed_name(node: NodeProcess, tmp_path: Path) -> None:
    path = write_foreign_file(tmp_path, "nlu.yml")
    result = CliRunner().invoke(
        app, ["routes", "import", str(path)], env={"SYNAPTOROUTE_URL": node.url}
    )
    assert "'faq/opening hours' is now 'faq_opening hours'" in result.stderr
    assert "read as a rasa file" in result.stderr


def test_names_of_all_scripts_work_in_every_command(node: NodeProcess, tmp_path: Path) -> None:
    run(node, "routes", "put", "退款", "-u", "我要退款")
    shown: dict[str, Any] = json.loads(run(node, "routes", "show", "退款", "--json"))
    assert ["我要退款"] == shown["utterances"]
    answer: Any = json.loads(run(node, "query", "我要退款", "--routes", "退款", "--json"))
    assert "退款" in json.dumps(answer, ensure_ascii=False)
    assert "退款" in run(node, "routes", "list")
    exported = tmp_path / "out.yaml"
    run(node, "routes", "export", str(exported))
    assert "退款" in exported.read_text(encoding="utf-8")
    labelled = tmp_path / "labels.csv"
    labelled.write_text("text,route\n我要退款,退款\n", encoding="utf-8")
    run(node, "evaluate", str(labelled))
    run(node, "routes", "rm", "退款")
    run(node, "routes", "show", "退款", code=ExitCode.REFUSED)


@pytest.mark.parametrize("name", ["bad/name", "-x", "a ", "a\u200db", "👍"])
def test_malformed_name_is_refused_before_it_is_a_path(node: NodeProcess, name: str) -> None:
    for words in (["put", name, "-u", "x"], ["show", name], ["rm", name]):
        options = ["--", *words[1:]] if words[0] != "put" else ["-u", "x", "--", name]
        result = CliRunner().invoke(
            app, ["routes", words[0], *options], env={"SYNAPTOROUTE_URL": node.url}
        )
        assert ExitCode.USAGE == result.exit_code
        assert "invalid_route: the name" in result.stderr


def test_converted_file_is_read_again(tmp_path: Path) -> None:
    source = write_foreign_file(tmp_path, "cx.zip")
    wanted = FOREIGN_FILES["cx.zip"][2]
    for target, options in (
        ("a.yaml", ()),
        ("a.json", ()),
        ("a.ndjson", ()),
        ("a.csv", ()),
        ("a.jsonl", ()),
        ("b.yaml", ("--to", "semantic-router")),
    ):
        words = ["routes", "convert", str(source), str(tmp_path / target), *options]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        offline = [str(tmp_path / target), "--dry-run", "--offline", "--json"]
        found = json.loads(CliRunner().invoke(app, ["routes", "import", *offline]).stdout)
        assert sorted(wanted) == found["created"], target


def test_dry_run_shows_what_the_log_cannot_hold_yet(node: NodeProcess, tmp_path: Path) -> None:
    """As in a cluster that was upgraded and is not finalized."""

    class Upgraded(NodeClient):
        def post(self, path: str, document: Any, **options: Any) -> Any:
            assert (path, document) == ("/v1/cluster/finalize", {"apply": False})
            return {**super().post(path, document, **options), "level": 3}

    run(node, "routes", "put", "kept", "-u", "hello")
    routes = read_route_file(write_foreign_file(tmp_path, "router.json")).routes
    with NodeClient(node.url) as client:
        assert [] == imports._refusals(client, routes)
    with Upgraded(node.url) as client:
        refused = imports._refusals(client, routes)
    assert {"退款", "物流"} == {each["route"] for each in refused}
    assert all("cluster finalize" in each["why"] for each in refused)
