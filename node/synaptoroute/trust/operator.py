"""The operator's key: what a minority may do, the operator signs.

An operator is a person with an Ed25519 key that no node has.  Nodes know its public key from the
genesis file or from their settings.  A *warrant* is the operator's statement about one act:

- ``force 1``: the epoch that follows this one may be opened without a majority of the voters, on a
  base that is not before the entry that the operator was shown;
- ``voters 1``: a node becomes a voter, or is none any more.

A warrant names what it is for, so it is of no use a second time.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from synaptoroute.core.mutation import Position, Revision
from synaptoroute.errors import ConfigError, ProtocolError
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

OPERATOR: Final = "operator"  # Who says it, in every warrant
FORCE_PURPOSE: Final = "force 1"
VOTERS_PURPOSE: Final = "operator voters 1"
WARRANT_SECONDS: Final = 600.0
WARRANT_CHARACTERS_MAX: Final = 2_048
PUBLIC_KEY: Final = re.compile(r"[0-9a-f]{64}")


def _sign(identity: NodeIdentity, namespace: str, purpose: str, body: list[Any]) -> str:
    # Nodes know the key itself, so nothing has to admit it.
    signer = Signer(OPERATOR, identity, ClusterSecret(namespace))
    return signer.sign(purpose, json.dumps(body, separators=(",", ":")))


def sign_force(identity: NodeIdentity, namespace: str, cluster_id: str, base: Revision) -> str:
    """Sign that a recovery may be forced.

    Args:
        identity: The operator's key.
        namespace: The namespace of the cluster.
        cluster_id: The identity of the cluster.
        base: The last entry that is kept at least, as the node showed it.
    """
    return _sign(identity, namespace, FORCE_PURPOSE, [cluster_id, *base])


@dataclass(frozen=True, slots=True)
class SignedChange:
    """A change of the voters, as the operator asks for it."""

    cluster_id: str
    is_adding: bool
    node: str
    key: str  # Public key of the node; empty if it is removed

    def sign(self, identity: NodeIdentity, namespace: str, now_ms: int) -> str:
        """Sign it, for ``WARRANT_SECONDS`` by the clocks of the voters."""
        body = [self.cluster_id, self.is_adding, self.node, self.key]
        until_ms = now_ms + int(WARRANT_SECONDS * 1_000)
        return _sign(identity, namespace, VOTERS_PURPOSE, [*body, until_ms])


class Operator:
    """Verifies what the operator signed; any thread.

    Args:
        public_key: The operator's key, 64 hexadecimal digits.
        namespace: The namespace of the cluster.

    Raises:
        ConfigError: The key is malformed.
    """

    def __init__(self, public_key: str, namespace: str) -> None:
        if not PUBLIC_KEY.fullmatch(public_key):
            raise ConfigError("the operator's public key has 64 hexadecimal digits")
        self.public_key = public_key
        self._verifier = Verifier(ClusterSecret(namespace))
        self._verifier.pinned = {OPERATOR: public_key}

    def check_force(self, warrant: str, cluster_id: str, base: Position) -> None:
        """Verify that the epoch after a base may be opened without a majority.

        Raises:
            ProtocolError: The operator did not sign that.
        """
        of, epoch, seq = self._read(FORCE_PURPOSE, warrant, 3)
        if (of, epoch) != (cluster_id, base.epoch):
            raise ProtocolError("the operator's signature is for another recovery", forged=True)
        if not isinstance(seq, int) or seq > base.seq:
            raise ProtocolError(
                f"the operator's signature is for a history up to {epoch}.{seq}", forged=True
            )

    def check_change(self, warrant: str, asked: SignedChange, now_ms: int) -> None:
        """Verify that the operator asks for a change of the voters.

        Raises:
            ProtocolError: The operator did not sign that, or too long ago.
        """
        *said, until_ms = self._read(VOTERS_PURPOSE, warrant, 5)
        if said != [asked.cluster_id, asked.is_adding, asked.node, asked.key]:
            raise ProtocolError("the operator's signature is for another change", forged=True)
        if not isinstance(until_ms, int) or now_ms > until_ms:
            raise ProtocolError("the operator's signature has expired", forged=True)

    def _read(self, purpose: str, warrant: str, length: int) -> list[Any]:
        if not warrant:
            raise ProtocolError("the operator has not signed it", forged=True)
        said = self._verifier.read(purpose, warrant, by=OPERATOR)
        try:
            body = json.loads(said.body)
        except (ValueError, RecursionError) as error:
            raise ProtocolError("an operator's statement is malformed") from error
        if not isinstance(body, list) or len(body) != length:
            raise ProtocolError("an operator's statement is malformed")
        return body
