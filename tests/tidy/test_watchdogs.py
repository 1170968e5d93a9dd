"""The checks in conftest.py detect what they are for."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from blockbuster import BlockingError

import needs
from synaptoroute import config
from watchdogs import left_running

pytestmark = pytest.mark.tidy


async def test_blocking_read_in_the_event_loop_fails(tmp_path: Path) -> None:
    """Our code may not read a file inside an event loop."""
    (tmp_path / "cpu.max").write_text("150000 100000")

    with pytest.raises(BlockingError):
        config._cgroup_quota_cpus(tmp_path)


async def test_blocking_call_in_test_code_is_allowed(tmp_path: Path) -> None:
    """Only code of the project is watched."""
    (tmp_path / "file").write_text("text")
    time.sleep(0)

    assert (tmp_path / "file").read_text() == "text"


def test_blocking_call_outside_the_event_loop_is_allowed(tmp_path: Path) -> None:
    """Other threads may read files."""
    (tmp_path / "cpu.max").write_text("150000 100000")

    assert config._cgroup_quota_cpus(tmp_path) == 1.5


@pytest.mark.may_block
async def test_marked_test_may_block(tmp_path: Path) -> None:
    """The marker `may_block` allows it for one test."""
    (tmp_path / "cpu.max").write_text("max 100000")

    assert config._cgroup_quota_cpus(tmp_path) is None


def test_leaked_thread_is_reported() -> None:
    """A thread that outlives its test fails the test."""
    before, stop = set(threading.enumerate()), threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-behind")
    thread.start()
    found = left_running(before, grace_seconds=0.01)
    stop.set()
    thread.join()

    assert found == ["left-behind"]
    assert left_running(before, grace_seconds=0) == []


def test_missing_tool_skips_without_require_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without REQUIRE_ALL a test that lacks its tool is skipped."""
    monkeypatch.delenv("REQUIRE_ALL", raising=False)

    with pytest.raises(pytest.skip.Exception):
        needs.require("no-such-program")


def test_missing_tool_fails_with_require_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With REQUIRE_ALL=1 nothing is skipped for a missing tool."""
    monkeypatch.setenv("REQUIRE_ALL", "1")

    with pytest.raises(pytest.fail.Exception):
        needs.require("no-such-program")
