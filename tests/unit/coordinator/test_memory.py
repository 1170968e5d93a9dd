"""What a coordinator keeps over its restart: traffic, alarms and drift, in bounded bytes."""

from __future__ import annotations

import json
import random
import zlib
from typing import Any, cast

import pytest

from fleet_views import policy
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.append_errors import Reason, unavailable
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.saved_state import SavedState
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute_coordinator.alarms import AlarmKeeper
from synaptoroute_coordinator.drift import DriftWatch
from synaptoroute_coordinator.events import Alarm
from synaptoroute_coordinator.memory import Memory, pack, unpack
from synaptoroute_coordinator.traffic import RANGES, TrafficHistory

pytestmark = pytest.mark.unit

NOON = 1_767_268_800.0
DAMAGE = Alarm("damage", "critical", "disk does not match the digest", ("a",))


class Redis:
    """A link to a server that holds a few strings."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.is_hash = False

    async def call(self, *words: Any) -> Any:
        if words[0] == "SET":
            self.values[words[1]], self.is_hash = words[2], False
            return b"OK"
        if self.is_hash:
            reply = "WRONGTYPE Operation against a key holding the wrong kind of value"
            raise unavailable(Reason.REFUSED, reply, redis_error=reply)
        return self.values.get(words[1])


class Coordinator:
    """The parts of one coordinator that are saved."""

    def __init__(self, redis: Redis, at: float, secret: str = "", **limits: Any) -> None:
        limited = policy(**limits)
        keys = {"k": secret.encode()} if secret else {}
        ring = ClusterSecret("default", keys)
        self.traffic, self.alarms = TrafficHistory(at), AlarmKeeper(limited)
        self.drifts = DriftWatch(limited, self.traffic)
        saved = SavedState(cast(Link, redis), Keys("default"), ring)
        parts = (self.traffic, self.alarms, self.drifts)
        self.memory = Memory(saved, *parts, limited.traffic_bytes_max)

    def answers(self, at: float, range_name: str = "7d") -> dict[str | None, int]:
        found = self.traffic.traffic_of("default", range_name, at)
        return {each.route: round(sum(each.answers)) for each in found.routes}


def counted(answers: int, unmatched: int = 0) -> dict[str, Any]:
    pairs = [
        {"set": "default", "route": "x", "answers": answers, "confidence_sum": 0.5 * answers},
        {"set": "default", "route": None, "answers": unmatched, "confidence_sum": 0.0},
    ]
    return {"began_at_ms": int(NOON * 1_000) - 60_000, "pairs": pairs}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that a coordinator sees."""
    now = [NOON]
    monkeypatch.setattr("synaptoroute_coordinator.memory.time.time", lambda: now[0])
    return now


async def test_answers_while_no_coordinator_ran_are_spread_over_that_time(
    clock: list[float],
) -> None:
    redis = Redis()
    first = Coordinator(redis, NOON)
    await first.memory.load()
    first.traffic.add({"a": counted(100)}, NOON)
    first.traffic.add({"a": counted(110, 5)}, NOON + 5)
    await first.memory.save()
    clock[0] = NOON + 1_805
    second = Coordinator(redis, clock[0])
    await second.memory.load()
    second.traffic.add({"a": counted(1_910, 5)}, clock[0])
    buckets = second.traffic.traffic_of("default", "1h", clock[0]).routes[0].answers

    assert {"x": 1_810, None: 5} == second.answers(clock[0])
    assert {"x": 1_810, None: 5} == second.answers(clock[0], "1h")
    assert 30 == sum(55 <= each <= 75 for each in buckets)
    assert NOON == second.traffic.began_at_seconds


async def test_own_answers_are_added_to_what_is_restored_later(clock: list[float]) -> None:
    """Redis did not answer at the start."""
    redis = Redis()
    first = Coordinator(redis, NOON)
    await first.memory.load()
    first.traffic.add({"a": counted(0)}, NOON)
    first.traffic.add({"a": counted(10)}, NOON + 5)
    await first.memory.save()
    second = Coordinator(redis, NOON + 60)
    second.traffic.add({"a": counted(20)}, NOON + 65)
    second.traffic.add({"a": counted(25)}, NOON + 70)
    await second.memory.save()  # nothing is lost by it, because nothing is saved
    clock[0] = NOON + 71
    await second.memory.load()

    assert {"x": 15} == second.answers(NOON + 71)


@pytest.mark.parametrize("range_name", list(RANGES))
async def test_old_buckets_are_not_restored(clock: list[float], range_name: str) -> None:
    redis = Redis()
    first = Coordinator(redis, NOON)
    await first.memory.load()
    first.traffic.add({"a": counted(0)}, NOON)
    first.traffic.add({"a": counted(10)}, NOON + 5)
    await first.memory.save()
    width = RANGES[range_name].bucket_seconds
    clock[0] = NOON + RANGES[range_name].seconds - width
    early, late = Coordinator(redis, clock[0]), Coordinator(redis, clock[0])
    await early.memory.load()
    clock[0] += 2 * width
    await late.memory.load()

    assert {"x": 10} == early.answers(NOON + RANGES[range_name].seconds - width, range_name)
    assert {} == late.answers(clock[0], range_name)


