"""Goal: with the adaptive score the cascade answers what the encoder would decide.

Method: the real encoder, a table of its frequent tokens, real routers, a real fit, SQLite and
Valkey.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from encoders import distilled, mixed_things
from followers import peers
from routers import stream, until
from servers import Server
from synaptoroute.cascade import calibrator as calibrator_module
from synaptoroute.config import EngineConfig
from synaptoroute.core.mutation import Calibrate
from synaptoroute.models import FeedbackSettings, Match, Route
from synaptoroute.router import AdaptiveRouter, WriteOptions
from synaptoroute.storage import SQLiteStorage

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
ROUTES, QUESTIONS = mixed_things()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is tested, not the patience."""
    monkeypatch.setattr(calibrator_module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(calibrator_module, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(calibrator_module, "SPREAD_SECONDS", 0.3)


@asynccontextmanager
async def router_with(path: Path | None = None) -> AsyncIterator[AdaptiveRouter]:
    """A router with the settings of new databases, fitted on demand."""
    encoder, table = await asyncio.to_thread(distilled)
    config = EngineConfig(lanes=1, node_name="n", fit_confidence=False)
    router = AdaptiveRouter(
        encoder, SQLiteStorage(path) if path else None, config=config, cascade=[table]
    )
    await router.start()
    try:
        yield router
    finally:
        await router.stop()


async def change(router: AdaptiveRouter, **changes: object) -> None:
    settings = await router.aget_settings()
    await router.aput_settings(settings.model_copy(update=changes))


async def fill(router: AdaptiveRouter) -> None:
    """Import routes, fit the confidence, and wait for the cascade."""
    await router.aimport(stream(ROUTES))
    await router.fits.fit_now()
    await change(router, cascade=True)
    await until(lambda: router.cascade().state == "on")


async def answers(router: AdaptiveRouter, texts: list[str]) -> list[Match]:
    return [await router.aquery(text, explain=True) for text in texts]


async def test_static_answers_are_those_of_the_adaptive_decision() -> None:
    """Route, probability and threshold are on the scale of the encoder."""
    async with router_with() as router:
        await router.aimport(stream(ROUTES))
        await router.fits.fit_now()
        before = await answers(router, QUESTIONS)
        await change(router, cascade=True)
        await until(lambda: router.cascade().state == "on")
        after = await answers(router, QUESTIONS)
        report = router.cascade()

        assert "adaptive" == (await router.aget_settings()).aggregation
        assert report.confidence is True
        static = [match for match in after if match.stage == "static"]
        assert len(static) > len(after) / 4
        for old, new in zip(before, after, strict=True):
            assert old.route == new.route
            if new.stage == "static":
                assert new.confidence is not None
                assert old.confidence is not None
                assert new.p_none is not None
                assert new.confidence >= 0.5
                assert abs(new.confidence - old.confidence) < 0.2
                assert new.threshold is None
                assert 0.0 <= new.p_none <= 1.0 - new.confidence
                assert 1.0 >= sum(each.confidence or 0.0 for each in new.candidates or ())


async def test_static_answer_does_not_depend_on_its_batch() -> None:
    """Alone, together and in reverse order the answers are equal."""
    async with router_with() as router:
        await fill(router)
        alone = await answers(router, QUESTIONS)
        together = await router.aquery_batch(QUESTIONS, explain=True)
        reverse = await router.aquery_batch(QUESTIONS[::-1], explain=True)
        at_once = await asyncio.gather(*(router.aquery(text, explain=True) for text in QUESTIONS))

        assert {"static", "encoder"} == {match.stage for match in alone}
        assert alone == together == reverse[::-1] == list(at_once)


async def test_least_confidence_of_settings_and_route_holds_for_static_answers() -> None:
    """Queries below it are left to the encoder."""
    async with router_with() as router:
        await fill(router)
        static = [match for match in await answers(router, QUESTIONS) if match.stage == "static"]
        route = static[0].route
        assert route is not None
        await router.apatch_route(route, confidence_min=1.0)
        own = await answers(router, QUESTIONS)

        assert "on" == router.cascade().state
        assert not [match for match in own if match.route == route and match.reason != "exact"]
        assert not [match for match in own if match.stage == "static" and match.route == route]
        assert [match for match in own if match.stage == "static"]

        await change(router, confidence_min=0.97)
        await until(lambda: router.cascade().state in ("on", "refused"))
        strict = await answers(router, QUESTIONS)
        sure = [match.confidence for match in strict if match.stage == "static"]

        assert all(confidence is not None and confidence >= 0.97 for confidence in sure)


async def test_threshold_holds_for_static_answers() -> None:
    """It is compared with the score of ``blend``, which a static answer can only expect."""
    async with router_with() as router:
        await fill(router)
        static = [match for match in await answers(router, QUESTIONS) if match.stage == "static"]
        route = static[0].route
        assert route is not None
        await router.apatch_route(route, threshold=0.99)

        own = await answers(router, QUESTIONS)
        assert not [match for match in own if match.route == route]
        assert [match for match in own if match.stage == "static"]


async def test_route_with_negatives_is_left_to_the_encoder() -> None:
    """Negatives are compared in vectors of the encoder."""
    async with router_with() as router:
        await fill(router)
        name = ROUTES[0].name
        asked = [text for text in QUESTIONS if name in text]
        assert "static" in {match.stage for match in await answers(router, asked)}
        changed = ROUTES[0].model_copy(update={"negatives": [asked[0]]})
        await router.aput_route(changed)
        after = await answers(router, asked)

        assert "on" == router.cascade().state
        assert {"encoder"} == {match.stage for match in after}
        assert name != after[0].route


async def test_exact_unknown_and_contextual_texts_are_decided_as_without_the_cascade() -> None:
    """Only plain texts that the encoder understands are settled."""
    async with router_with() as router:
        await fill(router)
        plain = await answers(router, ["\U0001f44e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"])
        exact = await router.aquery(ROUTES[2].utterances[0].upper() + "!", explain=True)
        stages = [match.stage for match in await answers(router, QUESTIONS)]
        sure = QUESTIONS[stages.index("static")]
        before = router.cascade().static
        await router.aquery(sure, prior={"music": 1.0})
        await router.aquery(sure, context=["hello"])
        await router.aquery(sure, routes=["music", "dinner"])

        assert ["not_understood"] * 2 == [match.reason for match in plain]
        assert ("exact", 1.0) == (exact.reason, exact.confidence)
        assert before == router.cascade().static


async def test_feedback_finds_static_answers() -> None:
    """They carry a ``decision_id`` while the review queue is on, over every way of asking."""
    async with router_with() as router:
        await fill(router)
        await change(router, feedback=FeedbackSettings())
        await until(lambda: router.cascade().state == "on")
        alone = await answers(router, QUESTIONS)
        batch = await router.aquery_batch(QUESTIONS, explain=True)
        static = [match for match in alone if match.stage == "static"]
        receipt = await router.feedback.put("music", decision_id=static[0].decision_id)
        page = await router.feedback.page()

        assert static
        assert all(match.decision_id for match in (*alone, *batch))
        assert alone == batch
        assert receipt.id
        assert [static[0].route] == [item.was for item in page.items]


async def test_calibration_of_another_score_is_measured_again() -> None:
    """The first fit replaces ``blend`` by the adaptive score, and the guard follows."""
    async with router_with() as router:
        await router.aimport(stream(ROUTES))
        await change(router, cascade=True)
        await until(lambda: router.cascade().state == "on")
        calibration = router.status().cascade.calibration
        assert calibration is not None
        assert "blend" == calibration.scored
        await router.fits.fit_now()
        assert router.cascade().state in ("uncalibrated", "on")
        await until(lambda: router.cascade().state == "on")
        calibration = router.status().cascade.calibration

        assert calibration is not None
        assert "adaptive" == calibration.scored


async def test_refusal_of_an_earlier_release_is_measured_again() -> None:
    """It did not offer the cascade with the adaptive score, and wrote that into the log."""
    async with router_with() as router:
        await router.aimport(stream(ROUTES))
        await router.fits.fit_now()
        await change(router, cascade=True)
        await until(lambda: router.cascade().state == "on")
        calibration = router.status().cascade.calibration
        assert calibration is not None
        fields = json.loads(calibration.dump())
        for name in ("scored", "levels"):
            del fields[name]
        fields |= {"version": 2, "guard": None, "turn": "", "reason": "aggregation_not_offered"}
        await router._writer().write(
            Calibrate(json.dumps(fields, sort_keys=True, separators=(",", ":"))), WriteOptions()
        )
        assert router.cascade().state in ("uncalibrated", "on")
        await until(lambda: router.cascade().state == "on")
        assert router.cascade().confidence is True


async def test_restarted_router_gives_equal_answers(tmp_path: Path) -> None:
    """The numbers behind a static confidence are part of the state."""
    path = tmp_path / "routes.sqlite"
    async with router_with(path) as router:
        await fill(router)
        before = await answers(router, QUESTIONS)
    async with router_with(path) as router:
        assert "on" == router.cascade().state
        assert before == await answers(router, QUESTIONS)


async def test_three_nodes_give_equal_confidences(tmp_path: Path, valkey_server: Server) -> None:
    """At one position each gives the same answer by the same stage, bit for bit."""
    encoder, table = await asyncio.to_thread(distilled)
    settings = {"encoder": encoder, "dim": encoder.dim, "fit_confidence": False}
    async with peers(tmp_path, valkey_server.url, 2, cascade=[table], **settings) as found:
        await found[0].router.aimport(stream(ROUTES))
        await found[0].router.fits.fit_now()
        await change(found[1].router, cascade=True)
        for peer in found.all:
            await until(lambda peer=peer: peer.router.cascade().state == "on")
        late = await found.add("late")
        await late.router.wait_ready()
        await found.settle()
        await until(lambda: late.router.cascade().state == "on")
        seen: set[str] = set()
        while len(seen) != 1:  # again where it was measured anew meanwhile
            each = [await answers(peer.router, QUESTIONS) for peer in found.all]
            seen = {match.version for own in each for match in own}

        shown = [[match.model_copy(update={"node": ""}) for match in own] for own in each]
        assert shown[0] == shown[1] == shown[2]
        assert {"static", "encoder"} == {match.stage for match in shown[0]}
        await found.judge()


async def test_small_set_is_refused_and_answered_by_the_encoder() -> None:
    """The cascade stays off by itself if nothing can be measured."""
    async with router_with() as router:
        await router.aput_route(Route(name="music", utterances=["play a song", "some jazz"]))
        await router.aput_route(Route(name="dinner", utterances=["what to eat", "cook soup"]))
        await change(router, cascade=True)
        await until(lambda: router.cascade().state == "refused")

        assert "too_few_utterances" == router.cascade().reason
        assert (await router.aquery("play a song now", explain=True)).stage is None


async def test_first_routes_are_measured_without_a_fit_and_without_a_restart(
    tmp_path: Path,
) -> None:
    """The score follows from the routes, not from what was there when the node started."""
    async with router_with(tmp_path / "n.sqlite") as router:
        await router.aimport(stream(ROUTES))
        await until(lambda: router.cascade().state == "on")
        before = [match.model_dump() for match in await answers(router, QUESTIONS)]
    async with router_with(tmp_path / "n.sqlite") as router:
        await until(lambda: router.cascade().state == "on")
        after = [match.model_dump() for match in await answers(router, QUESTIONS)]

    assert "static" in {match["stage"] for match in before}
    assert before == after


async def test_static_confidence_does_not_depend_on_the_last_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By thresholds and without a fit it is of numbers that follow from the routes."""
    path = tmp_path / "n.sqlite"
    small = [Route(name=f"r{number}", utterances=[f"code {number}"]) for number in range(10)]
    async with router_with(path) as router:
        await change(router, aggregation="blend", threshold=0.3, confidence_min=None)
        await router.aimport(stream(ROUTES))
        await until(lambda: router.cascade().state == "on")
        # Otherwise the set is measured again, which reads the numbers again.
        monkeypatch.setattr(calibrator_module, "POLL_SECONDS", 1_000.0)
        await asyncio.sleep(0.1)
        await router.aimport(stream(small))
        before = [match.model_dump() for match in await answers(router, QUESTIONS)]
    async with router_with(path) as router:
        await until(lambda: router.cascade().state == "on")
        after = [match.model_dump() for match in await answers(router, QUESTIONS)]

    static = [match for match in before if match["stage"] == "static"]
    assert static
    assert all(match["confidence"] is not None for match in static)
    assert before == after
