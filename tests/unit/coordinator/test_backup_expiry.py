"""When backups are deleted, and with them the texts that were erased since."""

from __future__ import annotations

import pytest

from synaptoroute_coordinator.actions.backups import Backup
from synaptoroute_coordinator.app.fleet import expiries_of

pytestmark = pytest.mark.unit


def backup(at_ms: int) -> Backup:
    return Backup(f"b{at_ms}", at_ms, "n", "1.2", "c", "s", 1, "e", 8, "l")


def test_backup_expires_when_enough_newer_ones_are_due() -> None:
    """With three kept and one a minute, the newest of two goes in three minutes."""
    found = [backup(120_000), backup(60_000)]

    assert [300_000, 240_000] == expiries_of(found, 3, 60.0)


def test_backup_without_a_schedule_does_not_expire() -> None:
    assert [None] == expiries_of([backup(1)], 7, 0.0)
    assert [] == expiries_of([], 7, 60.0)
