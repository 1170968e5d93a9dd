"""Signed statements: what a node says, bound to its purpose, its cluster and its key.

A statement is one line of JSON::

    {"by": name, "key": public key, "admitted": "key_id.mac", "body": text, "sig": hex}

The signature covers purpose, namespace, name and body, so a statement of one purpose, or of one
cluster, is never valid as another.  ``admitted`` is a code with the cluster secret over name and
public key: it shows that the key belongs to a member.  A member that knows the secret can admit
further keys, but it cannot speak for a key that it does not have; what needs a majority therefore
counts pinned keys, not admitted ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from synaptoroute.errors import ProtocolError
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity, is_signature

COORDINATOR: Final = "coordinator:"  # How the names of coordinators begin
STATEMENT_BYTES_MAX: Final = 65_536
_NAME: Final = re.compile(r"[!-~]{1,128}")
_PUBLIC_KEY: Final = re.compile(r"[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement whose signature and admission were verified."""

    by: str  # Name of the node that says it
    public_key: str  # Its key, 64 hexadecimal digits
    body: str


class Signer:
    """Makes statements of one node."""

    def __init__(self, name: str, identity: NodeIdentity, secret: ClusterSecret) -> None:
        self.name = name
        self.public_key = identity.public_key
        self._identity = identity
        self._secret = secret

    def sign(self, purpose: str, body: str) -> str:
        """Make a statement.

        Args:
            purpose: What it is for, such as ``presence 1``; part of what is signed.
            body: What is said; usually JSON.
        """
        message = _message(purpose, self._secret.namespace, self.name, body)
        statement = {
            "by": self.name,
            "key": self.public_key,
            "admitted": admission(self._secret, self.name, self.public_key),
            "body": body,
            "sig": self._identity.sign(message).hex(),
        }
        return json.dumps(statement, separators=(",", ":"), ensure_ascii=False)


class Verifier:
    """Verifies statements of one cluster.

    ``pinned`` names the keys of nodes that must not speak with another key: the voters.
    """

    def __init__(self, secret: ClusterSecret) -> None:
        self._secret = secret
        self.pinned: Mapping[str, str] = {}  # Public key by name

    def read(self, purpose: str, text: str | bytes, *, by: str = "") -> Statement:
        """Verify a statement.

        Args:
            purpose: The purpose that it must have been made for.
            text: The statement.
            by: The node that must have made it; empty for any.

        Raises:
            ProtocolError: It is malformed or forged (``forged=True``).
        """
        if len(text) > STATEMENT_BYTES_MAX:
            raise ProtocolError(f"a statement has at most {STATEMENT_BYTES_MAX} bytes")
        try:
            parsed: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("a statement is malformed") from error
        return self.read_fields(purpose, parsed, by=by)

    def read_fields(self, purpose: str, parsed: Any, *, by: str = "") -> Statement:
        """Verify a statement whose JSON was read already; see ``read``."""
        statement = _checked(parsed)
        name, public_key = statement["by"], statement["key"]
        if by and name != by:
            raise ProtocolError(f"a statement of {name!r} in the place of {by!r}", forged=True)
        pinned = self.pinned.get(name)
        if pinned is not None and pinned != public_key:
            raise ProtocolError(f"{name!r} speaks with a key that is not its own", forged=True)
        if pinned is None and not is_admitted(
            self._secret, name, public_key, statement["admitted"]
        ):
            raise ProtocolError(f"the key of {name!r} was not admitted", forged=True)
        message = _message(purpose, self._secret.namespace, name, statement["body"])
        if not is_signature(public_key, message, bytes.fromhex(statement["sig"])):
            raise ProtocolError(f"a statement of {name!r} has a wrong signature", forged=True)
        return Statement(name, public_key, statement["body"])


def admission(secret: ClusterSecret, name: str, public_key: str) -> str:
    """Admit a key: a code with the cluster secret; empty without a secret."""
    if not secret:
        return ""
    key_id, mac = secret.mac(_admission_message(secret, name, public_key))
    return f"{key_id}.{mac.hex()}"


def is_admitted(secret: ClusterSecret, name: str, public_key: str, admitted: str) -> bool:
    """Whether a key was admitted; without a secret every key is."""
    if not secret:
        return True
    key_id, _, mac = admitted.partition(".")
    try:
        code = bytes.fromhex(mac)
    except ValueError:
        return False
    return secret.is_mac(key_id, code, _admission_message(secret, name, public_key))


def _admission_message(secret: ClusterSecret, name: str, public_key: str) -> bytes:
    return _fields("synaptoroute admission 1", secret.namespace, name, public_key)


def _message(purpose: str, namespace: str, name: str, body: str) -> bytes:
    return _fields("synaptoroute statement 1", purpose, namespace, name, body)


def _fields(*texts: str) -> bytes:
    # Each field has its length in front: different fields never give the same bytes.
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _checked(parsed: Any) -> dict[str, str]:
    try:
        fields = {name: parsed[name] for name in ("by", "key", "admitted", "body", "sig")}
    except (KeyError, TypeError) as error:
        raise ProtocolError("a statement is malformed") from error
    if not all(isinstance(value, str) for value in fields.values()) or not (
        _NAME.fullmatch(fields["by"])
        and _PUBLIC_KEY.fullmatch(fields["key"])
        and _SIGNATURE.fullmatch(fields["sig"])
    ):
        raise ProtocolError("a statement is malformed")
    return fields
