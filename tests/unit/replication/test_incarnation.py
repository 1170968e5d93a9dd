"""Goal: one identity is one run.  Method: two runs on rows in memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redis_logs import report
from synaptoroute.config import ClusterConfig
from synaptoroute.core.mutation import Position
from synaptoroute.errors import ConfigError
from synaptoroute.replication import incarnation as module
from synaptoroute.replication.incarnation import (
    Incarnation,
    is_process_gone,
    open_identity,
    process_name,
)
from synaptoroute.sequencer.node_rows import NodeReport, NodeRows, dump_node_report
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

pytestmark = [pytest.mark.unit, pytest.mark.may_block]
SECRET = ClusterSecret("default", {"a": b"s" * 32})
VERIFIER = Verifier(SECRET)
SIGNER = Signer("n1", NodeIdentity.generate(), SECRET)
URL = "http://n1"


class Rows:
    """The part of presence that a run uses, in memory."""

    def __init__(self) -> None:
        self.rows = NodeRows(VERIFIER, SECRET)
        self.row, self.age_ms, self.now_ms = b"", 0, 1_800_000_000_000
        self.claims: list[str] = []

    async def row_of(self, node_id: str) -> tuple[bytes, int, int]:
        return self.row, self.age_ms, self.now_ms

    async def claim(self, node_id: str, text: str, kept_ms: int) -> None:
        self.claims.append(text)


def run_of(rows: Rows, answers: dict[str, str] | None = None) -> Incarnation:
    """A run; ``answers`` says which run answers at an address."""

    async def ask(url: str, public_key: str) -> str:
        return (answers or {}).get(url, "")

    return Incarnation(SIGNER, VERIFIER, rows, ask)  # type: ignore[arg-type]


def said(run: Incarnation, rows: Rows, **changes: Any) -> NodeReport:
    """The next report of a run."""
    fields = {
        "boot": run.boot,
        "counter": run.next_counter(),
        "time_ms": rows.now_ms,
        "process": "elsewhere:1:1",
        "url": URL,
    }
    return report("n1", Position(1, 1, "a" * 40), **(fields | changes))


def tell(run: Incarnation, rows: Rows, signer: Signer = SIGNER, **changes: Any) -> bytes:
    """Write the report of a run; return the row before."""
    before, rows.row = rows.row, dump_node_report(said(run, rows, **changes), signer)
    return before


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch rows without waiting long."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)


async def test_first_run_takes_its_identity() -> None:
    assert await run_of(Rows()).claim(URL)


async def test_second_run_is_refused_while_the_first_answers_at_its_address() -> None:
    rows = Rows()
    first = run_of(rows)
    tell(first, rows)
    second = run_of(rows, {URL: first.boot})
    assert not await second.claim("http://copy")
    for text in (first.boot, second.boot, URL, "http://copy"):
        assert text in second.conflict
    # The first learns of it by what the second has left.
    assert first.check(b"", rows.claims[0].encode())
    for text in (first.boot, second.boot, "http://copy"):
        assert text in first.conflict
    assert first.check(b"", b"")
    assert not first.conflict


async def test_second_run_is_refused_while_the_counter_advances() -> None:
    rows = Rows()
    first, second = run_of(rows), run_of(rows)
    tell(first, rows)
    claiming = asyncio.create_task(second.claim("http://copy"))
    await asyncio.sleep(0.02)
    tell(first, rows)
    assert not await claiming


@pytest.mark.parametrize(
    "changes", [{"is_ended": True}, {"process": process_name().rpartition(":")[0] + ":0"}]
)
async def test_run_that_ended_is_not_waited_for(changes: dict[str, Any]) -> None:
    rows = Rows()
    tell(run_of(rows), rows, **changes)
    async with asyncio.timeout(1):
        assert await run_of(rows).claim(URL)


async def test_run_at_the_address_of_the_former_one_is_not_delayed() -> None:
    rows = Rows()
    tell(run_of(rows), rows)
    answers: dict[str, str] = {}
    second = run_of(rows, answers)
    answers[URL] = second.boot
    async with asyncio.timeout(1):
        assert await second.claim(URL)


async def test_row_without_a_recent_heartbeat_is_of_a_dead_run() -> None:
    rows = Rows()
    tell(run_of(rows), rows)
    rows.age_ms = 6_000
    async with asyncio.timeout(1):
        assert await run_of(rows).claim(URL)


async def test_rows_of_strangers_and_older_releases_refuse_nobody() -> None:
    stranger = Signer("n1", NodeIdentity.generate(), ClusterSecret("default"))
    for row in (
        dump_node_report(report("n1", Position())),
        dump_node_report(said(run_of(Rows()), Rows()), stranger),
        b"junk",
    ):
        rows = Rows()
        rows.row = row
        async with asyncio.timeout(1):
            assert await run_of(rows).claim(URL)


async def test_earlier_run_stops_when_a_later_one_has_its_identity() -> None:
    """The first was cut off for so long that the second took it for dead."""
    rows = Rows()
    first, second = run_of(rows), run_of(rows)
    first.boot, second.boot = "1-first", "2-second"
    assert await first.claim(URL)
    tell(first, rows)
    rows.age_ms = 6_000
    assert await second.claim("http://copy")
    rows.age_ms = 0
    assert second.check(tell(second, rows), b""), "the row of the dead run is no conflict"
    assert not first.check(tell(first, rows), b"")
    assert not first.is_claimed
    assert second.check(tell(second, rows), b"")
    assert second.conflict


async def test_old_row_that_is_put_back_stops_nobody() -> None:
    rows = Rows()
    old = run_of(rows)
    old.boot = "9999999999999-future"  # of a time when the clock of this host was wrong
    tell(old, rows)
    genuine = rows.row
    rows.row, rows.now_ms = b"", rows.now_ms + 60_000
    run = run_of(rows)
    assert await run.claim(URL)
    tell(run, rows)
    rows.row = genuine
    assert run.check(tell(run, rows), b"")
    assert not run.conflict


def test_process_that_ended_is_gone() -> None:
    name = process_name()
    assert not is_process_gone(name)
    assert not is_process_gone("")
    assert not is_process_gone("another-host:1:1")
    host = name.partition(":")[0]
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert is_process_gone(f"{host}:{process.pid}:123")


def test_reports_are_numbered() -> None:
    run = run_of(Rows())
    assert [run.next_counter(), run.next_counter()] == [1, 2]
    assert replace(said(run, Rows())).counter == 3


def test_key_that_cannot_be_kept_is_of_this_run_only(tmp_path: Path) -> None:
    """The folder of the database is gone, as on a full disk nothing can be written there."""
    database = str(tmp_path / "gone" / "node.sqlite")
    first, second = (open_identity(ClusterConfig(), database) for _ in range(2))
    assert first.public_key != second.public_key


def test_key_of_a_node_is_kept_beside_its_database(tmp_path: Path) -> None:
    database = str(tmp_path / "node.sqlite")
    first, second = (open_identity(ClusterConfig(), database) for _ in range(2))
    assert first.public_key == second.public_key
    mounted = ClusterConfig(identity_key_file=tmp_path / "node.key")
    assert open_identity(mounted, "elsewhere").public_key == first.public_key
    with pytest.raises(ConfigError):
        open_identity(ClusterConfig(identity_key_file=tmp_path / "none"), database)


def test_node_in_memory_has_a_new_key_each_time() -> None:
    first, second = (open_identity(ClusterConfig(), ":memory:") for _ in range(2))
    assert first.public_key != second.public_key


def test_initial_key_is_kept_by_a_node_without_one(tmp_path: Path) -> None:
    given, database = tmp_path / "given.key", str(tmp_path / "node.sqlite")
    config = ClusterConfig(initial_identity_key_file=given)
    NodeIdentity.generate().save(given)
    public_key = NodeIdentity.load(given).public_key
    assert open_identity(config, ":memory:").public_key == public_key
    assert open_identity(config, database).public_key == public_key
    given.unlink()
    assert open_identity(config, database).public_key == public_key


def test_initial_key_does_not_replace_the_key_of_a_node(tmp_path: Path) -> None:
    given, database = tmp_path / "given.key", str(tmp_path / "node.sqlite")
    own = open_identity(ClusterConfig(initial_identity_key_file=given), database)
    NodeIdentity.generate().save(given)
    config = ClusterConfig(initial_identity_key_file=given)
    assert open_identity(config, database).public_key == own.public_key
    assert open_identity(config, ":memory:").public_key != own.public_key


def test_malformed_initial_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "given.key").write_text("no key")
    config = ClusterConfig(initial_identity_key_file=tmp_path / "given.key")
    with pytest.raises(ConfigError):
        open_identity(config, str(tmp_path / "node.sqlite"))
    assert not (tmp_path / "node.key").exists()