async def test_alarms_and_drift_are_restored(clock: list[float]) -> None:
    redis = Redis()
    first = Coordinator(redis, NOON)
    await first.memory.load()
    first.alarms.update((DAMAGE,), 10.0, 10_000)
    await first.memory.save()
    second = Coordinator(redis, NOON)
    await second.memory.load()
    second.alarms.update((DAMAGE,), 1e9, 99_000)

    assert [("damage", 10_000)] == [(each.code, each.since_ms) for each in second.alarms.alarms]


async def test_saved_bytes_are_bounded_and_sets_are_kept_before_routes(
    clock: list[float],
) -> None:
    chance = random.Random(3)
    redis = Redis()
    first = Coordinator(redis, NOON, traffic_bytes_max=20_000)
    await first.memory.load()
    names = [f"route {chance.random()}" for _ in range(2_000)]
    first.traffic.add({"a": {"began_at_ms": 0, "pairs": []}}, NOON)
    pairs = [
        {"set": "default", "route": name, "answers": n + 1, "confidence_sum": n * chance.random()}
        for n, name in enumerate(names)
    ] + [{"set": "default", "route": None, "answers": 1, "confidence_sum": 0.0}]
    first.traffic.add({"a": {"began_at_ms": 0, "pairs": pairs}}, NOON + 5)
    written = await first.memory.save()
    second = Coordinator(redis, NOON)
    clock[0] = NOON + 6
    await second.memory.load()
    found = second.answers(NOON + 6)

    assert 5_000 < written <= 20_000
    assert 1 == found[None]
    assert {2_000, 1_999} <= set(found.values())
    assert 100 < len(found) < 2_000


async def test_nothing_is_saved_with_a_limit_of_zero() -> None:
    redis = Redis()
    coordinator = Coordinator(redis, NOON, traffic_bytes_max=0)
    await coordinator.memory.load()

    assert 0 == await coordinator.memory.save()
    assert {} == redis.values


async def test_state_that_somebody_wrote_to_redis_does_not_count(clock: list[float]) -> None:
    """In a cluster with a secret; it is overwritten by the next save."""
    redis = Redis()
    for secret in ("", "x" * 32):
        forger = Coordinator(redis, NOON, secret)
        await forger.memory.load()
        forger.traffic.add({"a": counted(0)}, NOON)
        forger.traffic.add({"a": counted(10)}, NOON + 5)
        await forger.memory.save()
        own = Coordinator(redis, NOON, "y" * 32)
        await own.memory.load()
        assert {} == own.answers(NOON + 6)
        own.traffic.add({"a": counted(0)}, NOON)
        own.traffic.add({"a": counted(3)}, NOON + 5)
        await own.memory.save()
        again = Coordinator(redis, NOON, "y" * 32)
        clock[0] = NOON + 6
        await again.memory.load()
        assert {"x": 3} == again.answers(NOON + 6)


async def test_key_of_another_type_is_overwritten(clock: list[float]) -> None:
    redis = Redis()
    redis.is_hash = True
    coordinator = Coordinator(redis, NOON)
    await coordinator.memory.load()

    assert await coordinator.memory.save() > 0
    assert not redis.is_hash


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no zlib",
        zlib.compress(b"no json"),
        zlib.compress(b"[]"),
        zlib.compress(b'{"format": 99}'),
        zlib.compress(b'{"format": 1}')[:-3],
        zlib.compress(b"[" * 100_000),
        zlib.compress(bytes(100_000_000)),
    ],
)
def test_malformed_state_is_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(content)


@pytest.mark.parametrize(
    "traffic",
    [
        None,
        {},
        {"series": [["default", "x", [[[1, -5, 0]], [], []]]]},
        {"series": [["default", "x", [[[1, 5, float("nan")]], [], []]]]},
        {"series": [["default", "x", [[[1, 5, 0]]]]]},
        {"series": 3},
        {"counts": [["a", "b", "c"]]},
        {"began_at_seconds": float("inf")},
    ],
)
async def test_malformed_state_begins_anew(clock: list[float], traffic: Any) -> None:
    whole = {"began_at_seconds": 1, "read_at_seconds": 1, "series": [], "counts": []}
    redis = Redis()
    coordinator = Coordinator(redis, NOON)
    document: dict[str, Any] = {
        "format": 1,
        "traffic": traffic and {**whole, **traffic},
        "alarms": {"raised": [], "past": []},
        "drifting": [],
    }
    redis.values[Keys("default").coordinator] = b"|" + pack(document)
    await coordinator.memory.load()
    coordinator.traffic.add({"a": counted(0)}, NOON)
    coordinator.traffic.add({"a": counted(2)}, NOON + 5)
    await coordinator.memory.save()

    assert {"x": 2} == coordinator.answers(NOON + 6)
    assert json.dumps(unpack(redis.values[Keys("default").coordinator][1:]))
