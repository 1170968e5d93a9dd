"""Goal: the checkers of the system tests bite.  Method: histories that are known to be bad."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkers import (
    History,
    LogEntry,
    Read,
    Version,
    Write,
    broken_sessions,
    differences,
    forks,
    lost_or_doubled,
    out_of_order,
    unserial,
    violations,
)

pytestmark = pytest.mark.unit


def entry(seq: int, op: str, *, before: str | None = None, is_applied: bool = True) -> LogEntry:
    """An entry whose chain is named after its place."""
    prev = f"c{seq - 1}" if before is None else before
    return LogEntry(Version(1, seq), op, prev, f"c{seq}", is_applied)


def write(op: str, seq: int, began: float, ended: float, **changes: object) -> Write:
    """An acknowledged write."""
    made = Write(op, began, ended, 200, "applied", Version(1, seq))
    return replace(made, **changes)  # type: ignore[arg-type]


LOG = [entry(1, "a"), entry(2, "b"), entry(3, "c")]
GOOD = History([write("a", 1, 0, 1), write("b", 2, 2, 3), write("c", 3, 2, 4)])
VIEWS = {"n0": {"digest": "d", "version": "1.3"}, "n1": {"digest": "d", "version": "1.3"}}


def test_good_history_has_no_violation() -> None:
    """What is right is let through."""
    found = violations(GOOD, {"n0": LOG, "n1": LOG[1:]}, VIEWS)

    assert [] == found


def test_any_differing_fact_is_found() -> None:
    """Two nodes with one version and two digests differ."""
    views = {"n0": {"digest": "d"}, "n1": {"digest": "e"}}

    assert ["digest differs (n0: d, n1: e)"] == differences(views)
    assert 1 == len(differences({"n0": {"rows": [1]}, "n1": {}}))


def test_two_histories_at_one_position_are_found() -> None:
    """One number with two chains is a fork, whatever the nodes hold later."""
    other = [LOG[0], replace(LOG[1], chain="x"), replace(LOG[2], prev_chain="x")]

    assert ["n1 and n0 hold two histories at Version(epoch=1, seq=2)"] == forks(
        {"n0": LOG, "n1": other}
    )


def test_hole_and_broken_chain_are_found() -> None:
    """An op log has every place and links each to the one before."""
    assert 1 == len(forks({"n0": [LOG[0], LOG[2]]}))
    assert 1 == len(forks({"n0": [LOG[0], entry(2, "b", before="zz")]}))


def test_lost_write_is_found() -> None:
    """An acknowledged write is at the place that its answer named."""
    lost = History([write("z", 2, 0, 1)])

    assert 1 == len(lost_or_doubled(lost, LOG))
    assert 1 == len(lost_or_doubled(History([write("a", 9, 0, 1)]), LOG))


def test_pending_write_may_be_lost() -> None:
    """Nothing was promised to whoever got no acknowledgement."""
    pending = History([Write("z", 0, 1, 202, "pending", None)])

    assert [] == lost_or_doubled(pending, LOG)


def test_double_effect_is_found() -> None:
    """One op_id may stand in the log twice, but takes effect once."""
    doubled = [*LOG, entry(4, "b")]
    repeated = [*LOG, entry(4, "b", is_applied=False)]

    assert ["b took effect 2 times"] == lost_or_doubled(History(), doubled)
    assert [] == lost_or_doubled(History(), repeated)


def test_order_that_contradicts_real_time_is_found() -> None:
    """Who began after another one's end has the later place."""
    backwards = History([write("a", 2, 0, 1), write("b", 1, 2, 3)])
    together = History([write("a", 2, 0, 2), write("b", 1, 1, 3)])

    assert 1 == len(out_of_order(backwards))
    assert [] == out_of_order(together)


def test_retried_write_keeps_its_first_position() -> None:
    """A retry with the same identity names the place of the first try."""
    retried = History([write("a", 1, 0, 1), write("b", 2, 2, 3), write("a", 1, 4, 5)])

    assert [] == out_of_order(retried)


def test_lost_update_is_found() -> None:
    """Two conditional writes may not both replace the same revision."""
    first = write("a", 1, 0, 1, route="r")
    second = write("b", 2, 2, 3, route="r", if_match=Version(1, 1))
    third = write("c", 3, 2, 4, route="r", if_match=Version(1, 1))

    assert [] == unserial(History([first, second]))
    assert 1 == len(unserial(History([first, second, third])))


def test_read_older_than_asked_is_found() -> None:
    """A named version is a floor."""
    stale = Read("c", 0, 1, Version(1, 2), min_version=Version(1, 3))

    assert 1 == len(broken_sessions(History(reads=[stale])))


def test_read_that_misses_its_own_write_is_found() -> None:
    """A read that carries the write's version sees the write."""
    own = write("a", 5, 0, 1, client="c")
    blind = Read("c", 2, 3, Version(1, 4), min_version=Version(1, 5))

    assert [] != broken_sessions(History([own], [blind]))


def test_read_older_than_the_previous_read_is_found() -> None:
    """A client that carries what it saw never sees less."""
    reads = [
        Read("c", 0, 1, Version(1, 7), min_version=Version(1, 5)),
        Read("c", 2, 3, Version(1, 6), min_version=Version(1, 7)),
    ]

    assert ["c asked for Version(epoch=1, seq=7) and got Version(epoch=1, seq=6)"] == [
        each for each in broken_sessions(History(reads=reads)) if "asked" in each
    ]
    assert 2 == len(broken_sessions(History(reads=reads)))
