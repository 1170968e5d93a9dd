"""A log that copies and removes route sets of some size, entry by entry."""

from __future__ import annotations

from histories import DIM, FINGERPRINT, decided, put
from synaptoroute.core.codec import LEVEL
from synaptoroute.core.mutation import (
    DeleteSet,
    ForkSet,
    Mutation,
    OpenEpoch,
    PutAlias,
    PutSet,
    PutTests,
    SetTest,
)


def steps() -> list[tuple[str, Mutation]]:
    """Mutations in order, each with the set in which it applies."""
    return [
        ("", OpenEpoch("e1", 0, ("n1",), FINGERPRINT, DIM, LEVEL)),
        ("", put("a", 1_600)),
        ("", decided("b", 1)),
        ("", PutTests((SetTest("where", "a"), SetTest("who", None)))),
        ("", ForkSet("default", "draft")),  # 5: four slices of rows
        ("draft", put("c", 700, 2)),
        ("", ForkSet("draft", "draft@2")),  # 7
        ("draft@2", put("d", 3, 3)),
        ("", DeleteSet("draft")),  # 9: frees the number of the first copy
        ("", PutSet("new")),
        ("new", put("e", 3, 4)),
        ("", PutAlias("live", "draft@2", "new", 0.25)),
    ]
