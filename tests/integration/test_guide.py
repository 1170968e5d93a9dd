"""The commands of the guide to changes of routes do what it says, against a real node."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import free_port
from repository import ROOT
from synaptoroute.cli.processes import NodeProcess

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

GUIDE = ROOT / "docs/change-routes-safely.md"
TOOLS = ("bash", "curl", "jq")


def commands() -> list[tuple[str, list[str]]]:
    """Each command of the guide, with the lines that it shows."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    settings = {"database": str(tmp_path / "node.sqlite")}
    process = NodeProcess(free_port(), settings, tmp_path / "node.log")
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")
def test_guide_does_what_it_says(node: NodeProcess, tmp_path: Path) -> None:
    """In order, in one folder; a command fails only where the guide shows an error."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/synaptoroute"
    start = "from synaptoroute.cli import main; main()"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{start}' \"$@\"\n")
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "SYNAPTOROUTE_URL": node.url,
    }
    outputs = []
    for command, shown in commands():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout + done.stderr
        is_refused = any("error:" in line for line in shown)
        assert is_refused == (done.returncode != 0), f"{command}\n{said}"
        for line in shown:
            assert line in said, f"{command}\n{said}"
        outputs.append(said)

    text = "\n".join(outputs)
    assert "1 broken" in text
    assert "support names support@2 since" in text
    assert "support names support@1 again" in text
    assert "2 tests" in outputs[-1]  # in both sets
