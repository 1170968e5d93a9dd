"""Content certificates: a majority of the voters says what a state at a position contains.

A voter signs a *content statement*: the cluster, a position and the content root there (see
``core.content``).  A certificate is the statements of a majority that name one root.  Voters are
counted by their public keys, if those are known from a trusted place (an ``Electorate`` with
keys); otherwise by the names of nodes whose keys were admitted with the cluster secret.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from synaptoroute.core.mutation import Position
from synaptoroute.errors import ProtocolError
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.statements import Signer, Verifier

CONTENT_PURPOSE: Final = "content 1"
CERTIFIED_LEVEL: Final = 2  # From this level of the log on, states need certificates
STATEMENTS_MAX: Final = 99
_ROOT: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Electorate:
    """The voters whose majority counts.

    Either the public keys of all of them are pinned, or their names are known; then the key of a
    name may be known, too.
    """

    keys: frozenset[str] = frozenset()
    # Public key by name, empty where it is not known; only without ``keys``
    voters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_names(cls, names: Iterable[str], keys: Mapping[str, str]) -> Electorate:
        """Make one of names, and of the keys that are known."""
        return cls(voters={name: keys.get(name, "") for name in names})

    def __len__(self) -> int:
        return len(self.keys or self.voters)

    def identity_of(self, name: str, public_key: str) -> str | None:
        """The identity that a statement counts for; None if the node is not a voter."""
        if self.keys:
            return public_key if public_key in self.keys else None
        known = self.voters.get(name)
        return None if known is None or known not in ("", public_key) else name

    def is_majority(self, count: int) -> bool:
        """Whether so many of its voters are more than half; of no voters, none are."""
        return 2 * count > len(self) > 0


@dataclass(frozen=True, slots=True)
class ContentClaim:
    """The content of a state, as one node says it."""

    by: str
    public_key: str
    cluster_id: str
    position: Position
    root: str  # 64 hexadecimal digits


@dataclass(frozen=True, slots=True)
class Certificate:
    """The content root at a position, and the statements of the voters that name it."""

    cluster_id: str
    position: Position
    root: str
    statements: tuple[str, ...]

    def dump(self) -> dict[str, Any]:
        """Write it as a JSON object."""
        return {
            "cluster": self.cluster_id,
            "position": dump_position(self.position),
            "root": self.root,
            "statements": list(self.statements),
        }


def sign_content(signer: Signer, cluster_id: str, position: Position, root: str) -> str:
    """State the content root of this node's state at a position."""
    body = {"cluster": cluster_id, "position": dump_position(position), "root": root}
    return signer.sign(CONTENT_PURPOSE, json.dumps(body, separators=(",", ":")))


def read_content(verifier: Verifier, statement: str | bytes) -> ContentClaim:
    """Verify a content statement.

    Raises:
        ProtocolError: It is malformed or forged.
    """
    said = verifier.read(CONTENT_PURPOSE, statement)
    try:
        body: Any = json.loads(said.body)
        cluster_id, root = body["cluster"], body["root"]
        position = load_position(body["position"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError("a content statement is malformed") from error
    if not isinstance(cluster_id, str) or not isinstance(root, str) or not _ROOT.fullmatch(root):
        raise ProtocolError("a content statement is malformed")
    return ContentClaim(said.by, said.public_key, cluster_id, position, root)


class ContentCount:
    """Counts content statements about one position until a majority names one root."""

    def __init__(
        self,
        verifier: Verifier,
        electorate: Electorate,
        cluster_id: str,  # Empty for any
        position: Position,
    ) -> None:
        self._verifier = verifier
        self._electorate = electorate
        self._cluster_id = cluster_id
        self._position = position
        self._votes: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._voters: set[str] = set()
        self._keys: set[str] = set()

    @property
    def count(self) -> int:
        """Number of voters that made a valid statement."""
        return len(self._voters)

    def add(self, statement: str | bytes) -> None:
        """Count a statement.

        Raises:
            ProtocolError: It is malformed, forged, of another place, or not of a voter.
        """
        claim = read_content(self._verifier, statement)
        if claim.position != self._position or self._cluster_id not in ("", claim.cluster_id):
            raise ProtocolError(f"{claim.by!r} certifies another state", forged=True)
        voter = self._electorate.identity_of(claim.by, claim.public_key)
        if voter is None:
            raise ProtocolError(f"{claim.by!r} is not a voter that is known here", forged=True)
        # A key counts once under whatever name, and a name counts once with whatever key.
        if voter in self._voters or claim.public_key in self._keys:
            return
        self._voters.add(voter)
        self._keys.add(claim.public_key)
        text = statement if isinstance(statement, str) else statement.decode()
        self._votes[claim.cluster_id, claim.root][voter] = text

    def result(self) -> Certificate | None:
        """Return the certificate, once a majority names one root."""
        for (cluster_id, root), votes in self._votes.items():
            if self._electorate.is_majority(len(votes)):
                statements = tuple(votes.values())
                return Certificate(cluster_id, self._position, root, statements)
        return None


def check_certificate(document: object, verifier: Verifier, electorate: Electorate) -> Certificate:
    """Verify a certificate that was stored as the JSON object of ``Certificate.dump``.

    Raises:
        ProtocolError: It is malformed, or no majority of the voters made it.
    """
    try:
        if not isinstance(document, dict):
            raise ValueError("not an object")
        position = load_position(document["position"])
        cluster_id, root = str(document["cluster"]), str(document["root"])
        statements = [str(each) for each in document["statements"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError("a certificate is malformed") from error
    if len(statements) > STATEMENTS_MAX:
        raise ProtocolError(f"a certificate has at most {STATEMENTS_MAX} statements")
    count = ContentCount(verifier, electorate, cluster_id, position)
    for statement in statements:
        count.add(statement)
    found = count.result()
    if found is None or found.root != root:
        raise ProtocolError("no majority of the voters made this certificate", forged=True)
    return found


def dump_position(position: Position) -> str:
    """Write ``epoch.seq.chain``."""
    return f"{position.epoch}.{position.seq}.{position.chain}"


_POSITION: Final = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})\.([0-9a-f]{40})", re.ASCII)


def load_position(text: object) -> Position:
    """Read ``epoch.seq.chain``.

    Raises:
        ValueError: It is malformed.
    """
    found = _POSITION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("a position is epoch.seq.chain")
    return Position(int(found[1]), int(found[2]), found[3])


# --- manifests of backups ------------------------------------------------------------------

_MANIFEST_DOMAIN: Final = "synaptoroute backup 1"
_MAC_FIELD: Final = "mac"


def manifest_mac(secret: ClusterSecret, manifest: Mapping[str, Any]) -> str:
    """Authenticate a backup's manifest: ``key_id.code``; empty without a secret."""
    if not secret:
        return ""
    key_id, mac = secret.mac(_manifest_message(secret, manifest))
    return f"{key_id}.{mac.hex()}"


def is_manifest_mac(secret: ClusterSecret, manifest: Mapping[str, Any]) -> bool:
    """Whether a holder of the secret wrote the manifest, with its field ``mac``, as it is."""
    key_id, _, mac = str(manifest.get(_MAC_FIELD, "")).partition(".")
    try:
        code = bytes.fromhex(mac)
    except ValueError:
        return False
    return bool(mac) and secret.is_mac(key_id, code, _manifest_message(secret, manifest))


def _manifest_message(secret: ClusterSecret, manifest: Mapping[str, Any]) -> bytes:
    fields = {name: value for name, value in manifest.items() if name != _MAC_FIELD}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return f"{_MANIFEST_DOMAIN}|{secret.namespace}|{text}".encode()
