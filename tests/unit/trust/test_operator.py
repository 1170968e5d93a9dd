"""What the operator signed is good for one act of one cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from synaptoroute.cli.app import app
from synaptoroute.core.codec import decode_proposal, encode_proposal
from synaptoroute.core.levels import VOTES_LEVEL
from synaptoroute.core.mutation import OpenEpoch, Position, Proposal, Revision
from synaptoroute.errors import ConfigError, ProtocolError
from synaptoroute.trust.genesis import dump_genesis, read_genesis, read_operator
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.operator import WARRANT_SECONDS, Operator, SignedChange, sign_force

pytestmark = pytest.mark.unit

KEY = NodeIdentity.generate()
OPERATOR = Operator(KEY.public_key, "default")
BASE = Position(3, 40, "ab" * 20)


def test_signed_force_is_good_for_a_history_that_is_not_shorter() -> None:
    warrant = sign_force(KEY, "default", "c", Revision(3, 38))
    OPERATOR.check_force(warrant, "c", BASE)


@pytest.mark.parametrize(
    ("warrant", "why"),
    [
        ("", "not signed"),
        ("{}", "malformed"),
        (sign_force(KEY, "default", "d", Revision(3, 40)), "another recovery"),
        (sign_force(KEY, "default", "c", Revision(2, 40)), "another recovery"),
        (sign_force(KEY, "default", "c", Revision(4, 1)), "another recovery"),
        (sign_force(KEY, "default", "c", Revision(3, 41)), "up to 3.41"),
        (sign_force(KEY, "other", "c", Revision(3, 40)), "wrong signature"),
        (sign_force(NodeIdentity.generate(), "default", "c", Revision(3, 40)), "not its own"),
    ],
)
def test_other_statements_do_not_count(warrant: str, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        OPERATOR.check_force(warrant, "c", BASE)


def test_genesis_file_names_the_operator(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    voters = {"a": NodeIdentity.generate().public_key}
    path.write_text(dump_genesis("default", voters, KEY.public_key))
    assert (voters, KEY.public_key) == (read_genesis(path, "default"), read_operator(path))
    path.write_text(dump_genesis("default", voters))
    assert read_operator(path) == ""
    path.write_text(json.dumps({"namespace": "default", "voters": voters, "operator": "junk"}))
    with pytest.raises(ConfigError):
        read_operator(path)


def test_malformed_key_is_refused() -> None:
    with pytest.raises(ConfigError):
        Operator("junk", "default")


def test_entry_that_is_forced_carries_the_signature() -> None:
    opened = OpenEpoch("b", 40, ("n1",), "f" * 64, 4, warrant="signed")
    frame = encode_proposal(Proposal(b"o" * 16, opened))
    assert (VOTES_LEVEL, opened) == (frame[4], decode_proposal(frame).mutation)


def test_command_makes_a_key_once(tmp_path: Path) -> None:
    path = tmp_path / "operator.key"
    made = CliRunner().invoke(app, ["keys", "operator", str(path), "--json"])
    assert NodeIdentity.load(path).public_key == json.loads(made.output)["public_key"]
    assert path.stat().st_mode & 0o077 == 0
    assert CliRunner().invoke(app, ["keys", "operator", str(path)]).exit_code == 2


def test_signed_change_of_voters_is_good_for_that_change_and_some_minutes() -> None:
    change = SignedChange("c", True, "n4", "ab" * 32)
    warrant = change.sign(KEY, "default", 1_000)
    OPERATOR.check_change(warrant, change, 1_000 + int(WARRANT_SECONDS * 1_000))
    for other in (
        replace(change, cluster_id="d"),
        replace(change, is_adding=False),
        replace(change, node="n5"),
        replace(change, key="cd" * 32),
    ):
        with pytest.raises(ProtocolError, match="another change"):
            OPERATOR.check_change(warrant, other, 1_000)
    with pytest.raises(ProtocolError, match="expired"):
        OPERATOR.check_change(warrant, change, 1_001 + int(WARRANT_SECONDS * 1_000))
    with pytest.raises(ProtocolError, match="wrong signature"):
        OPERATOR.check_force(warrant, "c", BASE)
