"""Goal: a proof is valid once, at one node, for one request.  Method: every field is changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from synaptoroute.errors import ProtocolError
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.requests import (
    NO_BODY,
    Gatekeeper,
    Proven,
    ProvenRequest,
    key_id_of,
    prove,
    read_answer,
    read_boot,
)
from synaptoroute.trust.statements import Signer, Verifier

pytestmark = pytest.mark.unit
SECRET = ClusterSecret("default", {"a": b"s" * 32})
VERIFIER = Verifier(SECRET)
SENDER = Signer("coordinator:1", NodeIdentity.generate(), SECRET)
NODE_URL = "http://n1:8080"
KEY_HASH = hashlib.sha256(b"sr_key").digest()


def gatekeeper_of(name: str, url: str = NODE_URL) -> Gatekeeper:
    """The side of a node that verifies."""
    signer = Signer(name, NodeIdentity.generate(), SECRET)
    return Gatekeeper(signer, lambda: VERIFIER, "boot", url)


def request_to(gatekeeper: Gatekeeper, **changes: Any) -> ProvenRequest:
    """A request for ``n1``."""
    asked = ProvenRequest(
        "PUT", "/v1/routes/a?ack=all", NO_BODY, "n1", NODE_URL, gatekeeper.nonces.issue(), "ann"
    )
    return replace(asked, **changes)


def verify(gatekeeper: Gatekeeper, proof: str) -> Proven:
    """Verify a proof as the request that ``request_to`` makes."""
    return gatekeeper.verify(proof, "PUT", "/v1/routes/a?ack=all")


def test_proof_is_taken_once() -> None:
    node = gatekeeper_of("n1")
    proof = prove(SENDER, request_to(node))
    assert verify(node, proof).request.actor == "ann"
    with pytest.raises(ProtocolError, match="used or is too old"):
        verify(node, proof)


def test_proof_for_a_rogue_is_not_taken_by_a_real_node() -> None:
    """The rogue fetches a nonce of the real node, and gives it to the sender as its own."""
    node = gatekeeper_of("n1")
    for changes in ({"node": "rogue"}, {"url": "http://rogue:8080"}):
        proof = prove(SENDER, request_to(node, **changes))
        with pytest.raises(ProtocolError, match="a proof for"):
            verify(node, proof)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "DELETE"},
        {"target": "/v1/routes/b"},
        {"target": "/v1/routes/a"},
        {"node": "n2"},
        {"nonce": "1.2.3"},
    ],
)
def test_proof_of_another_request_is_refused(changes: dict[str, str]) -> None:
    node = gatekeeper_of("n1")
    with pytest.raises(ProtocolError):
        verify(node, prove(SENDER, request_to(node, **changes)))


def test_nonce_of_another_node_is_refused() -> None:
    other = gatekeeper_of("n2")
    with pytest.raises(ProtocolError):
        verify(gatekeeper_of("n1"), prove(SENDER, request_to(other)))


def test_altered_proof_is_refused() -> None:
    node = gatekeeper_of("n1")
    genuine = json.loads(prove(SENDER, request_to(node), KEY_HASH))
    for name in (set(genuine) - {"signed"}) | {"added"}:
        with pytest.raises(ProtocolError):
            verify(node, json.dumps({**genuine, name: "x"}))
    assert verify(node, json.dumps(genuine))


def test_refused_proof_does_not_use_the_nonce_up() -> None:
    node = gatekeeper_of("n1")
    request = request_to(node)
    with pytest.raises(ProtocolError):
        node.verify(prove(SENDER, request), "GET", "/")
    assert verify(node, prove(SENDER, request))


def test_stranger_is_refused() -> None:
    stranger = Signer("n2", NodeIdentity.generate(), ClusterSecret("default", {"a": b"t" * 32}))
    unadmitted = Signer("n2", NodeIdentity.generate(), ClusterSecret("default"))
    node = gatekeeper_of("n1")
    for signer in (stranger, unadmitted):
        with pytest.raises(ProtocolError, match="not admitted"):
            verify(node, prove(signer, request_to(node)))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "x" * 20_000, '{"signed": 1}'])
def test_malformed_proof_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        verify(gatekeeper_of("n1"), text)


def test_rights_of_a_key_need_the_key() -> None:
    node = gatekeeper_of("n1")
    request = request_to(node, key_id=key_id_of(KEY_HASH))
    proven = verify(node, prove(SENDER, request, KEY_HASH))
    assert proven.has_key(KEY_HASH)
    assert not proven.has_key(hashlib.sha256(b"sr_other").digest())
    without = verify(node, prove(SENDER, request_to(node, key_id=key_id_of(KEY_HASH))))
    assert not without.has_key(KEY_HASH)


def test_code_of_a_key_is_bound_to_its_sender() -> None:
    """Who reads a proof cannot put its code into a proof of its own."""
    node = gatekeeper_of("n1")
    request = request_to(node, key_id=key_id_of(KEY_HASH))
    code = json.loads(prove(SENDER, request, KEY_HASH))["code"]
    thief = Signer("n3", NodeIdentity.generate(), SECRET)
    fields = {name: getattr(request, name) for name in ProvenRequest.__dataclass_fields__}
    from synaptoroute.trust.documents import canonical, sign_document

    proof = canonical(sign_document(thief, "request 1", {**fields, "code": code}))
    assert not verify(node, proof).has_key(KEY_HASH)


def test_proof_holds_no_secret() -> None:
    proof = prove(SENDER, request_to(gatekeeper_of("n1")), KEY_HASH)
    for secret in ("sr_key", KEY_HASH.hex(), "s" * 32):
        assert secret not in proof


def test_answer_belongs_to_one_request() -> None:
    signer = Signer("n1", NodeIdentity.generate(), SECRET)
    node = Gatekeeper(signer, lambda: VERIFIER, "boot", NODE_URL)
    proven = verify(node, prove(SENDER, request_to(node)))
    text = node.answer(proven, 200, "a" * 64, "1.2." + "c" * 40)
    answer = read_answer(VERIFIER, text, proven.request, signer.public_key)
    assert (answer.status, answer.sha256) == (200, "a" * 64)
    other = replace(proven.request, nonce=node.nonces.issue())
    for request, key in ((other, signer.public_key), (proven.request, "b" * 64)):
        with pytest.raises(ProtocolError):
            read_answer(VERIFIER, text, request, key)
    for name in ("status", "sha256", "position", "nonce"):
        altered = json.dumps({**json.loads(text), name: "x"})
        with pytest.raises(ProtocolError):
            read_answer(VERIFIER, altered, proven.request, signer.public_key)


def test_word_of_a_node_answers_one_challenge() -> None:
    node = gatekeeper_of("n1")
    body = json.dumps(node.boot_document("c1")).encode()
    boot = read_boot(VERIFIER, body, "c1")
    assert (boot.node, boot.boot) == ("n1", "boot")
    with pytest.raises(ProtocolError):
        read_boot(VERIFIER, body, "c2")
