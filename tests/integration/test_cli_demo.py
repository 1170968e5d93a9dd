"""Commands that start a node stop it, however they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repository import QUERIES, ROOT
from synaptoroute.cli.exit_codes import ExitCode
from synaptoroute.importers import read_labels

pytestmark = pytest.mark.integration

PROGRAM = "from synaptoroute.cli import main; main()"
# A child inherits that its parent ignores Ctrl-C, and tests may run in the background.
SIGNALS = "import signal; signal.signal(signal.SIGINT, signal.{}); "
COMMAND = (sys.executable, "-c", SIGNALS.format("default_int_handler") + PROGRAM)
COMMAND_IN_BACKGROUND = (sys.executable, "-c", SIGNALS.format("SIG_IGN") + PROGRAM)
WAIT_SECONDS_MAX = 40.0


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for(fact: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds and return its value."""
    give_up_at = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < give_up_at:
        if found := fact():
            return found
        time.sleep(0.05)
    pytest.fail(f"{what}: not within {WAIT_SECONDS_MAX} seconds")


def test_demo_once_prints_answers_and_exits(tmp_path: Path) -> None:
    """Exit code 0, a table, and no process left."""
    words = (*COMMAND, "demo", "--once", "--port", "0", "--data", str(tmp_path))
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 0, done.stderr
    assert "order-status" in done.stdout
    assert "/v1/query" in done.stdout
    assert (tmp_path / "demo.sqlite").exists()


def test_demo_with_wrong_answers_exits_with_1(tmp_path: Path) -> None:
    """The routes do not fit the queries."""
    routes = tmp_path / "r.json"
    names = {each.route or "-" for each in read_labels("q.txt", QUERIES.read_bytes())}
    routes.write_text(
        json.dumps([{"name": n, "utterances": [f"zebra {n}"]} for n in sorted(names - {"-"})]),
        encoding="utf-8",
    )
    words = (*COMMAND, "demo", "--once", "--port", "0", "--data", str(tmp_path), "--routes",
             str(routes))  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == ExitCode.NO, done.stderr
    assert "check_failed" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signal_stops_demo_and_its_node(tmp_path: Path, number: signal.Signals) -> None:
    """On Ctrl-C and SIGTERM the node drains and both processes end."""
    words = (*COMMAND, "demo", "--port", "0", "--data", str(tmp_path))
    with (tmp_path / "out").open("wb") as out:
        demo = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        wait_for(lambda: b"Ctrl-C to stop" in (tmp_path / "out").read_bytes(), "the demo serves")
        (node_id,) = children_of(demo.pid)
        demo.send_signal(number)

        assert demo.wait(WAIT_SECONDS_MAX) == 0
        assert not Path(f"/proc/{node_id}").exists()
        assert "stopped" in (tmp_path / "demo.log").read_text()
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()


def test_demo_in_the_background_ignores_ctrl_c(tmp_path: Path) -> None:
    """A script starts its background jobs with SIGINT ignored; SIGTERM stops them."""
    words = (*COMMAND_IN_BACKGROUND, "demo", "--port", "0", "--data", str(tmp_path))
    with (tmp_path / "out").open("wb") as out:
        demo = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        wait_for(lambda: b"Ctrl-C to stop" in (tmp_path / "out").read_bytes(), "the demo serves")
        demo.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            demo.wait(1.0)
        demo.send_signal(signal.SIGTERM)

        assert demo.wait(WAIT_SECONDS_MAX) == 0
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()


def test_node_ends_with_a_killed_demo(tmp_path: Path) -> None:
    """kill -9 of the parent leaves no node behind."""
    words = (*COMMAND, "demo", "--port", "0", "--data", str(tmp_path))
    with (tmp_path / "out").open("wb") as out:
        demo = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)
    wait_for(lambda: b"Ctrl-C to stop" in (tmp_path / "out").read_bytes(), "the demo serves")
    (node_id,) = children_of(demo.pid)
    demo.kill()
    demo.wait()

    assert wait_for(lambda: "stopped" in (tmp_path / "demo.log").read_text(), "the node drains")
    assert wait_for(lambda: not Path(f"/proc/{node_id}").exists(), "the node ends")


def test_node_that_cannot_start_exits_with_3(tmp_path: Path) -> None:
    """The error names the log."""
    environment = {**os.environ, "SYNAPTOROUTE_MODEL": str(tmp_path / "absent")}
    words = (*COMMAND, "serve", "--port", "0", "--database", str(tmp_path / "x.sqlite"))
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)

    assert done.returncode == ExitCode.UNREACHABLE
    assert "model_not_found" in done.stderr
    assert "Traceback" not in done.stderr
