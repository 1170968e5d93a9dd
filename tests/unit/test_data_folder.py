"""Containers that share a volume each lock a folder of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from repository import ROOT

sys.path.insert(0, str(ROOT / "deploy"))
import data_folder

pytestmark = pytest.mark.unit

SCRIPT = ROOT / "deploy/data_folder.py"
WAIT = "import os, sys; print(os.environ['DATA_FOLDER'], flush=True); sys.stdin.read()"


@contextmanager
def holder(volume: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that runs under the script until it is killed, and the folder that it got."""
    with subprocess.Popen(
        [sys.executable, "-I", str(SCRIPT), sys.executable, "-c", WAIT],
        env={"DATA_VOLUME": str(volume), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_each_process_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    with holder(tmp_path) as (_, one), holder(tmp_path) as (_, other):
        assert {tmp_path / "node-1", tmp_path / "node-2"} == {one, other}


def test_folder_of_a_killed_process_is_taken_up(tmp_path: Path) -> None:
    """The lock goes with the process, also where it is inherited by the command."""
    with holder(tmp_path) as (process, first), holder(tmp_path):
        process.send_signal(signal.SIGKILL)
        process.wait()
        with holder(tmp_path) as (_, again):
            assert first == again


def test_folder_of_the_own_number_comes_first(tmp_path: Path) -> None:
    assert (4, tmp_path / "node-4") == data_folder.lock_folder(tmp_path, 4)
    assert (1, tmp_path / "node-1") == data_folder.lock_folder(tmp_path, 4)
    assert (2, tmp_path / "node-2") == data_folder.lock_folder(tmp_path, None)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("shop_node_3.shop_inside", 3),
        ("shop-node-12.shop_inside", 12),
        ("shop-node-12", 12),
        ("4f1c2d3e5a6b", None),
        ("node.example.org", None),
    ],
)
def test_number_is_read_from_the_name_on_the_network(
    name: str, number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_folder.socket, "gethostbyname", lambda _: "172.18.0.2")
    monkeypatch.setattr(data_folder.socket, "gethostbyaddr", lambda _: (name, [], []))

    assert number == data_folder.own_number()


def test_command_knows_its_database_and_its_name(tmp_path: Path) -> None:
    said = "import os; print(os.environ['SYNAPTOROUTE_DATABASE'], os.environ['{}'])"
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, sys.executable, "-c", said.format("SYNAPTOROUTE_NODE_NAME")],
        env={"DATA_VOLUME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    database, name = done.stdout.split()
    assert tmp_path / name / "synaptoroute.sqlite" == Path(database)
