"""The watchdogs of conftest bite: without this they could be asleep and all be green."""

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


async def test_file_read_by_our_code_in_a_loop_is_caught(tmp_path: Path) -> None:
    """Our code may not read a file inside an event loop."""
    (tmp_path / "cpu.max").write_text("150000 100000")

    with pytest.raises(BlockingError):
        config._cgroup_quota_cpus(tmp_path)


async def test_blocking_call_of_the_test_itself_is_not_judged(tmp_path: Path) -> None:
    """Tests look at files and processes as they like."""
    (tmp_path / "file").write_text("text")
    time.sleep(0)

    assert (tmp_path / "file").read_text() == "text"


def test_outside_a_loop_our_code_may_block(tmp_path: Path) -> None:
    """A thread of its own may read files."""
    (tmp_path / "cpu.max").write_text("150000 100000")

    assert config._cgroup_quota_cpus(tmp_path) == 1.5


@pytest.mark.may_block
async def test_marked_test_may_block(tmp_path: Path) -> None:
    """The marker opts one test out."""
    (tmp_path / "cpu.max").write_text("max 100000")

    assert config._cgroup_quota_cpus(tmp_path) is None


def test_thread_that_lives_on_is_named() -> None:
    """A thread that waits for ever is found."""
    before, stop = set(threading.enumerate()), threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-behind")
    thread.start()
    found = left_running(before, grace_seconds=0.01)
    stop.set()
    thread.join()

    assert found == ["left-behind"]
    assert left_running(before, grace_seconds=0) == []


def test_missing_tool_skips_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without REQUIRE_ALL a test that lacks its tool is skipped."""
    monkeypatch.delenv("REQUIRE_ALL", raising=False)

    with pytest.raises(pytest.skip.Exception):
        needs.require("no-such-program")


def test_missing_tool_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """With REQUIRE_ALL=1 nothing is skipped for a missing tool."""
    monkeypatch.setenv("REQUIRE_ALL", "1")

    with pytest.raises(pytest.fail.Exception):
        needs.require("no-such-program")
