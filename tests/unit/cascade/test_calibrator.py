"""Which route set is calibrated next."""

from __future__ import annotations

import asyncio
import math

import pytest

from synaptoroute.cascade import Calibration, calibrator
from synaptoroute.cascade.calibrator import Calibrator
from synaptoroute.cascade.cascade import RECALIBRATED_SHARE, Cascade, CascadeStatus
from synaptoroute.errors import NotReady

pytestmark = pytest.mark.unit

MEASURED = Calibration("1.1", "f", "t", 4, "")


class Stage(Cascade):
    """A first stage of which a share changed since its calibration; infinite without one."""

    def __init__(self, changed_share: float) -> None:
        super().__init__([])
        self.changed_share = changed_share

    @property
    def wants_calibration(self) -> bool:
        return self.changed_share >= RECALIBRATED_SHARE

    @property
    def status(self) -> CascadeStatus:
        if self.changed_share == math.inf:
            return CascadeStatus("uncalibrated")
        return CascadeStatus("on", changed_share=self.changed_share, calibration=MEASURED)


async def run(
    stages: dict[str, Cascade], failing: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Calibrate until ``count`` were tried; returns the names in order."""
    monkeypatch.setattr(calibrator, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(calibrator, "SETTLE_SECONDS", 0.0)
    order: list[str] = []
    running = 0

    async def calibrate(name: str) -> None:
        nonlocal running
        running += 1
        assert running == 1
        order.append(name)
        await asyncio.sleep(0)
        running -= 1
        if name == failing:
            raise NotReady("no log")
        stage = stages[name]
        assert isinstance(stage, Stage)
        stage.changed_share = 0.0

    task = Calibrator(calibrate, lambda: stages, None)
    task.start()
    async with asyncio.timeout(10):
        while len(order) < count:
            await asyncio.sleep(0)
    await task.stop()
    return order


async def test_sets_are_calibrated_one_at_a_time_the_most_changed_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages: dict[str, Cascade] = {
        "": Stage(0.2), "little": Stage(0.05), "much": Stage(0.5), "new": Stage(math.inf),
    }  # fmt: skip
    assert ["new", "much", ""] == await run(stages, "little", 3, monkeypatch)


async def test_set_that_cannot_be_calibrated_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stages: dict[str, Cascade] = {"a": Stage(0.2), "b": Stage(0.5), "c": Stage(0.3)}
    assert ["b", "c", "a"] == await run(stages, "b", 3, monkeypatch)


async def test_first_measurement_waits_for_the_first_fit_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fit changes the score, so what was measured before would no longer apply."""
    monkeypatch.setattr(calibrator, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(calibrator, "SETTLE_SECONDS", 0.0)
    stage = Stage(math.inf)
    stage._awaits_fit = True
    measured: list[str] = []

    async def calibrate(name: str) -> None:
        measured.append(name)
        stage.changed_share = 0.0

    task = Calibrator(calibrate, lambda: {"": stage}, None, is_fitting=True)
    task.start()
    for _ in range(50):
        await asyncio.sleep(0)
    before = [*measured]
    monkeypatch.setattr(calibrator, "FIT_SECONDS_MAX", 0.0)
    async with asyncio.timeout(10):
        while not measured:
            await asyncio.sleep(0)
    await task.stop()

    assert ([], [""]) == (before, measured)
