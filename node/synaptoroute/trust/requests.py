"""Proofs of requests and of answers between processes of one cluster.

A request carries a statement of its sender over method, path and query, the hash of its body,
the node that it is meant for, the address under which the sender knows that node, and a nonce
that this node gave out.  So a proof is valid once, at one node, for one request.  Whoever it is
sent to by mistake cannot use it: neither there, nor by relaying it.

An answer carries a statement of the node over the request's nonce, the status and the hash of
the body.

Where the request also needs the rights of an API key, the proof contains a code with a secret
that follows from the hash of the key.  The key itself is not sent.  The name of the user on
whose behalf the request is made is a part of the proof.

The covered fields are those that RFC 9421 calls ``@method``, ``@path``, ``@query``,
``content-digest``, ``nonce`` and ``tag``; ADR 0037 says why the form is a statement.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from synaptoroute.errors import ProtocolError
from synaptoroute.trust.documents import canonical, sign_document, verify_document
from synaptoroute.trust.nonces import Nonces, NoncesExhausted
from synaptoroute.trust.statements import Signer, Verifier

PROOF_HEADER: Final = "SR-Proof"
ANSWER_HEADER: Final = "SR-Answer"
NONCE_HEADER: Final = "SR-Peer-Nonce"
REQUEST: Final = "request 1"
ANSWER: Final = "answer 1"
BOOT: Final = "boot 1"
NO_BODY: Final = sha256(b"").hexdigest()
PROOF_BYTES_MAX: Final = 16_384
_KEY_DOMAIN: Final = b"synaptoroute api key 1"
_KEY_ID_DOMAIN: Final = b"synaptoroute api key id 1"
_ACTOR: Final = re.compile(r"[A-Za-z0-9_.@:-]{0,128}")  # As in names of API keys
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ProvenRequest:
    """The parts of a request that a proof covers."""

    method: str
    target: str  # Path and query, as sent
    sha256: str  # Of the body, 64 hexadecimal digits
    node: str  # Identity of the node that it is meant for
    url: str  # Address from which the sender knows the node; empty for one of its settings
    nonce: str
    actor: str = ""  # User on whose behalf it is made
    key_id: str = ""  # Which API key's rights it needs; empty for none


@dataclass(frozen=True, slots=True)
class Proven:
    """A request whose proof was verified."""

    by: str  # Name of the sender
    public_key: str
    request: ProvenRequest
    text: str  # What the code of the API key covers
    code: str

    def has_key(self, key_hash: bytes) -> bool:
        """Whether the sender knows the API key with this SHA-256, or that hash."""
        expected = _key_code(key_hash, self.text)
        return hmac.compare_digest(self.code.encode("utf-8", "replace"), expected.encode())


def key_id_of(key_hash: bytes) -> str:
    """Name an API key in proofs; tells nothing about its hash."""
    return hmac.digest(key_hash, _KEY_ID_DOMAIN, sha256).hex()[:32]


def prove(signer: Signer, request: ProvenRequest, key_hash: bytes = b"") -> str:
    """Make the proof of a request: a line of text for its header.

    Args:
        key_hash: SHA-256 of the API key whose rights it needs, if any; see ``key_id``.
    """
    fields: dict[str, Any] = asdict(request)
    if key_hash:
        fields["code"] = _key_code(key_hash, _covered(signer.public_key, fields))
    return canonical(sign_document(signer, REQUEST, fields))


def _covered(public_key: str, fields: Mapping[str, Any]) -> str:
    return canonical({"by": public_key, **{n: v for n, v in fields.items() if n != "code"}})


def _key_code(key_hash: bytes, text: str) -> str:
    secret = hmac.digest(key_hash, _KEY_DOMAIN, sha256)
    return hmac.digest(secret, text.encode(), sha256).hex()


class Gatekeeper:
    """Verifies the requests to one node and signs its answers.  Used on one event loop.

    Args:
        signer: Signs answers as this node.
        verifier: Returns what verifies senders; it may change while the node runs.
        boot: Names this run of the node.
        url: Address of this node, as the others know it; empty if they cannot reach it.
    """

    def __init__(
        self, signer: Signer, verifier: Callable[[], Verifier], boot: str, url: str
    ) -> None:
        self.nonces = Nonces()
        self._signer = signer
        self._verifier = verifier
        self._boot = boot
        self._url = url.rstrip("/")

    def verify(self, text: str, method: str, target: str) -> Proven:
        """Verify the proof of a request and use its nonce up.

        The caller compares the hash of the body.

        Raises:
            ProtocolError: The proof is not valid, here or any more (``forged=True``).
        """
        document = _parse(text)
        found = verify_document(self._verifier(), REQUEST, document)
        try:
            request = ProvenRequest(**{name: str(document[name]) for name in _FIELDS})
        except KeyError as error:
            raise ProtocolError("a proof is malformed", forged=True) from error
        if not _ACTOR.fullmatch(request.actor):
            raise ProtocolError("the user in a proof has a malformed name", forged=True)
        if (request.method, request.target) != (method, target):
            raise ProtocolError("a proof of another request", forged=True)
        if request.node != self._signer.name:
            raise ProtocolError("a proof for another node", forged=True)
        if request.url and self._url and request.url.rstrip("/") != self._url:
            raise ProtocolError(f"a proof for the address {request.url}", forged=True)
        try:
            is_fresh = self.nonces.use(request.nonce)
        except NoncesExhausted as error:
            raise ProtocolError("too many proofs came at once", forged=True) from error
        if not is_fresh:
            raise ProtocolError("a proof that was used or is too old", forged=True)
        covered = _covered(found.public_key, {name: document[name] for name in _FIELDS})
        return Proven(found.by, found.public_key, request, covered, str(document.get("code", "")))

    def boot_document(self, challenge: str) -> dict[str, Any]:
        """Say which run of which node answers here, with a nonce for a request to it."""
        fields = {
            "node": self._signer.name,
            "boot": self._boot,
            "url": self._url,
            "nonce": self.nonces.issue(),
            "challenge": challenge,
        }
        return sign_document(self._signer, BOOT, fields)

    def answer(self, proven: Proven, status: int, digest: str, position: str = "") -> str:
        """Sign an answer: its status, the hash of its body, and the position of its state."""
        fields = {
            "nonce": proven.request.nonce,
            "status": status,
            "sha256": digest,
            "position": position,
        }
        return canonical(sign_document(self._signer, ANSWER, fields))


_FIELDS: Final = tuple(ProvenRequest.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Boot:
    """The run of a node that said that it answers at an address."""

    node: str
    public_key: str
    boot: str
    nonce: str


def read_boot(verifier: Verifier, body: bytes, challenge: str) -> Boot:
    """Read a node's word on itself.

    Raises:
        ProtocolError: It is not the word of a member, or not an answer to this challenge.
    """
    document = _parse(body)
    found = verify_document(verifier, BOOT, document)
    if document.get("challenge") != challenge or document.get("node") != found.by:
        raise ProtocolError("a node's word on itself is of another time or node", forged=True)
    boot, nonce = document.get("boot"), document.get("nonce")
    if not isinstance(boot, str) or not isinstance(nonce, str) or not nonce:
        raise ProtocolError("a node's word on itself is malformed")
    return Boot(found.by, found.public_key, boot, nonce)


@dataclass(frozen=True, slots=True)
class SignedAnswer:
    """The signed parts of an answer."""

    status: int
    sha256: str  # Of the body
    position: str  # ``epoch.seq.chain`` of the state; empty where there is none


def read_answer(verifier: Verifier, text: str, to: ProvenRequest, public_key: str) -> SignedAnswer:
    """Read the signature of an answer.

    Args:
        to: The request.
        public_key: The key of the node that was asked.

    Raises:
        ProtocolError: It is not that node's answer to this request.
    """
    document = _parse(text)
    found = verify_document(verifier, ANSWER, document, by=to.node)
    status, digest, position = (document.get(name) for name in ("status", "sha256", "position"))
    if found.public_key != public_key or document.get("nonce") != to.nonce:
        raise ProtocolError("an answer to another request", forged=True)
    if type(status) is not int or not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise ProtocolError("the signature of an answer is malformed")
    return SignedAnswer(status, digest, position if isinstance(position, str) else "")


def _parse(text: str | bytes) -> dict[str, Any]:
    if len(text) > PROOF_BYTES_MAX:
        raise ProtocolError("a proof is too long", forged=True)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a proof is malformed", forged=True) from error
    if not isinstance(document, dict):
        raise ProtocolError("a proof is malformed", forged=True)
    return document
