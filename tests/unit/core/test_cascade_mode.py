"""Goal: a route set that says nothing has an automatic cascade, from level 5 of the log on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.digest import settings_hash
from synaptoroute.core.levels import (
    DECISION_LEVEL,
    NAMES_LEVEL,
    SETS_LEVEL,
    is_at_level,
    level_of,
    said_at,
)
from synaptoroute.core.mutation import (
    FOUNDING_SETTINGS,
    Calibrate,
    CascadeMode,
    Mutation,
    Proposal,
    PutSettings,
    ReviseRoutes,
    Revision,
    Settings,
)
from synaptoroute.core.sets import RouteSets
from synaptoroute.core.table import RouteTable
from synaptoroute.snapshot_file import load_settings
from synaptoroute.storage.records import settings_text

pytestmark = pytest.mark.unit

MODES: tuple[CascadeMode, ...] = ("auto", True, False)


def test_settings_that_say_nothing_are_automatic() -> None:
    assert "auto" == Settings().cascade == FOUNDING_SETTINGS.cascade


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("calibration", ["", '{"a":1}'])
def test_mode_is_kept_by_log_and_database(mode: CascadeMode, calibration: str) -> None:
    settings = Settings(cascade=mode, calibration=calibration)
    frame = encode_proposal(Proposal(b"i" * 16, PutSettings(settings)))

    assert PutSettings(settings) == decode_proposal(frame).mutation
    assert settings == load_settings(settings_text(settings))


def test_automatic_mode_has_the_bytes_of_earlier_releases() -> None:
    """These leave the field out where the cascade is off, and do not know another word."""
    settings = Settings()
    frame = encode_proposal(Proposal(b"i" * 16, PutSettings(settings)))

    assert b"cascade" not in frame
    assert '["blend",3,0.49,262144]' == settings_text(settings)


def test_modes_have_digests_of_their_own() -> None:
    assert 3 == len({settings_hash(Settings(cascade=mode)) for mode in MODES})


@pytest.mark.parametrize(
    "mutation",
    [PutSettings(Settings(cascade=False)), ReviseRoutes(settings=Settings(cascade=False))],
)
def test_switching_off_is_of_level_5(mutation: Mutation) -> None:
    """Below it, a write that switches off says nothing, which is off there."""
    assert SETS_LEVEL == level_of(mutation)
    assert not is_at_level(mutation, NAMES_LEVEL)
    assert mutation == said_at(SETS_LEVEL, mutation)
    said = said_at(NAMES_LEVEL, mutation)
    assert is_at_level(said, NAMES_LEVEL)
    assert isinstance(said, PutSettings | ReviseRoutes)
    assert said.settings == replace(mutation.settings, cascade="auto")  # type: ignore[union-attr]


def test_calibration_of_an_automatic_set_waits_for_level_5() -> None:
    """Earlier releases ignore it there: replicas of both must stay equal."""
    sets = RouteSets(RouteTable())
    calibrate = Proposal(b"i" * 16, Calibrate("{}"))

    below = sets.apply(calibrate, Revision(1, 1), NAMES_LEVEL)
    assert ("unchanged", "") == (below.outcome.status, sets.default.settings.calibration)
    sets.apply(calibrate, Revision(1, 2), SETS_LEVEL)
    assert "{}" == sets.default.settings.calibration


def test_set_that_asks_is_measured_at_every_level() -> None:
    sets = RouteSets(RouteTable())
    sets.apply(
        Proposal(b"i" * 16, PutSettings(Settings(cascade=True))), Revision(1, 1), DECISION_LEVEL
    )
    sets.apply(Proposal(b"j" * 16, Calibrate("{}")), Revision(1, 2), DECISION_LEVEL)
    assert "{}" == sets.default.settings.calibration
