"""Goal: only authentic, fresh rows of members make up the fleet.  Method: rows, no server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redis_logs import report
from synaptoroute.core.mutation import Position
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.addresses import check_address
from synaptoroute.sequencer.node_rows import NodeReport, NodeRows, NodeSeen, dump_node_report
from synaptoroute.sequencer.presence import heartbeat_seconds
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

pytestmark = pytest.mark.unit
SECRET = ClusterSecret("default", {"a": b"s" * 32})
STRANGER = ClusterSecret("default", {"a": b"t" * 32})
NONE = ClusterSecret("default")
IDENTITY = NodeIdentity.generate()
SIGNER = Signer("n1", IDENTITY, SECRET)
NOW_MS = 1_800_000_000_000
BOOT = "1800000000000-00"


class Clock:
    """Monotonic seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def said(counter: int = 1, **changes: Any) -> NodeReport:
    """The report of ``n1``."""
    fields = {"boot": BOOT, "counter": counter, "time_ms": NOW_MS, "interval_ms": 1_000}
    return report("n1", Position(1, 1, "a" * 40), **(fields | changes))


def row(counter: int = 1, signer: Signer | None = SIGNER, **changes: Any) -> bytes:
    """The row of ``n1``."""
    return dump_node_report(said(counter, **changes), signer)


def rows_of(secret: ClusterSecret = SECRET, *, is_strict: bool = True, **options: Any) -> NodeRows:
    """A reader of rows."""
    return NodeRows(Verifier(secret), secret, is_strict=lambda: is_strict, **options)


def read(rows: NodeRows, text: bytes, now_ms: int = NOW_MS) -> NodeSeen | None:
    """Read a row whose heartbeat is new."""
    return rows.read("n1", text, now_ms, now_ms)


def altered(**changes: Any) -> bytes:
    """A signed row with other fields."""
    return json.dumps({**json.loads(row()), **changes}).encode()


def test_signed_row_counts() -> None:
    seen = read(rows_of(), row())
    assert seen is not None
    assert (seen.is_live, seen.public_key) == (True, IDENTITY.public_key)


def test_row_is_read_by_a_release_that_knows_no_signatures() -> None:
    document = json.loads(row())
    known = {"node_id", "url", "role", "version", "level", "fingerprint", "epoch", "seq", "chain"}
    assert known <= document.keys()
    assert len(row(encoders=",".join(["e" * 64] * 4))) <= 4_096


@pytest.mark.parametrize(
    "text",
    [
        altered(url="http://attacker"),
        altered(seq=2),
        altered(later_field=1),
        row(signer=Signer("n1", IDENTITY, STRANGER)),
        row(signer=Signer("n2", IDENTITY, SECRET)),
        row(signer=Signer("n1", IDENTITY, NONE)),
        row(signer=None),
        altered(signed={}),
        altered(signed="x"),
        b"[]",
        b"{",
    ],
)
def test_forged_row_is_not_in_the_fleet(text: bytes) -> None:
    rows = rows_of()
    assert read(rows, text) is None
    assert rows.read_all([(b"n1", NOW_MS, text)], NOW_MS) == []


def test_row_of_another_node_is_not_in_the_fleet() -> None:
    assert rows_of().read("n2", row(), NOW_MS, NOW_MS) is None


def test_unsigned_row_of_an_older_release_counts_until_the_level_is_in_force() -> None:
    seen = read(rows_of(is_strict=False), row(signer=None))
    assert seen is not None
    assert not seen.public_key
    assert read(rows_of(is_strict=True), row(signer=None)) is None


def test_unsigned_row_does_not_replace_a_live_signed_one() -> None:
    rows = rows_of(is_strict=False)
    assert read(rows, row())
    seen = read(rows, row(2, signer=None, url="http://attacker"))
    assert seen is not None
    assert seen.report.url == "http://n1"


def test_forged_signature_is_refused_below_the_level_too() -> None:
    assert read(rows_of(is_strict=False), altered(url="http://attacker")) is None


