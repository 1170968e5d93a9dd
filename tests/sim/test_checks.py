"""Goal: the checks of the simulation bite.  Method: histories that are known to be bad."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.checks import (
    convergence,
    durability,
    encoders,
    learning,
    linearizable,
    once,
    order,
    requests,
    route_sets,
    sessions,
)
from sim.checks.prefix import PrefixCheck
from sim.history import Answer, HeadRead, History, Op, Read
from synaptoroute.core.change import FeedbackItem, FittedDecision
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import (
    CalibrateDecision,
    Mutation,
    Position,
    Proposal,
    PutAlias,
    PutFeedback,
    PutRoute,
    PutSet,
    PutSettings,
    ReviseRoutes,
    Revision,
    Settings,
)
from synaptoroute.core.sets import RouteSets
from synaptoroute.core.table import RouteTable

pytestmark = pytest.mark.sim
A, B = b"a" * 16, b"b" * 16
CHAINS = ("0" * 40, "1" * 40, "2" * 40)


def op(op_id: bytes, at: int, began: int, ended: int | None, **fields: object) -> Op:
    """A write that was applied."""
    made = Op(op_id, "r", "put", b"", None, began, ended, outcome="applied", at=Revision(1, at))
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def history(*ops: Op, reads: list[Read] | None = None) -> History:
    """What clients saw."""
    return History({each.op_id: each for each in ops}, reads or [])


def position(seq: int, chain: int = 1, epoch: int = 1) -> Position:
    """A position with one of a few chains."""
    return Position(epoch, seq, CHAINS[chain])


def test_good_history_has_no_violation() -> None:
    """What is right is let through."""
    good = history(op(A, 1, 0, 1), op(B, 2, 2, 3))
    prefix = PrefixCheck()
    prefix.committed("n0", position(1), "d")
    prefix.committed("n1", position(1), "d")
    prefix.committed("n0", position(2, 2), "e")

    assert [] == prefix.found
    assert [] == durability.lost(good, {"n0": [A, B]})
    assert [] == once.doubled({"n0": {A: 1, B: 1}})
    assert [] == order.backwards(good) + order.unserial(good) + sessions.blind(good)
    assert [] == convergence.apart(position(2), {"n0": position(2)}, {"n0": "d", "n1": "d"})


def test_two_histories_at_one_position_are_found() -> None:
    """One place with two chains is a fork, on whatever node it is seen."""
    prefix = PrefixCheck()
    prefix.committed("n0", position(1, 1), "d")
    prefix.committed("n1", position(1, 2), "d")

    assert ["two histories at 1.1, one of them on n1"] == prefix.found


def test_two_states_of_one_history_are_found() -> None:
    """The same entries give the same state."""
    prefix = PrefixCheck()
    prefix.committed("n0", position(1), "d")
    prefix.committed("n1", position(1), "e")

    assert ["two states at 1.1, one of them on n1"] == prefix.found


def test_position_that_runs_backwards_is_found() -> None:
    """No node applies what it has applied, and none goes back to an older epoch."""
    prefix = PrefixCheck()
    prefix.installed("n0", position(2, epoch=2))
    prefix.committed("n0", position(1, 2, epoch=2), "d")
    prefix.installed("n0", position(9, epoch=1))

    assert ["n0 went from 2.2 to 2.1", "n0 went from epoch 2 to 1"] == prefix.found


def test_skipped_entry_is_found() -> None:
    """Nothing is applied but the entry after the last one."""
    prefix = PrefixCheck()
    prefix.committed("n0", position(1), "d")
    prefix.committed("n0", position(3, 2), "e")

    assert ["n0 skipped what is before 1.3"] == prefix.found


def test_lost_acknowledged_write_is_found() -> None:
    """Only what nobody was told of may be missing."""
    told, untold = history(op(A, 1, 0, 1)), history(op(A, 1, 0, None))

    assert 1 == len(durability.lost(told, {"n0": [B], "n1": [A]}))
    assert [] == durability.lost(untold, {"n0": []})


def test_double_effect_is_found() -> None:
    """Twice is once too often."""
    assert 1 == len(once.doubled({"n0": {A: 2, B: 1}}))


def test_order_that_contradicts_real_time_is_found() -> None:
    """Who began after another one's end has the later place."""
    assert 1 == len(order.backwards(history(op(A, 2, 0, 1), op(B, 1, 2, 3))))
    assert [] == order.backwards(history(op(A, 2, 0, 2), op(B, 1, 1, 3)))


