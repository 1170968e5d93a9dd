"""Identities, the cluster secret, and signed statements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from synaptoroute.errors import ConfigError, ProtocolError
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity, is_signature
from synaptoroute.trust.statements import Signer, Verifier

SECRET = ClusterSecret("default", {"a": b"s" * 32})
OTHER_SECRET = ClusterSecret("default", {"a": b"t" * 32})
IDENTITY = NodeIdentity.generate()
SIGNER = Signer("n1", IDENTITY, SECRET)


def test_statement_is_read_by_a_holder_of_the_secret() -> None:
    text = SIGNER.sign("presence 1", '{"seq":1}')
    statement = Verifier(SECRET).read("presence 1", text)
    assert statement.by == "n1"
    assert statement.public_key == IDENTITY.public_key
    assert statement.body == '{"seq":1}'


@pytest.mark.parametrize("field", ["by", "key", "body", "sig", "admitted"])
def test_altered_statement_is_refused(field: str) -> None:
    genuine = json.loads(SIGNER.sign("presence 1", "body"))
    forged = "b" if genuine[field][0] != "b" else "c"
    fields = {**genuine, field: forged + genuine[field][1:]}
    with pytest.raises(ProtocolError):
        Verifier(SECRET).read("presence 1", json.dumps(fields))


def test_statement_of_another_purpose_is_refused() -> None:
    with pytest.raises(ProtocolError, match="wrong signature"):
        Verifier(SECRET).read("report 1", SIGNER.sign("presence 1", "body"))


def test_statement_of_another_namespace_is_refused() -> None:
    elsewhere = Verifier(ClusterSecret("other", {"a": b"s" * 32}))
    with pytest.raises(ProtocolError):
        elsewhere.read("presence 1", SIGNER.sign("presence 1", "body"))


def test_key_that_was_not_admitted_is_refused() -> None:
    stranger = Signer("n1", NodeIdentity.generate(), OTHER_SECRET)
    with pytest.raises(ProtocolError, match="not admitted"):
        Verifier(SECRET).read("presence 1", stranger.sign("presence 1", "body"))


def test_pinned_node_cannot_be_spoken_for_by_a_holder_of_the_secret() -> None:
    verifier = Verifier(SECRET)
    verifier.pinned = {"n1": IDENTITY.public_key}
    impostor = Signer("n1", NodeIdentity.generate(), SECRET)
    with pytest.raises(ProtocolError, match="not its own"):
        verifier.read("presence 1", impostor.sign("presence 1", "body"))


def test_statement_in_the_place_of_another_node_is_refused() -> None:
    with pytest.raises(ProtocolError, match="in the place of"):
        Verifier(SECRET).read("presence 1", SIGNER.sign("presence 1", "body"), by="n2")


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"by":1}', "[" * 100_000, b"\xff"])
def test_malformed_statement_is_refused(text: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        Verifier(SECRET).read("presence 1", text)


def test_identity_is_kept_in_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    created = NodeIdentity.load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert NodeIdentity.load_or_create(path).public_key == created.public_key
    assert is_signature(created.public_key, b"m", NodeIdentity.load(path).sign(b"m"))


def test_file_without_an_ed25519_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_text("no key")
    with pytest.raises(ConfigError):
        NodeIdentity.load(path)
