"""Goal: the cascade answers in every route set that asks for it, as it does in ``default``.

Method: the real encoder, a table of its frequent tokens, real routers, SQLite, Valkey and a
node that is killed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from encoders import distilled, questions, things
from followers import peers
from processes import NodeProcess
from routers import stream, until
from servers import Server
from synaptoroute.cascade import StaticTable, calibrator, save_table, table_file
from synaptoroute.config import EngineConfig
from synaptoroute.encoder import DEFAULT_MODEL
from synaptoroute.models import Match
from synaptoroute.router import AdaptiveRouter
from synaptoroute.router.queries import make_query
from synaptoroute.router.writes import WriteOptions
from synaptoroute.serving.served_sets import ServedSets
from synaptoroute.storage import SQLiteStorage

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WAIT_SECONDS = 60.0


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is tested, not the patience."""
    monkeypatch.setattr(calibrator, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(calibrator, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(calibrator, "SPREAD_SECONDS", 0.3)


@asynccontextmanager
async def router_with(path: Path | None = None) -> AsyncIterator[AdaptiveRouter]:
    encoder, table = await asyncio.to_thread(distilled)
    router = AdaptiveRouter(
        encoder,
        SQLiteStorage(path) if path else None,
        config=EngineConfig(lanes=1, node_name="n", fit_confidence=False),
        cascade=[table],
    )
    await router.start()
    try:
        yield router
    finally:
        await router.stop()


async def switch(router: AdaptiveRouter, *, on: bool = True) -> None:
    settings = await router.aget_settings()
    judged = {"aggregation": "blend", "threshold": 0.49, "confidence_min": None}
    await router.aput_settings(settings.model_copy(update={"cascade": on, **judged}))


async def filled(router: AdaptiveRouter) -> AdaptiveRouter:
    """Import the routes and wait for the cascade."""
    await router.aimport(stream(things()))
    await switch(router)
    await until(lambda: router.cascade().state == "on")
    return router


async def made(router: AdaptiveRouter, name: str) -> AdaptiveRouter:
    """Make a route set with the cascade on."""
    await router.sets.put(name, None)
    return await filled(router.set(name))


async def answers(router: AdaptiveRouter) -> list[Match]:
    return [await router.aquery(text, explain=True) for text in questions()]


def shown(matches: list[Match]) -> list[dict[str, Any]]:
    """Answers apart from their set and version."""
    return [match.model_dump(exclude={"version", "route_set", "node"}) for match in matches]


async def test_set_answers_as_the_same_routes_in_default() -> None:
    """By the same stage, one by one, in a batch and by an alias, and both are counted."""
    async with router_with() as router:
        await filled(router)
        other = await made(router, "other")
        await router.sets.put_alias("live", "other")
        await router.sets.put_alias("plain", "default")
        expected = await answers(router)
        own, aliased = await answers(other), await answers(router.set("live"))
        to_default = await answers(router.set("plain"))
        batch = await other.aquery_batch(questions(), explain=True)
        counters = router.status().counters
        reasons = dict(router._engine().decision_figures_of("other").reasons)

    assert {"static", "encoder"} == {match.stage for match in expected}
    assert shown(expected) == shown(own) == shown(aliased) == shown(to_default) == shown(batch)
    assert {"other"} == {match.route_set for match in (*own, *aliased, *batch)}
    assert {"default"} == {match.route_set for match in to_default}
    static = sum(match.stage == "static" for match in expected)
    assert 5 * static == counters.static
    assert 3 * len(own) == sum(reasons.values())
    assert 5 * len(own) == sum(count for _, count in counters.decisions.reasons)


async def test_sets_have_cascades_of_their_own() -> None:
    """One where it is switched off has no rows for it; it goes and comes with the setting."""
    async with router_with() as router:
        await switch(router, on=False)
        await router.aimport(stream(things()))
        one = await made(router, "one")
        await router.sets.put("two", None)
        two = router.set("two")
        await switch(two, on=False)
        await two.aimport(stream(things()))
        sets = router._engine().scorer.sets

        assert {"static", "encoder"} == {match.stage for match in await answers(one)}
        for plain in (router, two):
            assert {None} == {match.stage for match in await answers(plain)}
        assert sets.by_name["two"].first_stage._routes is None
        assert "off" == two.cascade().state

        await switch(one, on=False)
        assert {None} == {match.stage for match in await answers(one)}
        assert ("off", None) == (one.cascade().state, sets.by_name["one"].first_stage._routes)

        await switch(one)
        await until(lambda: one.cascade().state == "on")
        assert {"static", "encoder"} == {match.stage for match in await answers(one)}
        await router.sets.delete("one")
        await router.sets.put("next", None)
        assert ("off", "too_few_utterances") == (
            router.set("next").cascade().state, router.set("next").cascade().reason,
        )  # fmt: skip
        assert sets.by_name["next"].first_stage._routes is None


async def test_set_follows_changes_as_default_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports, new and removed utterances and routes, words to ignore, and an erasure."""
    async with router_with() as router:
        await filled(router)
        other = await made(router, "other")
        # Otherwise one of them might be measured again between two answers.
        monkeypatch.setattr(calibrator, "POLL_SECONDS", 1_000.0)
        await asyncio.sleep(0.1)
        spare = things()[0]
        added = "please cancel my music on the flight"
        for each in (router, other):
            await each.adelete_route(spare.name)
            await each.aimport(stream([spare]))
            await each.aadd_utterances("music", [added])
            await each.aremove_utterances("music", [things()[1].utterances[0]])
            settings = await each.aget_settings()
            await each.aput_settings(settings.model_copy(update={"ignore": ["[0-9]{4,}"]}))
            assert "on" == each.cascade().state
        expected, own = await answers(router), await answers(other)
        asked = zip(questions(), own, strict=True)
        sure = next(text for text, match in asked if match.stage == "static")
        static = [await each.aquery(sure + " 12345", explain=True) for each in (router, other)]
        # Of a route that changed since it was measured.
        changed = [await each.aquery(added + " 12345", explain=True) for each in (router, other)]
        await router.changes.eraser.erase([added], WriteOptions())
        erased = [await each.aquery(added, explain=True) for each in (router, other)]

    assert {"static", "encoder"} == {match.stage for match in own}
    assert shown(expected) == shown(own)
    assert shown(static[:1]) == shown(static[1:])
    assert shown(erased[:1]) == shown(erased[1:])
    assert ["static", "static"] == [match.stage for match in static]
    assert shown(changed[:1]) == shown(changed[1:])
    assert [("music", "encoder")] * 2 == [(match.route, match.stage) for match in changed]
    assert "exact" not in {match.reason for match in erased}


async def test_fork_answers_at_once_as_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its static rows are copied, its calibration is that of the source, its changes its own."""
    async with router_with() as router:
        source = await made(router, "v1")
        expected = await answers(source)
        embedded: list[int] = []
        embed_all = StaticTable.embed_all

        def counted(self: StaticTable, tokens: Any) -> Any:
            embedded.append(len(tokens))
            return embed_all(self, tokens)

        monkeypatch.setattr(StaticTable, "embed_all", counted)
        await router.sets.fork("v1", "v2")
        assert not embedded
        copied = router.set("v2")
        assert "on" == copied.cascade().state
        assert shown(expected) == shown(await answers(copied))
        text = "please cancel my music on the flight"
        assert "encoder" == (await copied.aquery(text, explain=True)).stage
        await copied.aadd_utterances("music", [text])

        changed, kept = await copied.aquery(text), await source.aquery(text, explain=True)
        assert "music" == changed.route
        assert "encoder" == kept.stage
        assert shown(expected) == shown(await answers(source))


async def test_alias_switched_during_queries_gives_one_set_at_each_version() -> None:
    """An answer is of the set that the alias names at the version in the answer."""
    async with router_with() as router:
        await made(router, "v1")
        await router.sets.fork("v1", "v2")
        target_at = {(await router.sets.put_alias("live", "v1")).version: "v1"}
        live, is_done, seen = router.set("live"), False, []

        async def ask() -> None:
            while not is_done:
                for text in questions():
                    seen.append(await live.aquery(text, explain=True))

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        for number in range(20):
            target = ("v2", "v1")[number % 2]
            target_at[(await router.sets.put_alias("live", target)).version] = target
        is_done = True
        await asyncio.gather(*asking)

    assert {"static", "encoder"} == {match.stage for match in seen}
    assert {"v1", "v2"} == {match.route_set for match in seen}
    wrong = [match for match in seen if target_at[match.version] != match.route_set]
    assert not wrong


async def test_alias_switched_within_a_query_is_not_answered_by_the_old_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first stage looks the name up again, at the position at which it answers."""
    async with router_with() as router:
        source = await made(router, "v1")
        static = next(match for match in await answers(source) if match.stage == "static")
        text = questions()[[m.stage for m in await answers(source)].index("static")]
        await router.sets.fork("v1", "v2")
        await router.sets.put_alias("live", "v1")
        sets, embed_all = router._engine().scorer.sets, StaticTable.embed_all
        renamed = sets.aliases["live"]._replace(target="v2")

        def switched(self: StaticTable, tokens: Any) -> Any:
            sets.aliases["live"] = renamed
            return embed_all(self, tokens)

        monkeypatch.setattr(StaticTable, "embed_all", switched)
        match = await router.set("live").aquery(text, explain=True)

    assert ("v2", "static", static.route) == (match.route_set, match.stage, match.route)


async def test_query_within_the_step_of_a_switch_waits_for_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No first stage answers between the change of an alias and that of the version."""
    async with router_with() as router:
        source = await made(router, "v1")
        text = questions()[[m.stage for m in await answers(source)].index("static")]
        await router.sets.fork("v1", "v2")
        before = await router.sets.put_alias("live", "v1")
        engine, apply = router._engine(), ServedSets.apply
        queries = [make_query(text, {"explain": True}) for _ in range(2)]
        for query in queries:
            query.route_set = "live"
        with ThreadPoolExecutor(1) as pool:
            asked: list[Future[Any]] = []

            def slowly(self: ServedSets, *args: Any, **options: Any) -> None:
                apply(self, *args, **options)
                asked.append(pool.submit(engine.answer_sure, queries))
                wait(asked, timeout=0.5)

            monkeypatch.setattr(ServedSets, "apply", slowly)
            after = await router.sets.put_alias("live", "v2")
            found = await asyncio.wrap_future(asked[0])

    assert before.version != after.version
    assert [("v2", after.version)] * 2 == [(each.route_set, each.version) for each in found]


async def test_query_overtaken_by_a_write_is_answered_at_the_new_position() -> None:
    """The stage is a function of text and position in every set."""
    async with router_with() as router:
        own = await made(router, "own")
        asked = zip(questions(), await answers(own), strict=True)
        text = next(text for text, m in asked if (m.route, m.stage) == ("music", "static"))
        await own.aadd_utterances("flight", [text])
        assert "encoder" == (await own.aquery(text, explain=True)).stage
        scorer, go_on = router._engine().scorer, asyncio.Event()
        loop, held = asyncio.get_running_loop(), asyncio.Event()

        def hold(_: object) -> None:
            loop.call_soon_threadsafe(held.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)

        scorer.call(hold)
        await held.wait()
        write = asyncio.ensure_future(own.aremove_utterances("flight", [text]))
        await until(lambda: len(scorer._inbox) == 1)
        query = asyncio.ensure_future(own.aquery(text, explain=True, use_cache=False))
        await until(lambda: len(scorer._inbox) == 2)
        await asyncio.sleep(0)
        go_on.set()
        written, overtaken = await write, await query

        assert (written.version, "music", "static") == (
            overtaken.version, overtaken.route, overtaken.stage,
        )  # fmt: skip


async def test_shadow_is_asked_for_sure_queries_as_well() -> None:
    """They are answered as without the shadow, and compared."""
    async with router_with() as router:
        source = await made(router, "v1")
        expected = await answers(source)
        await router.sets.fork("v1", "v2")
        await router.sets.put_alias("live", "v1", shadow="v2", shadow_share=1.0)
        own = await answers(router.set("live"))
        engine = router._engine()
        await until(lambda: engine.shadow_figures("live").compared == len(own))

        assert shown(expected) == shown(own)


async def test_restarted_router_decides_as_before(tmp_path: Path) -> None:
    """The static rows are built from the stored set, the calibration is a part of it."""
    path = tmp_path / "routes.sqlite"
    async with router_with(path) as router:
        before = await answers(await made(router, "own"))
    async with router_with(path) as router:
        own = router.set("own")
        assert "on" == own.cascade().state
        assert shown(before) == shown(await answers(own))


async def test_three_nodes_decide_equally(tmp_path: Path, valkey_server: Server) -> None:
    """Also one that came later; each set is measured once, by one node."""
    encoder, table = await asyncio.to_thread(distilled)
    async with peers(tmp_path, valkey_server.url, 2, encoder=encoder, cascade=[table]) as found:
        await made(found[0].router, "v1")
        await found[1].router.sets.fork("v1", "v2")
        await found[1].router.sets.put_alias("live", "v2")
        late = await found.add("late")
        await late.router.wait_ready()
        await found.settle()
        forks = [peer.router.set("v2") for peer in found.all]
        await until(lambda: all("on" == fork.cascade().state for fork in forks))
        # A node may measure a set at any moment, which is an entry.
        while True:
            before = await found.settle()
            each = [await answers(peer.router.set("live")) for peer in found.all]
            if {before} == {peer.position for peer in found.all}:
                break

        assert shown(each[0]) == shown(each[1]) == shown(each[2])
        assert 1 == len({match.version for own in each for match in own})
        assert {"static", "encoder"} == {match.stage for match in each[0]}
        await found.judge()


def state_of(node: NodeProcess, wanted: str) -> None:
    give_up_at = time.monotonic() + WAIT_SECONDS
    url = f"{node.url}/v1/sets/own/settings/cascade"
    while (report := httpx.get(url).json())["state"] != wanted:
        assert time.monotonic() < give_up_at, report
        time.sleep(0.1)


def test_killed_node_decides_as_before(tmp_path: Path) -> None:
    """Over HTTP, with the metrics of a set whose cascade is on."""
    encoder, table = distilled()
    save_table(table, table_file(encoder.fingerprint, tmp_path / "cache"))
    node = NodeProcess(
        tmp_path / "node",
        {"model": DEFAULT_MODEL, "model_cache_dir": str(tmp_path / "cache")},
    )
    try:
        node.start()
        base = f"{node.url}/v1/sets/own"
        httpx.put(base).raise_for_status()
        lines = "\n".join(json.dumps(each.model_dump(exclude={"vectors"})) for each in things())
        headers = {"content-type": "application/x-ndjson"}
        httpx.post(f"{base}/import", content=lines, headers=headers, timeout=60).raise_for_status()
        settings = httpx.get(f"{base}/settings").json()
        settings |= {"aggregation": "blend", "threshold": 0.49, "confidence_min": None}
        settings |= {"cascade": True}
        httpx.put(f"{base}/settings", json=settings).raise_for_status()
        state_of(node, "on")
        seen = []
        for _ in range(2):
            base = f"{node.url}/v1/sets/own"
            asked = [{"text": text, "explain": True} for text in questions()]
            found = [httpx.post(f"{base}/query", json=each).json() for each in asked]
            seen.append([{**each, "node": "", "version": ""} for each in found])
            metrics = httpx.get(f"{node.url}/metrics").text
            assert 'synaptoroute_sets_cascade{state="on"} 1.0' in metrics
            static = sum(each["stage"] == "static" for each in found)
            assert f"synaptoroute_queries_static_total {float(static)}" in metrics
            node.kill()
            node.start()
            state_of(node, "on")
    finally:
        node.end()

    assert seen[0] == seen[1]
    assert {"static", "encoder"} == {each["stage"] for each in seen[0]}
