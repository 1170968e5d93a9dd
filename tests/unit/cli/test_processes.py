"""No process outlives the command that started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from synaptoroute.cli.exit_codes import NodeUnreachable
from synaptoroute.cli.processes import NodeProcess, free_port, is_port_free, stop_all

pytestmark = pytest.mark.unit

GRACE_SECONDS = 20.0


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(fact: object) -> bool:
    """Wait until a fact holds."""
    assert callable(fact)
    give_up_at = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < give_up_at:
        if fact():
            return True
        time.sleep(0.02)
    return False


def test_free_port_is_free() -> None:
    """A port with a listener is not."""
    port = free_port()

    assert is_port_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not is_port_free(port)


def test_failed_start_quotes_the_log(tmp_path: Path) -> None:
    """The last error of the log is in the message."""
    node = NodeProcess(free_port(), {"port": "70000"}, tmp_path / "node.log")
    node.start()
    with pytest.raises(NodeUnreachable, match="SYNAPTOROUTE_PORT"):
        node.wait_ready()

    assert node.exit_code == 2


def test_node_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    node = NodeProcess(free_port(), {}, tmp_path / "node.log")
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "sys.stdout.write('deaf\\n'); sys.stdout.flush(); time.sleep(600)"
    )
    with (tmp_path / "node.log").open("wb") as log:
        node._process = subprocess.Popen([sys.executable, "-c", program], stdout=log)
    assert wait_for(lambda: (tmp_path / "node.log").read_bytes() == b"deaf\n")

    assert node.stop(0.2) == -signal.SIGKILL


def test_nodes_are_stopped_in_parallel(tmp_path: Path) -> None:
    """All are signalled before the first is waited for; those never started are skipped."""
    nodes = [NodeProcess(free_port(), {}, tmp_path / f"{index}.log") for index in range(3)]
    for node in nodes[:2]:
        node._process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    stop_all(nodes)

    assert [node.exit_code for node in nodes] == [-signal.SIGTERM, -signal.SIGTERM, None]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of the end")
def test_child_ends_with_a_killed_parent(tmp_path: Path) -> None:
    """A parent that is killed cannot stop its children; the kernel does."""
    written = tmp_path / "child"
    child = (
        "import os, sys, time; from synaptoroute.cli.child import follow_parent\n"
        "assert follow_parent(int(sys.argv[1]))\n"
        f"open({str(written)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())]).wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    assert wait_for(lambda: written.exists() and written.read_text())
    child_id = int(written.read_text())
    process.kill()
    process.wait()

    assert wait_for(lambda: not is_alive(child_id))


def test_child_of_an_ended_parent_does_not_start() -> None:
    """The parent ended before the child could ask for its signal."""
    command = [sys.executable, "-m", "synaptoroute.cli.child", str(os.getppid()), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == ""