def test_lost_update_is_found() -> None:
    """A conditional write replaces the revision that it names."""
    blind = op(B, 2, 1, 2, kind="cas", if_match=Revision(1, 0))
    seeing = op(B, 2, 1, 2, kind="cas", if_match=Revision(1, 1))

    assert 1 == len(order.unserial(history(op(A, 1, 0, 1), blind)))
    assert [] == order.unserial(history(op(A, 1, 0, 1), seeing))


def test_read_without_its_named_write_is_found() -> None:
    """A version is a floor."""
    unseen = Read("n0", Revision(1, 2), Revision(1, 3), A, is_seen=False)
    older = Read("n0", Revision(1, 2), Revision(1, 1), A, is_seen=True)

    assert 2 == len(sessions.blind(history(reads=[unseen, older])))


def test_nodes_that_do_not_converge_are_found() -> None:
    """After the faults there is one position and one state."""
    assert 1 == len(convergence.apart(None, {}, {}))
    assert 1 == len(convergence.apart(position(2), {"n0": position(1)}, {}))
    assert 1 == len(convergence.apart(position(1), {}, {"n0": "d", "n1": "e"}))


def test_row_or_header_of_another_encoder_is_found() -> None:
    """A vector of the former encoder, and a header that names it."""
    table = RouteTable(dim=1)
    table.apply(Proposal(A, PutRoute("r", ("text",), (b"new1",))), Revision(1, 1))
    held, vectors = {"n0": ("new", 1)}, {"new": b"new1", "old": b"old1"}

    assert [] == encoders.strange(("new", 1), held, {"n0": [table]}, vectors)
    assert 1 == len(encoders.strange(("old", 1), held, {"n0": [table]}, vectors))
    assert 1 == len(encoders.strange(("new", 1), held, {"n0": [table]}, {"new": b"old1"}))


def seen(began: int, ended: int, value: bytes, node: str = "n0") -> HeadRead:
    """A read of the register."""
    return HeadRead(node, "r", began, ended, value)


def registers(*reads: HeadRead, writes: list[Op]) -> History:
    """Writes and reads of one register."""
    made = history(*writes)
    made.head_reads = list(reads)
    return made


def test_stale_read_is_found() -> None:
    """A read that began after a write had ended sees it, or a later one."""
    writes = [op(A, 1, 0, 1), op(B, 2, 2, 3)]

    assert [] == linearizable.stale(registers(seen(4, 5, B), writes=writes))
    assert 1 == len(linearizable.stale(registers(seen(4, 5, A), writes=writes)))
    assert [] == linearizable.stale(registers(seen(2, 4, A), writes=writes)), "they overlap"
    assert 1 == len(linearizable.stale(registers(seen(2, 3, b""), writes=writes)))


def test_read_that_goes_back_is_found() -> None:
    """A write that nobody was told of counts as soon as a read has seen it."""
    writes = [op(A, 1, 0, 1), op(B, 2, 2, None)]
    forth = registers(seen(3, 4, A), seen(5, 6, B), writes=writes)
    back = registers(seen(3, 4, B), seen(5, 6, A), writes=writes)
    overlapping = registers(seen(3, 6, B), seen(5, 8, A), writes=writes)

    assert [] == linearizable.stale(forth)
    assert 1 == len(linearizable.stale(back))
    assert [] == linearizable.stale(overlapping)


def test_value_from_nowhere_is_found() -> None:
    """A read sees what was written, and not before it was."""
    assert 1 == len(linearizable.stale(registers(seen(0, 1, B), writes=[op(A, 1, 0, 1)])))
    assert 1 == len(linearizable.stale(registers(seen(0, 1, A), writes=[op(A, 1, 2, 3)])))


def test_answer_of_another_request_is_found() -> None:
    """Two requests with one place, and a refusal of the one that decided."""
    at, later = Revision(1, 2), Revision(1, 5)

    def told(*answers: tuple[bytes, str, Revision]) -> History:
        return History(answers=[Answer("n0", A, *each) for each in answers])

    good = told((A, "", at), (A, "", at), (B, "idempotency_conflict", later))
    shared = told((A, "", at), (B, "", at))
    refused = told((A, "idempotency_conflict", later))

    assert [] == requests.confused(good, {A: A}, {1: 0})
    assert 1 == len(requests.confused(shared, {A: A}, {1: 0}))
    assert 1 == len(requests.confused(refused, {A: A}, {1: 0}))
    assert [] == requests.confused(refused, {A: A}, {1: 0, 2: 4})


