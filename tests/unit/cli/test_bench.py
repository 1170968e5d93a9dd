"""The loads of ``synaptoroute bench`` measure what they claim to measure."""

from __future__ import annotations

import asyncio
import time

import pytest

from synaptoroute.cli.commands import bench
from synaptoroute.cli.exit_codes import CheckFailed

pytestmark = pytest.mark.unit


async def test_closed_loop_keeps_every_client_busy_and_no_more() -> None:
    """As many queries are in flight as there are clients, and all texts are used."""
    in_flight, most, asked = 0, 0, set()

    async def ask(text: str) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        asked.add(text)
        await asyncio.sleep(0.001)
        in_flight -= 1

    found = await bench.closed_loop(ask, ["a", "b", "c"], 5, 0.1)

    assert (5, {"a", "b", "c"}) == (most, asked)
    assert found.answers > 5
    assert found.latency_ms["p50"] <= found.latency_ms["p99"] <= found.latency_ms["max"]
    assert found.latency_ms["p50"] >= 1.0
    assert {} == found.errors


async def test_open_loop_counts_from_the_time_a_query_was_due() -> None:
    """A router that stalls once delays every query that was due meanwhile."""
    is_first = True

    async def ask(text: str) -> None:
        nonlocal is_first
        if is_first:
            is_first = False
            stalled_until = time.perf_counter() + 0.3
            while time.perf_counter() < stalled_until:
                pass  # nothing else of this process moves

    found = await bench.open_loop(ask, ["a"], 100.0, 0.3)

    assert found.answers >= 10
    assert found.latency_ms["p50"] > 50.0


async def test_errors_are_counted_by_code() -> None:
    """An error is neither an answer nor the end of the run."""
    codes = iter(["overloaded", None] * 10_000)

    async def ask(text: str) -> str | None:
        return next(codes)

    found = await bench.closed_loop(ask, ["a"], 1, 0.1)

    assert {"overloaded"} == set(found.errors)
    assert abs(found.errors["overloaded"] - found.answers) <= 1


async def test_run_without_any_answer_fails() -> None:
    async def ask(text: str) -> str | None:
        return "ConnectError"

    with pytest.raises(CheckFailed, match="ConnectError"):
        await bench.measure(ask, ["a"], [1], None, 0.05)
