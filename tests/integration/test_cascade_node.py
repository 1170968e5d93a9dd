"""Goal: the cascade over HTTP and at the command line, as an operator meets it.

Method: a real node process with the bundled model and a table in its cache folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest

from encoders import distilled, mixed_things, questions, things
from processes import NodeProcess
from synaptoroute.cascade import StaticTable, load_table, save_table, table_file
from synaptoroute.encoder import DEFAULT_MODEL, Encoder, table_files

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
WAIT_SECONDS = 60.0


@cache
def other_encoder() -> str:
    """Fingerprint of an encoder whose table does not ship: the bundled one in float32."""
    encoder = Encoder(precision="float32")
    encoder.close()
    return encoder.fingerprint


@pytest.fixture(name="cache")
def cache_folder(tmp_path: Path) -> Path:
    """A cache folder with a table of that encoder."""
    _, table = distilled()
    named = StaticTable(other_encoder(), table.rows)
    save_table(named, table_file(named.fingerprint, tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def node(tmp_path: Path, cache: Path) -> Iterator[NodeProcess]:
    settings = {"model": DEFAULT_MODEL, "model_cache_dir": str(cache)}
    started = NodeProcess(tmp_path / "node", settings)
    yield started
    started.end()


def fill(node: NodeProcess) -> None:
    routes = [route.model_dump(exclude={"vectors"}) for route in things()]
    lines = "\n".join(json.dumps(route) for route in routes)
    answer = httpx.post(
        f"{node.url}/v1/import",
        content=lines,
        headers={"content-type": "application/x-ndjson"},
        timeout=60,
    )
    assert answer.is_success, answer.text


def switch(node: NodeProcess, *, on: bool) -> None:
    settings = httpx.get(f"{node.url}/v1/settings").json()
    # The cascade is not offered with the adaptive score of new databases.
    judged = {"aggregation": "blend", "threshold": 0.49, "confidence_min": None}
    answer = httpx.put(f"{node.url}/v1/settings", json={**settings, **judged, "cascade": on})
    assert answer.is_success, answer.text


def cascade(node: NodeProcess, wanted: str) -> dict[str, Any]:
    give_up_at = time.monotonic() + WAIT_SECONDS
    while True:
        report: dict[str, Any] = httpx.get(f"{node.url}/v1/settings/cascade").json()
        if report["state"] == wanted:
            return report
        assert time.monotonic() < give_up_at, report
        time.sleep(0.1)


def ask(node: NodeProcess, text: str, **options: object) -> dict[str, Any]:
    answer = httpx.post(f"{node.url}/v1/query", json={"text": text, **options})
    assert answer.is_success, answer.text
    match: dict[str, Any] = answer.json()
    return match


def test_cascade_is_switched_on_over_http(node: NodeProcess) -> None:
    """From off to on by one setting; explanations, the hot path and the metrics follow."""
    node.start()
    switch(node, on=False)
    fill(node)
    assert "" == cascade(node, "off")["reason"]
    before = [ask(node, text) for text in questions()]
    switch(node, on=True)
    report = cascade(node, "on")
    after = [ask(node, text) for text in questions()]
    told = [ask(node, text, explain=True) for text in questions()]

    assert [match["route"] for match in before] == [match["route"] for match in after]
    assert {"static", "encoder"} == {match["stage"] for match in told}
    assert all("stage" not in match for match in (*before, *after))
    assert all(match["guard_margin"] is not None for match in told if match["stage"] == "static")
    assert report["agreement"] >= 0.99
    static = sum(match["stage"] == "static" for match in told)
    metrics = httpx.get(f"{node.url}/metrics").text
    assert f"synaptoroute_queries_static_total {2.0 * static}" in metrics
    assert 'synaptoroute_cascade_state{state="on"} 1.0' in metrics
    state = httpx.get(f"{node.url}/-/state").json()
    assert "on" == state["router"]["cascade"]["state"]
    assert 0 == node.stop()


@pytest.mark.timeout(240)
def test_cascade_follows_the_fit_and_outlives_a_kill(node: NodeProcess) -> None:
    """By the settings of a new database: nothing is switched on, the node does it all."""
    routes, asked = mixed_things()
    node.settings["fit_confidence"] = "true"
    node.start()
    body = "\n".join(json.dumps(route.model_dump(exclude={"vectors"})) for route in routes)
    headers = {"content-type": "application/x-ndjson"}
    httpx.post(f"{node.url}/v1/import", content=body, headers=headers, timeout=60)
    settings = httpx.get(f"{node.url}/v1/settings").json()
    give_up_at = time.monotonic() + 2 * WAIT_SECONDS  # fits have the lowest priority
    while httpx.get(f"{node.url}/v1/settings/calibration").json()["state"] != "fitted":
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    report = cascade(node, "on")
    before = [ask(node, text, explain=True) for text in asked]
    node.kill()
    node.start()
    again = cascade(node, "on")
    after = [ask(node, text, explain=True) for text in asked]

    assert ("adaptive", "auto") == (settings["aggregation"], settings["cascade"])
    assert report["confidence"]
    static = [match for match in before if match["stage"] == "static"]
    assert len(static) > len(asked) / 4
    assert all(match["confidence"] >= 0.5 for match in static)
    assert report["at"] == again["at"]
    assert before == after


def test_damaged_table_leaves_the_node_without_a_cascade(node: NodeProcess, cache: Path) -> None:
    """It starts, answers, and says what to do."""
    node.settings["encoder_precision"] = "float32"
    (file,) = (cache / "static").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    node.start()
    fill(node)
    switch(node, on=True)
    report = cascade(node, "no_table")

    assert "not_prepared" == report["reason"]
    assert "static_table_refused" in node.log_text()
    assert "flight" == ask(node, questions()[0])["route"]


def test_table_that_came_with_the_program_serves_where_none_was_prepared(
    tmp_path: Path, cache: Path
) -> None:
    """As in an image, whose own files nobody can write to."""
    shipped = tmp_path / "shipped"
    cache.rename(shipped)
    settings = {"model": DEFAULT_MODEL, "model_cache_dir": str(tmp_path / "empty")}
    settings |= {"encoder_precision": "float32", "table_dir": str(shipped)}
    node = NodeProcess(tmp_path / "node", settings)
    try:
        node.start()
        fill(node)
        switch(node, on=True)
        assert "on" == cascade(node, "on")["state"]
    finally:
        node.end()


def prepare(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("synaptoroute")), "model", "prepare", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)


def test_prepared_table_is_not_replaced(cache: Path) -> None:
    """The command verifies it and says which one it is."""
    (file,) = (cache / "static").iterdir()
    before = file.stat().st_mtime_ns

    options = ("--cache-dir", str(cache), "--json")
    done, bundled = prepare("--precision", "float32", *options), prepare(*options)

    assert 0 == done.returncode, done.stderr
    report = json.loads(done.stdout)
    assert not report["is_new"]
    assert str(file) == report["file"]
    assert before == file.stat().st_mtime_ns

    assert 0 == bundled.returncode, bundled.stderr
    shipped = json.loads(bundled.stdout)
    assert not shipped["is_new"]
    assert table_files.DISTILLED_TABLE.checksum == shipped["table"]
    assert [file] == list((cache / "static").iterdir())


def test_encoder_that_cannot_be_distilled_is_prepared_without_a_table(tmp_path: Path) -> None:
    """Its numbers are measured; the report says why it has no table."""
    done = prepare("test-hash-64", "--cache-dir", str(tmp_path))

    assert 0 == done.returncode, done.stderr
    assert "vocabulary" in done.stdout
    assert not list(tmp_path.rglob("*.table"))


@pytest.mark.accept
def test_whole_vocabulary_is_distilled_at_the_command_line(tmp_path: Path) -> None:
    """A damaged table is replaced by a whole one, without a network."""
    encoder, _ = distilled()
    file = table_file(other_encoder(), tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"damaged")

    done = prepare("--precision", "float32", "--cache-dir", str(tmp_path), "--json")
    table = load_table(file, other_encoder())

    assert 0 == done.returncode, done.stderr
    assert json.loads(done.stdout)["is_new"]
    assert table is not None
    assert encoder.vocabulary().count == len(table.rows)
    assert json.loads(done.stdout)["table"] == table.checksum
