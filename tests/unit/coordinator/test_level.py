"""The coordinator's level is what the voters signed, whatever Redis says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from synaptoroute.sequencer.node_rows import NodeReport, NodeSeen
from synaptoroute_coordinator.actions.executor import Executor

pytestmark = pytest.mark.unit

ROW = NodeReport("n1", "", "voter", "1", 3, "f", 1, 1, "0" * 40, "0", "live", log_level=3)


def seen(name: str, level: int, key: str = "a" * 64) -> NodeSeen:
    return NodeSeen(replace(ROW, node_id=name, log_level=level), 0, key)


def executor(level: int = 1, voters: tuple[str, ...] = ("n1", "n2", "n3")) -> Executor:
    made = Executor(cast(Any, SimpleNamespace(attach=lambda **_: None)))
    made.update_head(cast(Any, SimpleNamespace(level=level, voters=voters)))
    return made


@pytest.mark.parametrize(
    ("rows", "level"),
    [
        ([seen("n1", 3), seen("n2", 3)], 3),
        ([seen("n1", 3), seen("n2", 2), seen("n3", 2)], 2),
        ([seen("n1", 3), seen("n2", 3, ""), seen("n3", 3, "")], 1),
        ([seen("n1", 3), seen("o1", 3), seen("o2", 3)], 1),
        ([], 1),
    ],
    ids=["majority", "lower one of the majority", "unsigned", "observers", "nobody"],
)
def test_level_is_taken_from_signed_rows(rows: list[NodeSeen], level: int) -> None:
    made = executor()
    assert made.update_level(rows) is (level > 1)
    assert level == made.level


def test_level_does_not_fall() -> None:
    made = executor(level=3)
    assert not made.update_level([seen("n1", 2), seen("n2", 2)])
    made.update_head(cast(Any, SimpleNamespace(level=1, voters=())))
    assert made.level == 3