def test_replayed_row_does_not_replace_a_newer_one() -> None:
    rows = rows_of()
    old = row(1, url="http://old", time_ms=NOW_MS - 10_000)
    new = row(2, url="http://new")
    assert read(rows, new)
    seen = read(rows, old)
    assert seen is not None
    assert seen.report.url == "http://new"
    assert "old row" in rows.refused["n1"]


def test_reports_that_overtake_each_other_are_no_forgery() -> None:
    rows = rows_of()
    assert read(rows, row(2, url="http://new"))
    seen = read(rows, row(1, url="http://old", time_ms=NOW_MS - 100))
    assert seen is not None
    assert (seen.report.url, rows.refused) == ("http://new", {})


def test_row_with_another_key_does_not_replace_a_live_one() -> None:
    rows = rows_of()
    other = Signer("n1", NodeIdentity.generate(), SECRET)
    assert read(rows, row())
    seen = read(rows, row(2, signer=other, url="http://other"))
    assert seen is not None
    assert (seen.report.url, seen.public_key) == ("http://n1", IDENTITY.public_key)


def test_node_whose_counter_stands_still_is_dead_whatever_its_heartbeat_says() -> None:
    clock = Clock()
    rows = rows_of(clock=clock)
    assert read(rows, row())
    clock.seconds += 6
    seen = read(rows, row(), NOW_MS + 6_000)
    assert seen is not None
    assert not seen.is_live
    again = read(rows, row(2, time_ms=NOW_MS + 6_000), NOW_MS + 6_000)
    assert again is not None
    assert again.is_live


@pytest.mark.parametrize("apart_ms", [-61_000, 61_000])
def test_row_whose_signed_time_is_far_from_now_shows_no_live_node(apart_ms: int) -> None:
    seen = read(rows_of(clock_skew_seconds_max=60), row(time_ms=NOW_MS + apart_ms))
    assert seen is not None
    assert not seen.is_live


def test_restart_is_seen_at_once() -> None:
    rows = rows_of()
    assert read(rows, row(900))
    seen = read(rows, row(1, boot="1800000000001-00", url="http://again"))
    assert seen is not None
    assert seen.report.url == "http://again"


def test_row_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(SECRET)
    calls = []
    original = verifier.read_fields
    monkeypatch.setattr(
        verifier, "read_fields", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    rows = NodeRows(verifier, SECRET, is_strict=lambda: True)
    text, forged = row(), altered(seq=9)
    for _ in range(5):
        assert read(rows, text)
    assert len(calls) == 1
    for _ in range(5):
        read(rows, forged)
    assert len(calls) == 2


def test_rows_of_nodes_that_left_are_forgotten() -> None:
    rows = rows_of()
    read(rows, row())
    rows.read_all([], NOW_MS)
    assert not rows._known


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "http://",
        "http://user:secret@host",
        "http://host/?a=b",
        "http://host/#x",
        "http://host?",
        "http://169.254.169.254",
        "http://[::ffff:169.254.169.254]",
        "http://[fe80::1]",
        "http://[fd00:ec2::254]/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://169.254.43518/",
        "http://0.0.0.0",
        "http://metadata.google.internal.",
        "http://host:99999",
        "http://ho st",
        "http://host\\@evil",
        "file:///etc/passwd",
        "http://" + "a" * 1_100,
    ],
)
def test_address_that_no_node_has_is_refused(url: str) -> None:
    with pytest.raises(ProtocolError):
        check_address(url)
    assert read(rows_of(), row(url=url)) is None


@pytest.mark.parametrize(
    "url",
    ["", "http://10.0.0.7:8080", "https://node-0.nodes.svc:8443", "http://[::1]:1", "http://n"],
)
def test_address_of_a_node_is_taken(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize(
    ("nodes", "seconds"), [(0, 1.0), (3, 1.0), (40, 1.0), (100, 2.5), (3_000, 60.0)]
)
def test_heartbeats_of_a_large_fleet_are_rarer(nodes: int, seconds: float) -> None:
    assert heartbeat_seconds(nodes) == seconds
    rare = said(interval_ms=int(heartbeat_seconds(nodes) * 1_000))
    assert rare.alive_ms >= max(5_000, 3_000 * seconds)
