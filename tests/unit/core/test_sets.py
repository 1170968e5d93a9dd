"""Route sets in the replicated state: created, forked, removed, aliased, limited, erased."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicas import fresh, log_of, proposal, put, replay
from strategies import DIM
from synaptoroute.core.change import Change
from synaptoroute.core.codec import encode_proposal
from synaptoroute.core.erasure import text_hash
from synaptoroute.core.imports import generation_id
from synaptoroute.core.levels import SETS_LEVEL
from synaptoroute.core.mutation import (
    FOUNDING_SETTINGS,
    DeleteAlias,
    DeleteRoute,
    DeleteSet,
    EraseTexts,
    Finalize,
    ForkSet,
    ImportBegin,
    ImportChunk,
    Mutation,
    Proposal,
    PutAlias,
    PutSet,
    PutSettings,
    PutTests,
    Revision,
    SetLimits,
    SetTest,
    Settings,
    SwitchEncoder,
)
from synaptoroute.core.replica import Replica

pytestmark = pytest.mark.unit


class Log:
    """A replica that is fed one mutation after the other."""

    def __init__(self, level: int = SETS_LEVEL) -> None:
        self.replica: Replica = fresh()
        replay(self.replica, log_of([], founded=level))

    def do(self, mutation: Mutation, **fields: Any) -> Change:
        each = proposal(mutation, self.replica.position.seq, **fields)
        (commit,) = replay(self.replica, log_of([each], after=self.replica.position))
        return commit.change

    def code(self, mutation: Mutation, **fields: Any) -> str | None:
        return self.do(mutation, **fields).outcome.code


@pytest.fixture
def log() -> Log:
    return Log()


def test_sets_are_refused_below_their_level() -> None:
    log = Log(level=4)

    assert log.code(PutSet("support")) == "not_finalized"
    assert log.code(put("a"), route_set="support") == "not_finalized"
    assert log.code(put("a"), note="why") == "not_finalized"
    assert log.code(put("a")) is None


def test_routes_of_two_sets_are_apart(log: Log) -> None:
    log.do(PutSet("support"))
    log.do(put("billing", "one"))
    change = log.do(put("billing", "two", "three"), route_set="support")

    assert change.set_number == 1
    assert [write.slot for write in change.writes] == [0, 1]
    sets = log.replica.sets
    assert sets.default.routes["billing"].utterances == ("one",)
    assert sets.tables[1].routes["billing"].utterances == ("two", "three")
    assert sets.tables[1].settings == FOUNDING_SETTINGS


def test_limits_that_a_write_keeps_are_those_of_the_log(log: Log) -> None:
    every = frozenset(SetLimits.__dataclass_fields__)
    log.do(PutSet("a", SetLimits(utterances_max=9)))
    log.do(PutSet("a", SetLimits(routes_max=3), every - {"routes_max"}))
    unchanged = log.do(PutSet("a", kept=every))
    log.do(PutSet("b", kept=every))

    assert "unchanged" == unchanged.outcome.status
    limits = {each.name: each.limits for each in log.replica.sets.records.values()}
    assert limits["a"] == SetLimits(utterances_max=9, routes_max=3)
    assert limits["b"] == SetLimits()


def test_default_keeps_the_digest_of_earlier_releases() -> None:
    old, new = Log(level=4), Log(level=4)
    old.do(put("a", "x"))
    new.do(put("a", "x"))

    assert old.replica.digest == new.replica.digest == new.replica.table.digest.hex()


def test_write_to_a_set_that_does_not_exist_is_refused(log: Log) -> None:
    assert log.code(put("a"), route_set="ghost") == "set_not_found"
    assert log.code(ForkSet("ghost", "new")) == "set_not_found"
    assert log.code(DeleteSet("ghost")) == "set_not_found"
    assert log.code(PutAlias("live", "ghost")) == "set_not_found"


def test_change_of_all_sets_names_no_set(log: Log) -> None:
    log.do(PutSet("support"))

    assert log.code(Finalize(9), route_set="support") == "invalid_request"
    assert log.code(PutSet("other"), route_set="support") == "invalid_request"


def test_fork_copies_what_answers_and_goes_its_own_way(log: Log) -> None:
    log.do(PutSet("support@1", SetLimits(utterances_max=9)))
    log.do(put("billing", "one", "two"), route_set="support@1")
    log.do(PutTests((SetTest("one?", "billing"),)), route_set="support@1")
    change = log.do(ForkSet("support@1", "support@2"))
    log.do(put("refund", "three"), route_set="support@2")

    sets = log.replica.sets
    assert (change.set_number, change.forked_from, change.outcome.count) == (2, 1, 2)
    assert set(sets.tables[1].routes) == {"billing"}
    assert set(sets.tables[2].routes) == {"billing", "refund"}
    assert sets.tables[2].tests == {"one?": SetTest("one?", "billing")}
    assert sets.records[2].limits == SetLimits(utterances_max=9)
    assert sets.records[2].forked_from == "support@1"


def test_number_of_a_removed_set_is_taken_again(log: Log) -> None:
    log.do(PutSet("a"))
    log.do(PutSet("b"))
    log.do(put("x"), route_set="a")
    log.do(DeleteSet("a"))
    log.do(PutSet("c"))

    sets = log.replica.sets
    assert sets.numbers == {"default": 0, "b": 2, "c": 1}
    assert sets.tables[1].routes == {}


def test_default_and_aliased_sets_stay(log: Log) -> None:
    log.do(PutSet("a"))
    log.do(PutSet("b"))
    log.do(PutAlias("live", "a", shadow="b", shadow_share=0.5))

    assert log.code(DeleteSet("default")) == "invalid_request"
    assert log.code(DeleteSet("a")) == "set_in_use"
    assert log.code(DeleteSet("b")) == "set_in_use"
    log.do(DeleteAlias("live"))
    assert log.code(DeleteSet("a")) is None


@pytest.mark.parametrize("name", ["", "@a", "a b ", "a/b", "x" * 129, "a\x00"])
def test_malformed_names_are_refused(log: Log, name: str) -> None:
    assert log.code(PutSet(name)) == "invalid_request"
    assert log.code(PutAlias(name, "default")) == "invalid_request"


def test_alias_and_set_share_their_names(log: Log) -> None:
    log.do(PutSet("a"))
    log.do(PutAlias("live", "a"))

    assert log.code(PutAlias("a", "default")) == "name_taken"
    assert log.code(PutSet("live")) == "name_taken"
    assert log.code(ForkSet("a", "live")) == "name_taken"
    assert log.code(ForkSet("a", "default")) == "set_exists"


def test_alias_keeps_who_changed_it_and_why(log: Log) -> None:
    log.do(PutSet("a"))
    log.do(PutAlias("live", "default"), author="ann", note="first")
    again = log.do(PutAlias("live", "default"), note="nothing new")
    log.do(PutAlias("live", "a", evidence='{"accuracy":0.9}', at_ms=7), author="bob")

    alias = log.replica.sets.aliases["live"]
    newest, oldest = alias.history
    assert again.outcome.status == "unchanged"
    assert (oldest.before, oldest.target, oldest.author, oldest.note) == (
        "", "default", "ann", "first",
    )  # fmt: skip
    assert (newest.before, newest.target, newest.author, newest.at_ms) == ("default", "a", "bob", 7)
    assert newest.evidence == '{"accuracy":0.9}'


def test_promotion_is_bound_to_the_content_that_was_measured(log: Log) -> None:
    log.do(PutSet("a"))
    log.do(put("x"), route_set="a")
    measured = log.replica.sets.records[1].revision
    log.do(put("y"), route_set="a")
    latest = log.replica.sets.records[1].revision

    assert log.code(PutAlias("live", "a", target_revision=measured)) == "precondition_failed"
    assert log.code(PutAlias("live", "a", target_revision=latest)) is None
    assert log.code(PutAlias("live", "default"), if_match=Revision(1, 1)) == "precondition_failed"
    assert log.code(PutAlias("live", "default"), if_none_match=True) == "precondition_failed"


def test_revision_of_a_set_follows_what_answers(log: Log) -> None:
    log.do(PutSet("a"))
    created = log.replica.sets.records[1].revision
    log.do(put("x"))
    assert log.replica.sets.records[1].revision == created
    log.do(PutSet("a", SetLimits(routes_max=5)))
    assert log.replica.sets.records[1].revision == created
    log.do(PutTests((SetTest("t", None),)), route_set="a")
    assert log.replica.sets.records[1].revision > created


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (SetLimits(utterances_max=2), "utterances_max"),
        (SetLimits(routes_max=1), "routes_max"),
        (SetLimits(bytes_max=20), "bytes_max"),
    ],
)
def test_set_cannot_grow_beyond_a_limit(log: Log, limits: SetLimits, name: str) -> None:
    log.do(PutSet("a", limits))
    log.do(put("x", "one", "two"), route_set="a")
    refused = log.do(put("y", "three"), route_set="a").outcome
    assert (refused.code, name in refused.message) == ("limit_exceeded", True)
    assert log.code(put("y", "three")) is None

    log.do(PutSet("a", replace(limits, utterances_max=1, routes_max=1, bytes_max=1)))
    assert log.code(put("x", "two"), route_set="a") is None, "a set may shrink below its limit"
    assert log.code(DeleteRoute("x"), route_set="a") is None


def test_tests_are_added_replaced_and_removed(log: Log) -> None:
    log.do(PutTests((SetTest("a", "x"), SetTest("b", None))))
    log.do(PutTests((SetTest("a", "y"),), removed=("b", "ghost")))
    assert log.replica.table.tests == {"a": SetTest("a", "y")}
    log.do(PutTests((SetTest("c", "x"),), replace=True))
    assert log.replica.table.tests == {"c": SetTest("c", "x")}
    assert log.do(PutTests((SetTest("c", "x"),), replace=True)).outcome.status == "unchanged"
    assert log.code(PutTests((SetTest("c", "x"),), removed=("c",))) == "invalid_request"


def test_text_is_erased_from_every_set(log: Log) -> None:
    log.do(PutSet("a"))
    log.do(put("x", "keep", "secret"))
    log.do(put("y", "secret"), route_set="a")
    log.do(PutTests((SetTest("secret", "y"),)), route_set="a")
    change = log.do(EraseTexts((text_hash("secret"),)))

    assert [part.set_number for part in change.parts()] == [0, 1]
    assert change.outcome.count == 3
    assert log.replica.table.routes["x"].utterances == ("keep",)
    assert log.replica.sets.tables[1].routes == {}
    assert log.replica.sets.tables[1].tests == {}
    assert log.do(EraseTexts((text_hash("secret"),))).outcome.status == "unchanged"
    frame = encode_proposal(Proposal(bytes(16), EraseTexts((text_hash("secret"),))))
    assert b"secret" not in frame


def test_text_of_an_open_import_cannot_be_erased(log: Log) -> None:
    log.do(ImportBegin("spring"))
    log.do(ImportChunk("spring", 0, (put("x", "secret"),)))

    assert log.code(EraseTexts((text_hash("secret"),))) == "import_rejected"


def test_switch_of_the_encoder_rewrites_every_set(log: Log) -> None:
    log.do(PutSet("a"))
    log.do(put("x", "one"))
    log.do(put("y", "two"), route_set="a")
    generation = generation_id("f" * 64, DIM)
    log.do(ImportBegin(generation))
    log.do(ImportChunk(generation, 0, (put("x", "one"),)))
    assert log.code(SwitchEncoder(generation)) == "import_rejected", "a text of the set is missing"
    log.do(ImportChunk(generation, 1, (put("y", "two"),)))
    change = log.do(SwitchEncoder(generation))

    assert [(part.set_number, len(part.writes)) for part in change.parts()] == [(0, 1), (1, 1)]
    assert all(part.encoder is not None for part in change.parts())
    assert generation not in log.replica.table.imports


def test_founding_settings_do_not_reach_other_sets(log: Log) -> None:
    log.do(PutSet("a"))
    log.do(PutSettings(Settings(topk=7)), route_set="a")

    assert log.replica.sets.tables[1].settings.topk == 7
    assert log.replica.table.settings.topk != 7
