"""Content certificates: whose statements count, and the genesis file."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ConfigError, ProtocolError
from synaptoroute.trust.certificates import (
    Certificate,
    ContentCount,
    Electorate,
    check_certificate,
    is_manifest_mac,
    manifest_mac,
    sign_content,
)
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.genesis import dump_genesis, read_genesis
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

SECRET = ClusterSecret("default", {"a": b"s" * 32})
VERIFIER = Verifier(SECRET)
VOTERS = [Signer(f"n{n}", NodeIdentity.generate(), SECRET) for n in range(3)]
BY_KEY = Electorate(keys=frozenset(each.public_key for each in VOTERS))
BY_NAME = Electorate.of_names([each.name for each in VOTERS], {})
BY_BOTH = Electorate.of_names(
    [each.name for each in VOTERS], {each.name: each.public_key for each in VOTERS[:2]}
)
AT = Position(1, 7, "ab" * 20)
ROOT, FORGED = "1" * 64, "2" * 64


def _count(electorate: Electorate = BY_KEY) -> ContentCount:
    return ContentCount(VERIFIER, electorate, "c", AT)


def _certificate(electorate: Electorate = BY_KEY) -> Certificate:
    count = _count(electorate)
    for voter in VOTERS[:2]:
        count.add(sign_content(voter, "c", AT, ROOT))
    found = count.result()
    assert found is not None
    return found


@pytest.mark.parametrize("electorate", [BY_KEY, BY_NAME, BY_BOTH])
def test_majority_certifies_a_root(electorate: Electorate) -> None:
    count = _count(electorate)
    count.add(sign_content(VOTERS[0], "c", AT, FORGED))
    count.add(sign_content(VOTERS[1], "c", AT, ROOT))
    assert count.result() is None
    count.add(sign_content(VOTERS[2], "c", AT, ROOT))
    found = count.result()
    assert found is not None
    assert (found.root, len(found.statements)) == (ROOT, 2)


@pytest.mark.parametrize("electorate", [BY_KEY, BY_NAME])
def test_voter_counts_once(electorate: Electorate) -> None:
    """Neither a repetition nor a second name for one key is a second voter."""
    count = _count(electorate)
    count.add(sign_content(VOTERS[0], "c", AT, ROOT))
    count.add(sign_content(VOTERS[0], "c", AT, ROOT))
    again = Signer("n1", VOTERS[0]._identity, SECRET)
    count.add(sign_content(again, "c", AT, ROOT))
    assert count.count == 1
    assert count.result() is None


@pytest.mark.parametrize("electorate", [BY_KEY, BY_BOTH])
def test_admitted_key_that_is_not_pinned_does_not_count(electorate: Electorate) -> None:
    """A holder of the secret cannot invent voters."""
    invented = Signer("n0", NodeIdentity.generate(), SECRET)
    with pytest.raises(ProtocolError, match="not a voter"):
        _count(electorate).add(sign_content(invented, "c", AT, ROOT))


@pytest.mark.parametrize(
    "statement",
    [
        sign_content(VOTERS[0], "other", AT, ROOT),
        sign_content(VOTERS[0], "c", replace(AT, seq=8), ROOT),
        sign_content(VOTERS[0], "c", replace(AT, chain="cd" * 20), ROOT),
        sign_content(VOTERS[0], "c", AT, "no root"),
        VOTERS[0].sign("content 1", "{}"),
        VOTERS[0].sign("presence 1", '{"cluster":"c"}'),
        sign_content(Signer("x", NodeIdentity.generate(), SECRET), "c", AT, ROOT),
    ],
)
def test_statement_about_another_state_does_not_count(statement: str) -> None:
    count = _count(BY_NAME)
    with pytest.raises(ProtocolError):
        count.add(statement)
    assert count.count == 0


def test_no_voters_are_no_majority() -> None:
    assert not Electorate().is_majority(0)
    assert not Electorate().is_majority(1)


def test_stored_certificate_is_verified() -> None:
    document = json.loads(json.dumps(_certificate().dump()))
    assert check_certificate(document, VERIFIER, BY_KEY).root == ROOT


def _without_statement() -> dict[str, object]:
    document = _certificate().dump()
    return {**document, "statements": document["statements"][:1]}


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {**_certificate().dump(), "root": FORGED},
        {**_certificate().dump(), "position": "1.8." + "ab" * 20},
        {**_certificate().dump(), "cluster": "other"},
        {**_certificate().dump(), "statements": "x" * 100},
        _without_statement(),
    ],
)
def test_altered_certificate_is_refused(document: object) -> None:
    with pytest.raises(ProtocolError):
        check_certificate(document, VERIFIER, BY_KEY)


# --- manifests of backups ------------------------------------------------------------------


def test_manifest_is_authenticated() -> None:
    manifest = {"name": "b", "sha256": "x", "certificate": _certificate().dump()}
    sealed = {**manifest, "mac": manifest_mac(SECRET, manifest)}
    assert is_manifest_mac(SECRET, sealed)
    assert not is_manifest_mac(SECRET, manifest)
    assert not is_manifest_mac(SECRET, {**sealed, "sha256": "y"})
    assert not is_manifest_mac(SECRET, {**sealed, "mac": "a.zz"})
    assert not is_manifest_mac(ClusterSecret("default", {"a": b"t" * 32}), sealed)
    assert not is_manifest_mac(ClusterSecret("other", {"a": b"s" * 32}), sealed)
    assert manifest_mac(ClusterSecret("default"), manifest) == ""


# --- the genesis file ----------------------------------------------------------------------


def _pem_certificate() -> tuple[str, str]:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node-0")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None)
    )
    return made.public_bytes(Encoding.PEM).decode(), key.public_key().public_bytes_raw().hex()


def test_genesis_is_read_back(tmp_path: Path) -> None:
    """Keys are hexadecimal digits, PEM public keys or PEM certificates."""
    certificate, of_certificate = _pem_certificate()
    key = Ed25519PrivateKey.generate().public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    path = tmp_path / "genesis.json"
    voters = {"a": "ab" * 32, "b": certificate, "c": pem}
    path.write_text(dump_genesis("default", voters))
    assert read_genesis(path, "default") == {
        "a": "ab" * 32,
        "b": of_certificate,
        "c": key.public_bytes_raw().hex(),
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"namespace": "default"}',
        '{"namespace": "default", "voters": {}}',
        '{"namespace": "default", "voters": {"a": "x"}}',
        '{"namespace": "default", "voters": {"a": 1}}',
        dump_genesis("other", {"a": "ab" * 32}),
        dump_genesis("default", {"a": "ab" * 32, "b": "ab" * 32}),
    ],
)
def test_malformed_genesis_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "genesis.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_genesis(path, "default")


def test_missing_genesis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_genesis(tmp_path / "none", "default")
