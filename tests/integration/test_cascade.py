"""Goal: with the cascade queries cost less, and the answers are those that were promised.

Method: the real encoder, a table of its frequent tokens, real routers, SQLite and Valkey.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from encoders import distilled, other_table, questions, things
from followers import joined, peers
from routers import stream, until
from servers import Server
from synaptoroute.cascade import StaticTable
from synaptoroute.cascade import calibrator as calibrator_module
from synaptoroute.cascade import cascade as cascade_module
from synaptoroute.cascade.coalescer import QueryCoalescer
from synaptoroute.cascade.table_store import TableStore
from synaptoroute.config import EngineConfig
from synaptoroute.core.mutation import CascadeMode
from synaptoroute.encoder import open_encoder
from synaptoroute.errors import ConfigError, Overloaded
from synaptoroute.models import Match, Route
from synaptoroute.router import AdaptiveRouter, cascade_duty
from synaptoroute.storage import SQLiteStorage

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is tested, not the patience."""
    monkeypatch.setattr(calibrator_module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(calibrator_module, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(calibrator_module, "SPREAD_SECONDS", 0.3)
    monkeypatch.setattr(calibrator_module, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(calibrator_module, "ABANDONED_SECONDS", 0.5)


@asynccontextmanager
async def router_with(
    *, has_table: bool = True, path: Path | None = None, tables: Sequence[StaticTable] = ()
) -> AsyncIterator[AdaptiveRouter]:
    encoder, table = await asyncio.to_thread(distilled)
    storage = SQLiteStorage(path) if path else None
    router = AdaptiveRouter(
        encoder,
        storage,
        config=EngineConfig(lanes=1, node_name="n", fit_confidence=False),
        cascade=tables or ([table] if has_table else []),
    )
    await router.start()
    try:
        yield router
    finally:
        await router.stop()


async def switch(router: AdaptiveRouter, *, on: bool = True) -> None:
    settings = await router.aget_settings()
    # The cascade is not offered with the adaptive score of new databases.
    judged = {"aggregation": "blend", "threshold": 0.49, "confidence_min": None}
    await router.aput_settings(settings.model_copy(update={"cascade": on, **judged}))


async def state(router: AdaptiveRouter, *wanted: str) -> None:
    await until(lambda: router.cascade().state in wanted)


async def answers(router: AdaptiveRouter) -> list[Match]:
    return [await router.aquery(text, explain=True) for text in questions()]


async def test_cascade_that_is_switched_off_changes_no_answer() -> None:
    """A router with a table answers, bit for bit, as one without."""
    async with router_with() as one, router_with(has_table=False) as other:
        for router in (one, other):
            settings = await router.aget_settings()
            await router.aput_settings(settings.model_copy(update={"cascade": False}))
            await router.aimport(stream(things()))
        left, right = await answers(one), await answers(other)

        assert [match.model_dump_json() for match in left] == [
            match.model_dump_json() for match in right
        ]
        assert {None} == {match.stage for match in left}
        assert "off" == one.cascade().state
        assert 0 == one.cascade().static + one.cascade().deferred


async def judge_by_blend(router: AdaptiveRouter) -> None:
    """Leave the cascade as it is."""
    settings = await router.aget_settings()
    judged = {"aggregation": "blend", "threshold": 0.49, "confidence_min": None}
    await router.aput_settings(settings.model_copy(update=judged))


async def test_routes_that_nobody_asked_about_get_a_cascade_when_they_are_enough() -> None:
    """Before that it is off, for a reason, and nothing is measured or written."""
    async with router_with() as router:
        await judge_by_blend(router)
        first, *others = things()
        written = await router.aput_route(first)
        report = router.cascade()
        assert ("off", "too_few_utterances") == (report.state, report.reason)
        await asyncio.sleep(0.5)
        assert written.version == router.visible.version

        await router.aimport(stream(others))
        await state(router, "on")
        assert "static" in {match.stage for match in await answers(router)}
        assert "auto" == (await router.aget_settings()).cascade


async def test_routes_that_changed_are_left_to_the_encoder_and_others_are_not() -> None:
    """A large import and a write do not switch the cascade off."""
    async with router_with() as router:
        await judge_by_blend(router)
        await router.aimport(stream(things()))
        await state(router, "on")
        before = await answers(router)
        calibrate = router._calibrator
        assert calibrate is not None
        await calibrate.stop()  # the state between the import and the next measurement
        new = [Route(name=f"new-{n}", utterances=[f"word{n} of it"]) for n in range(len(things()))]
        await router.aimport(stream(new))
        await router.aadd_utterances("music", ["put on some jazz"])
        after = await answers(router)

        assert "on" == router.cascade().state
        assert {"static"} <= {match.stage for match in after if match.route != "music"}
        assert {"encoder"} == {match.stage for match in after if match.route == "music"}
        assert [match.route for match in before] == [match.route for match in after]


async def test_sure_queries_are_answered_without_the_encoder() -> None:
    """They agree with it, say so, and what is left to the encoder is what it says alone."""
    async with router_with() as router:
        await router.aimport(stream(things()))
        await switch(router, on=False)
        before = await answers(router)
        await switch(router)
        await state(router, "on")
        encoded = router.status().counters.cache_misses
        after = await answers(router)
        report = router.cascade()

        static = [match for match in after if match.stage == "static"]
        assert len(static) > len(after) / 4
        assert len(static) == report.static
        assert len(after) - len(static) == report.deferred
        for old, new in zip(before, after, strict=True):
            if new.stage == "static":
                assert old.route == new.route
                assert new.score is not None
                assert new.threshold is not None
                assert new.score >= new.threshold
                assert new.static_margin is not None
                assert new.guard_margin is not None
                assert new.static_margin >= new.guard_margin
            else:
                assert "encoder" == new.stage
                new = new.model_copy(
                    update={
                        "stage": None, "static_margin": None, "guard_margin": None,
                        "version": old.version,
                    }
                )  # fmt: skip
                assert old == new
        assert encoded == router.status().counters.cache_misses
        assert [m.route for m in after] == [m.route for m in await router.aquery_batch(questions())]


async def test_static_answers_do_not_wait_for_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """They pass a queue that is full of others, but not a first stage that is overloaded."""
    async with router_with() as router:
        await router.aimport(stream(things()))
        await switch(router)
        await state(router, "on")
        sure = next(m for m in await answers(router) if m.stage == "static")
        text = questions()[[m.stage for m in await answers(router)].index("static")]
        slow = [
            asyncio.ensure_future(router.aquery(f"unheard of {number}", use_cache=False))
            for number in range(200)
        ]
        await asyncio.sleep(0)
        match = await router.aquery(text)
        waiting = [task for task in slow if not task.done()]

        assert sure.route == match.route
        assert len(waiting) > 100
        await asyncio.gather(*slow)

        monkeypatch.setattr(QueryCoalescer, "wait_seconds", 1.0)
        router.check_queue(60_000)
        assert sure.route == (await router.aquery(text, deadline_ms=60_000)).route
        with pytest.raises(Overloaded):
            router.check_queue(500)
        with pytest.raises(Overloaded):
            await router.aquery(text, use_cache=False, deadline_ms=500)


async def test_query_overtaken_by_a_write_is_answered_at_the_new_position() -> None:
    """The stage is a function of text and position, whenever the encoder was done."""
    async with router_with() as router:
        await router.aimport(stream(things()))
        await switch(router)
        await state(router, "on")
        asked = zip(questions(), await answers(router), strict=True)
        text = next(text for text, m in asked if (m.route, m.stage) == ("music", "static"))
        await router.aadd_utterances("flight", [text])
        assert "encoder" == (await router.aquery(text, explain=True)).stage
        scorer, go_on = router._engine().scorer, threading.Event()
        held = scorer.call(lambda _: go_on.wait(30))
        await until(held.running)
        write = asyncio.ensure_future(router.aremove_utterances("flight", [text]))
        await until(lambda: len(scorer._inbox) == 1)
        query = asyncio.ensure_future(router.aquery(text, explain=True, use_cache=False))
        await until(lambda: len(scorer._inbox) == 2)
        go_on.set()
        written, overtaken = await write, await query
        after = await router.aquery(text, explain=True)

        assert (written.version, "music", "static") == (
            overtaken.version, overtaken.route, overtaken.stage,
        )  # fmt: skip
        assert after == overtaken


async def test_filtered_queries_and_long_lists_use_the_encoder() -> None:
    """The guard was measured on the whole route set, and on a shortlist."""
    async with router_with() as router:
        await router.aimport(stream(things()))
        await switch(router)
        await state(router, "on")
        text = questions()[0]
        await router.aquery(text, routes=["music", "dinner"])
        await router.aquery(text, limit=8)

        assert 0 == router.cascade().static


async def test_cascade_is_refused_where_there_is_too_little_to_measure() -> None:
    """And is on by itself when there is enough."""
    async with router_with() as router:
        await router.aput_route(Route(name="music", utterances=["play a song"]))
        await switch(router)
        await state(router, "refused")
        assert "too_few_utterances" == router.cascade().reason
        assert (await router.aquery("play a song", explain=True)).stage is None

        await router.aimport(stream(things()))
        await state(router, "on")


async def test_changed_routes_are_calibrated_again() -> None:
    """Many at once suspend the cascade until it is; the answer follows the routes at once."""
    async with router_with() as router:
        await router.aimport(stream(things()))
        await switch(router)
        await state(router, "on")
        judged_at = router.cascade().at
        for name in ("flight", "music", "dinner"):
            await router.adelete_route(name)
        assert router.cascade().state in ("suspended", "on", "refused")
        await until(lambda: router.cascade().at != judged_at)
        await state(router, "on", "refused")

        assert {"flight", "music", "dinner"}.isdisjoint(m.route for m in await answers(router))


async def test_new_threshold_ends_the_calibration() -> None:
    """A guard is measured against a threshold, so a new one is measured."""
    async with router_with() as router:
        await router.aimport(stream(things()))
        await switch(router)
        await state(router, "on")
        settings = await router.aget_settings()
        await router.aput_settings(settings.model_copy(update={"threshold": 1.0}))
        assert {None} == {match.route for match in await answers(router)}
        await switch(router, on=False)

        assert "off" == router.cascade().state


async def test_restarted_router_decides_as_before(tmp_path: Path) -> None:
    """The calibration is part of the state, so nothing is measured anew."""
    path = tmp_path / "routes.sqlite"
    async with router_with(path=path) as router:
        await router.aimport(stream(things()))
        await switch(router)
        await state(router, "on")
        before, version = await answers(router), router.status().version
    async with router_with(path=path) as router:
        assert "on" == router.cascade().state
        assert before == await answers(router)
        assert version == router.status().version
    async with router_with(path=path, has_table=False) as router:
        assert {None} == {match.stage for match in await answers(router)}


async def test_three_nodes_decide_equally(tmp_path: Path, valkey_server: Server) -> None:
    """At one position each gives the same answer by the same stage, also one that came later."""
    encoder, table = await asyncio.to_thread(distilled)
    async with peers(tmp_path, valkey_server.url, 2, encoder=encoder, cascade=[table]) as found:
        await found[0].router.aimport(stream(things()))
        await switch(found[1].router)
        for peer in found.all:
            await state(peer.router, "on")
        await found[0].router.aadd_utterances("music", ["put on some jazz"])
        late = await found.add("late")
        await late.router.wait_ready()
        await found.settle()
        await state(late.router, "on")
        seen: set[str] = set()
        while len(seen) != 1:  # again where it was judged anew meanwhile
            seen = {peer.router.status().version for peer in found.all}
            each = [await answers(peer.router) for peer in found.all]
            seen |= {match.version for own in each for match in own}

        shown = [[match.model_copy(update={"node": ""}) for match in own] for own in each]
        assert shown[0] == shown[1] == shown[2]
        assert {"static", "encoder"} == {match.stage for match in shown[0]}
        await found.judge()


async def test_node_without_a_table_asks_the_encoder(tmp_path: Path, valkey_server: Server) -> None:
    """It follows the log as every node, and says why it is slower."""
    encoder, table = await asyncio.to_thread(distilled)
    async with peers(tmp_path, valkey_server.url, 1, encoder=encoder, cascade=[table]) as found:
        plain = await found.add("plain", cascade=[])
        await plain.router.wait_ready()
        await found[0].router.aimport(stream(things()))
        await switch(found[0].router)
        await state(found[0].router, "on")
        await found.settle()
        with_table, without = await answers(found[0].router), await answers(plain.router)

        assert {None} == {match.stage for match in without}
        assert "no_table" == plain.router.cascade().state
        assert [m.route for m in with_table if m.stage == "encoder"] == [
            b.route for a, b in zip(with_table, without, strict=True) if a.stage == "encoder"
        ]
        await found.judge()


async def test_router_with_a_new_table_calibrates_with_it(tmp_path: Path) -> None:
    """Nobody else could have the old one."""
    path = tmp_path / "routes.sqlite"
    async with router_with(path=path) as router:
        await router.aimport(stream(things()))
        await switch(router)
        await state(router, "on")
        before = router.cascade().table
    async with router_with(path=path, tables=[await asyncio.to_thread(other_table)]) as router:
        await until(lambda: router.cascade().state == "on")
        assert before != router.cascade().table
        assert {"static", "encoder"} == {match.stage for match in await answers(router)}


async def test_table_that_no_node_has_is_dropped(tmp_path: Path, valkey_server: Server) -> None:
    """Not while one node has it: then an upgrade is under way, or the other node is odd."""
    encoder, table = await asyncio.to_thread(distilled)
    other = await asyncio.to_thread(other_table)
    url = valkey_server.url
    async with peers(tmp_path, url, 1, encoder=encoder) as found:
        await found[0].router.aimport(stream(things()))
        old_path = tmp_path / "old.sqlite"
        async with joined(old_path, url, encoder=encoder, cascade=[table]) as old:
            await switch(found[0].router)
            await state(old.router, "on")
            measured = old.router.cascade().table
            new = (await found.add(cascade=[other])).router
            await state(new, "refused")
            await asyncio.sleep(4 * calibrator_module.ABANDONED_SECONDS)
            assert ("other_table", measured) == (new.cascade().reason, new.cascade().table)
        await state(new, "on")
        assert measured != new.cascade().table
        await found.judge()


async def test_large_set_is_embedded_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A boot does not wait for it; afterwards the stage decides as before."""
    path = tmp_path / "node.sqlite"
    async with router_with(path=path) as router:
        await judge_by_blend(router)
        await router.aimport(stream(things()))
        await state(router, "on")
        before = await answers(router)
    monkeypatch.setattr(cascade_module, "BOOT_ROWS_MAX", 10)
    encoder, table = distilled()
    late = AdaptiveRouter(
        encoder, SQLiteStorage(path), config=EngineConfig(node_name="n"), cascade=[table]
    )
    assert late._engine() is not None
    assert ("suspended", "starting") == (late.cascade().state, late.cascade().reason)
    late.close()
    async with router_with(path=path) as router:
        await state(router, "on")
        assert before == await answers(router)


async def test_table_that_was_measured_comes_from_a_peer(
    tmp_path: Path, valkey_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes with another table, or none, decide as the one that measured."""
    monkeypatch.setattr(cascade_duty, "FETCH_SECONDS", 0.1)
    encoder, table = await asyncio.to_thread(distilled)
    other = await asyncio.to_thread(other_table)
    settings = {"encoder": encoder, "cascade": [table], "fit_confidence": False}
    async with peers(tmp_path, valkey_server.url, 1, door=True, **settings) as found:
        await judge_by_blend(found[0].router)
        await found[0].router.aimport(stream(things()))
        await state(found[0].router, "on")
        measured = found[0].router.cascade().table
        await found.add("odd", cascade=[other])
        await found.add("bare", cascade=TableStore())
        for peer in found.all:
            await state(peer.router, "on")
        await found.settle()
        given = [await answers(peer.router) for peer in found.all]

    assert {measured} == {peer.router.cascade().table for peer in found.all}
    stages = [[(match.route, match.stage) for match in each] for each in given]
    assert stages[0] == stages[1] == stages[2]
    assert {"static", "encoder"} == {stage for _, stage in stages[0]}


async def test_exact_and_unknown_texts_are_decided_as_without_the_cascade() -> None:
    """An utterance gets its route at once; a text without a known piece gets none."""
    async with router_with() as router, router_with(has_table=False) as plain:
        for each in (router, plain):
            await each.aimport(stream(things()))
            await each.aput_route(Route(name="up", utterances=["\U0001f44d", "well done"]))
            await each.aput_route(Route(name="decoy", utterances=[things()[1].utterances[0]]))
        await switch(router)
        await state(router, "on")
        texts = [each.utterances[0].upper() + "!" for each in things()[:4]]
        texts += ["\U0001f44d", "\U0001f44e"]
        staged = [await router.aquery(text, explain=True) for text in texts]
        expected = [await plain.aquery(text) for text in texts]
        batch = await router.aquery_batch(texts, explain=True)

    keys = ("route", "reason", "confidence", "truncated", "utterance")
    assert [[getattr(match, key) for key in keys] for match in staged] == [
        [getattr(match, key) for key in keys] for match in expected
    ]
    assert ["exact"] * 5 + ["not_understood"] == [match.reason for match in staged]
    assert "decoy" == staged[1].route
    assert staged == batch


@pytest.mark.parametrize("mode", ["auto", True])
async def test_static_encoder_needs_no_cascade(mode: CascadeMode) -> None:
    """It lacks nothing, so there is nothing to prepare and nothing to repair."""
    encoder = open_encoder("fast")
    router = AdaptiveRouter(encoder, config=EngineConfig(lanes=1, fit_confidence=False))
    await router.start()
    try:
        settings = await router.aget_settings()
        await router.aput_settings(settings.model_copy(update={"cascade": mode}))
        report = router.cascade()
        with pytest.raises(ConfigError, match="nothing to prepare"):
            await router.acalibrate()
    finally:
        await router.stop()
        encoder.close()

    assert ("off", "static_encoder") == (report.state, report.reason)