# --- learning ---------------------------------------------------------------------------


def learned(*steps: tuple[str, Mutation]) -> History:
    """Writes that took effect one after the other."""
    ops = [
        op(bytes([number]) * 16, number, 0, 1, kind=kind, proposal=Proposal(b"", mutation))
        for number, (kind, mutation) in enumerate(steps, start=1)
    ]
    return history(*ops)


def table_with(*items: str, fit: bytes = b"") -> dict[str, RouteTable]:
    table = RouteTable()
    table.feedback = {each: FeedbackItem(each, "", None, None, 1, 1, 1) for each in items}
    table.decision = FittedDecision(fit)
    return {"n0": table}


SAY_A = ("say", PutFeedback("a", "", None, None, 1))
SAY_B = ("say", PutFeedback("b", "", None, None, 1))


def test_review_that_is_nowhere_is_found() -> None:
    said = learned(SAY_A, SAY_B, ("learn", ReviseRoutes((), ("b",))))

    assert learning.forgotten(said, table_with("a")) == []
    assert "were accepted" in learning.forgotten(said, table_with())[0]
    assert "were accepted" in learning.forgotten(said, table_with("a", "b"))[0]


def test_reviews_end_with_the_queue() -> None:
    said = learned(SAY_A, ("off", PutSettings(Settings())), SAY_B)

    assert learning.forgotten(said, table_with("b")) == []
    assert learning.forgotten(said, table_with("a", "b")) != []


def test_review_that_counts_twice_is_found() -> None:
    assert learning.forgotten(learned(SAY_A, SAY_A), table_with("a")) != []


def test_fit_that_is_not_the_newest_is_found() -> None:
    fits = learned(("fit", CalibrateDecision(b"1")), ("fit", CalibrateDecision(b"2")))

    assert learning.forgotten(fits, table_with(fit=b"2")) == []
    assert "newest fit" in learning.forgotten(fits, table_with(fit=b"1"))[0]


# --- route sets ---------------------------------------------------------------------------


def sets_with(**routes: tuple[str, ...]) -> dict[str, RouteSets]:
    """A node with the set ``s1`` and these routes in it."""
    sets = RouteSets(RouteTable())
    at = Revision(1, 1)
    vectors = {name: (b"0000",) * len(texts) for name, texts in routes.items()}
    puts = [PutRoute(name, texts, vectors[name]) for name, texts in routes.items()]
    for mutation in (PutSet("s1"), *puts):
        name = "" if isinstance(mutation, PutSet) else "s1"
        sets.apply(Proposal(bytes(16), mutation, route_set=name), at, SETS_LEVEL)
    return {"n0": sets}


def within(*texts: str) -> tuple[str, Mutation]:
    return "within", PutRoute("a", texts, (b"0000",) * len(texts))


def in_sets(*steps: tuple[str, Mutation]) -> History:
    """Writes to ``s1`` that took effect one after the other."""
    found = learned(*steps)
    for each in found.ops.values():
        assert isinstance(each.proposal, Proposal)
        is_inside = isinstance(each.proposal.mutation, PutRoute)
        each.proposal = replace(each.proposal, route_set="s1" if is_inside else "")
    return found


def test_route_that_is_not_in_its_set_is_found() -> None:
    wrote = in_sets(("set", PutSet("s1")), within("x"))

    assert route_sets.misplaced(wrote, sets_with(a=("x",)), ()) == []
    assert "the routes" in route_sets.misplaced(wrote, sets_with(), ())[0]
    assert "the routes" in route_sets.misplaced(wrote, sets_with(a=("y",)), ())[0]


def test_write_to_a_set_that_is_not_there_is_found() -> None:
    assert "not there" in route_sets.misplaced(in_sets(within("x")), sets_with(), ())[0]


def test_promotion_of_what_was_not_measured_is_found() -> None:
    def promoted(measured: Revision, *more: tuple[str, Mutation]) -> list[str]:
        alias = ("promote", PutAlias("live", "s1", target_revision=measured))
        log = in_sets(("set", PutSet("s1")), within("x"), *more, alias)
        return route_sets.misplaced(log, sets_with(a=("x",)), ())

    assert not any("measured" in found for found in promoted(Revision(1, 2)))
    assert any("measured" in found for found in promoted(Revision(1, 1)))
    assert any("measured" in found for found in promoted(Revision(1, 2), within("y")))
