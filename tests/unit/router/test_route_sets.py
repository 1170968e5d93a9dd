"""Route sets in the library: bound routers, and the work that a node does for each set."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from http_node import HttpNode, http_node
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.mutation import ImportBegin, PutSettings
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import (
    ConfigError,
    ImportRejected,
    InvalidRoute,
    LimitExceeded,
    NotFinalized,
    SetNotFound,
)
from synaptoroute.models import FeedbackSettings, Route
from synaptoroute.router import AdaptiveRouter, WriteOptions
from synaptoroute.router import decision_fits as fits_module
from synaptoroute.router import fit_schedule as schedule_module
from synaptoroute.router.feedback import stored_settings
from synaptoroute.router.op_ids import is_of_set, scoped_op_id
from synaptoroute.router.route_sets import RouteSetLimits
from synaptoroute.router.writes import Writer
from synaptoroute.storage import Orphan

pytestmark = pytest.mark.unit

MONEY = Route(name="refund", utterances=["I want my money back", "refund my order"])
PARCEL = Route(name="parcel", utterances=["where is my parcel", "track my order"])
WORDS = "red blue green black white brown pink grey gold silver".split()


@pytest.fixture
async def node(tmp_path: Path) -> Any:
    """A node with an empty set ``s``."""
    async with http_node(tmp_path) as started:
        await started.router.sets.put("s", None)
        yield started


def route(name: str) -> Route:
    return Route(name=name, utterances=[f"{name} thing {n} {WORDS[n]}" for n in range(10)])


async def until_looked(node: HttpNode) -> None:
    """Wait until the schedule has looked at the state that is visible."""
    async with asyncio.timeout(20):
        while node.router._schedule._looked_at != node.router.visible.position:
            await asyncio.sleep(0.02)


# --- before the start ---------------------------------------------------------------------


def test_router_without_an_event_loop_has_sets() -> None:
    router = AdaptiveRouter(HashEncoder(64))
    router.create_set("support", RouteSetLimits(routes_max=2))
    support = router.set("support")
    support.add_route(MONEY)
    router.fork_set("support", "support@2")
    router.set("support@2").add_utterances("refund", ["give it back"])
    router.put_alias("live", "support@2")

    assert support is router.set("support")
    assert router is router.set("default") is support.set("")
    assert "refund" == support.query("I want my money back").route
    assert None is router.query("I want my money back").route
    assert None is support.query("give it back").route
    assert "support@2" == router.set("live").query("give it back").route_set
    router.delete_alias("live")
    router.delete_set("support@2")
    with pytest.raises(SetNotFound):
        router.set("support@2").query("x")
    with pytest.raises(InvalidRoute):
        router.create_set("@x")
    router.close()


async def test_bound_router_is_not_started_by_itself(node: HttpNode) -> None:
    bound = node.router.set("s")
    for call in (bound.start, bound.stop):
        with pytest.raises(ConfigError):
            await call()
    assert bound.status().is_ready


async def test_calls_for_a_missing_set_say_so(node: HttpNode) -> None:
    gone = node.router.set("gone")
    for call in (
        gone.aquery("x"),
        gone.aquery_batch(["x"]),
        gone.aget_route("x"),
        gone.alist_routes(),
        gone.aget_settings(),
        gone.aput_route(MONEY),
        gone.adelete_route("x"),
        gone.aimport([MONEY]),
        gone.fits.report(),
        gone.fits.fit_now(),
        gone.feedback.page(),
        gone.open_imports.staged(),
        gone.diagnostics.conflicts(0.8, 10),
        node.router.sets.fork("gone", "s2"),
        node.router.sets.delete("gone"),
        node.router.sets.put_alias("live", "gone"),
    ):
        with pytest.raises(SetNotFound):
            await call


# --- identities ------------------------------------------------------------------------


def test_op_ids_of_a_set_have_its_mark() -> None:
    chosen = bytes(range(16))
    a, b = scoped_op_id(chosen, "a"), scoped_op_id(chosen, "b")

    assert chosen == scoped_op_id(chosen, "")
    assert a == scoped_op_id(a, "a")
    assert 16 == len(a) == len(b)
    assert a != b
    assert is_of_set(a, "a")
    assert not is_of_set(a, "b")
    assert not is_of_set(chosen, "a")


async def test_one_identity_in_two_sets_is_two_writes(node: HttpNode) -> None:
    options = WriteOptions(op_id=bytes(16), request_hash=b"h" * 16)
    first = await node.router.aput_route(MONEY, options)
    second = await node.router.set("s").aput_route(MONEY, options)
    again = await node.router.set("s").aput_route(MONEY, options)
    found = await node.router.set("s").aoutcome(bytes(16))

    assert first.version != second.version == again.version
    assert found is not None
    assert second.version == found.version


# --- limits --------------------------------------------------------------------------------


async def test_import_waits_for_the_rate_of_its_set(node: HttpNode) -> None:
    """Chunks come at the rate of the set; the import itself is not refused."""
    limits = RouteSetLimits(writes_per_second_max=2)
    await node.router.sets.put("s", limits)
    began = time.monotonic()
    result = await node.router.set("s").aimport([MONEY, PARCEL])
    patches = [
        node.router.set("s").apatch_route("refund", threshold=number / 10) for number in range(4)
    ]
    outcomes = await asyncio.gather(*patches, return_exceptions=True)
    other = await node.router.aput_route(MONEY)

    assert 2 == result.routes
    assert any(isinstance(each, LimitExceeded) for each in outcomes)
    assert time.monotonic() - began >= 0.4
    assert "applied" == other.status


async def test_limit_of_rows_refuses_an_import_at_once(node: HttpNode) -> None:
    await node.router.sets.put("s", RouteSetLimits(utterances_max=1))
    began = time.monotonic()
    with pytest.raises((LimitExceeded, ImportRejected)):
        await node.router.set("s").aimport([MONEY, PARCEL])
    assert time.monotonic() - began < 10.0


# --- work in the background -----------------------------------------------------------------


async def test_each_set_is_fitted_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (fits_module, schedule_module):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.02)
        monkeypatch.setattr(module, "SETTLE_SECONDS", 0.02)
        monkeypatch.setattr(module, "REFIT_SECONDS_MIN", 0.2)
    async with http_node(tmp_path) as node:
        sets = [node.router.set(name) for name in ("a", "b")]
        for each in sets:
            await node.router.sets.put(each.route_set, None)
            for name in ("apple", "pear", "plum", "fig"):
                await each.aput_route(route(name))
        async with asyncio.timeout(20):
            while {(await each.fits.report()).state for each in sets} != {"fitted"}:
                await asyncio.sleep(0.02)
        default = await node.router.fits.report()
        await until_looked(node)
        looked = dict(node.router._schedule._revisions)
        await node.router.aput_route(route("other"))
        await until_looked(node)
        after = node.router._schedule._revisions

    assert ("too_small", None) == (default.state, default.at)
    # What did not change was not looked at again.
    assert [looked[name] for name in ("a", "b")] == [after[name] for name in ("a", "b")]


async def test_feedback_of_two_sets_is_kept_apart_and_expires(node: HttpNode) -> None:
    bound = node.router.set("s")
    for each in (node.router, bound):
        await each.aput_route(MONEY)
        settings = await each.aget_settings()
        kept = settings.model_copy(update={"feedback": FeedbackSettings(retention_days=1.0)})
        await each.aput_settings(kept)
    await bound.feedback.put("refund", text="a text of the set")
    pages = [await each.feedback.page() for each in (node.router, bound)]
    queues = list(node.router._feedback_queues())
    gone = await bound.feedback.expire(now_ms=time.time_ns() // 1_000_000 + 2 * 86_400_000)

    assert [0, 1] == [page.total for page in pages]
    assert 2 == len(queues)
    assert 1 == gone
    assert 0 == (await bound.feedback.page()).total


async def test_open_imports_of_a_set_expire(tmp_path: Path) -> None:
    async with http_node(tmp_path, import_idle_seconds=1.0) as node:
        await node.router.sets.put("s", None)
        bound = node.router.set("s")
        await bound._writer().write(ImportBegin("left/1"), WriteOptions())
        assert 1 == len(await bound.open_imports.staged())
        assert [] == await node.router.open_imports.staged()
        async with asyncio.timeout(20):
            while await bound.open_imports.staged():
                await asyncio.sleep(0.05)


async def test_sets_need_level_5_of_the_log(tmp_path: Path) -> None:
    async with http_node(tmp_path) as node:
        await node.router.aput_route(MONEY)
        replica = node.router._engine().applier.replica  # type: ignore[attr-defined]
        replica.level = 4
        try:
            with pytest.raises(NotFinalized):
                await node.router.sets.put("s", None)
            with pytest.raises(NotFinalized):
                await node.router.set("s").aput_route(MONEY)
            with pytest.raises(NotFinalized):
                await node.router.aput_route(PARCEL, WriteOptions(note="why"))
            await node.router.aput_route(PARCEL)
        finally:
            replica.level = 5


async def test_orphaned_write_of_a_set_is_replayed_there(node: HttpNode) -> None:
    """The replay goes to the set of the write, not to ``default``."""
    bound = node.router.set("s")
    proposal = bound._writer()._proposal(
        PutSettings(stored_settings(await bound.aget_settings())), WriteOptions(note="why")
    )
    orphan = Orphan(proposal.op_id, 1, 99, encode_proposal(proposal), 0)
    admin = node.router._admin()
    writers: list[str] = []

    def writer_of(name: str) -> Writer:
        writers.append(name)
        return node.router.set(name)._writer()

    admin._writer_of = writer_of
    admin._engine.database.orphans = lambda: [orphan]  # type: ignore[method-assign]
    shown = await admin.orphans()
    await admin.replay_orphan(proposal.op_id)

    assert ["s"] == writers
    assert ["s"] == [each.route_set for each in shown]
