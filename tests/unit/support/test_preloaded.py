"""Processes that are forked from a preloaded interpreter behave as new ones do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

import preloaded

SHOW = """
import json, os, sys, warnings
try:
    warnings.warn("no matter")
    is_strict = False
except UserWarning:
    is_strict = True
shown = {
    "parent": os.getppid(),
    "group": os.getpgid(0),
    "variable": os.environ.get("SHOWN"),
    "inherited": os.environ.get("HOME"),
    "arguments": sys.argv,
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:3],
    "hash": hash("text"),
    "is_loaded": "synaptoroute.server.process" in sys.modules,
    "is_strict": is_strict,
}
print(json.dumps(shown))
sys.exit(7)
"""


def run(program: str, *words: str, strict: bool = True, **options: Any) -> subprocess.Popen[bytes]:
    return preloaded.start(
        [sys.executable, *(("-W", "error") if strict else ()), "-c", program, *words],
        env={"SHOWN": "yes", **{k: v for k, v in os.environ.items() if k.startswith("PYTHON")}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **options,
    )


def finished(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    with process.stdout as stream:
        return stream.read()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start new interpreters")
def test_forked_process_has_what_a_new_one_has() -> None:
    strict = run(SHOW, "a", "b", process_group=0)
    processes = [strict, run(SHOW, "a", "b", strict=False, process_group=0)]
    shown = [json.loads(finished(each)) for each in processes]
    codes = [each.wait(10) for each in processes]

    assert [7, 7] == codes
    for process, found in zip(processes, shown, strict=True):
        assert os.getpid() == found["parent"]
        assert process.pid == found["group"]
        assert "yes" == found["variable"]
        assert found["inherited"] is None
        assert ["-c", "a", "b"] == found["arguments"]
        assert ["0", "1", "2"] == found["descriptors"]
        assert found["is_loaded"]
    assert [True, False] == [found["is_strict"] for found in shown]
    if "PYTHONHASHSEED" not in os.environ:
        assert 2 == len({found["hash"] for found in shown})


def test_signals_end_a_forked_process() -> None:
    process = run("import time; print('on', flush=True); time.sleep(600)")
    assert process.stdout is not None
    assert b"on\n" == process.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    assert process.poll() is None
    process.terminate()

    assert -signal.SIGTERM == process.wait(10)
    assert -signal.SIGTERM == process.poll()
    process.kill()
    process.stdout.close()
