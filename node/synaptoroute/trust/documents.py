"""Signed documents: JSON objects that carry the signature over their own fields.

A row in Redis is such an object.  The signature is one more field, ``signed``, so a release
that does not know it still reads the row.  It covers all other fields in canonical form:
sorted names, no spaces.  A field that is added, changed or removed makes it invalid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from synaptoroute.errors import ProtocolError
from synaptoroute.trust.cluster_secret import ClusterSecret
from synaptoroute.trust.statements import Signer, Statement, Verifier

SIGNED_FIELD: Final = "signed"


def canonical(fields: Mapping[str, Any]) -> str:
    """Write an object as it is signed."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def sign_document(signer: Signer, purpose: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with the signature of a node over them."""
    statement: dict[str, str] = json.loads(signer.sign(purpose, canonical(fields)))
    del statement["body"]  # The fields themselves are the body
    return {**fields, SIGNED_FIELD: statement}


def verify_document(
    verifier: Verifier, purpose: str, document: Mapping[str, Any], *, by: str = ""
) -> Statement:
    """Verify the signature that a document carries.

    Raises:
        ProtocolError: It has no signature, or a wrong one (``forged=True``).
    """
    signed = document.get(SIGNED_FIELD)
    if not isinstance(signed, dict):
        raise ProtocolError("a document without a signature", forged=True)
    body = canonical({name: value for name, value in document.items() if name != SIGNED_FIELD})
    return verifier.read_fields(purpose, {**signed, "body": body}, by=by)


class DocumentReader:
    """Decides whether documents of others count.

    Args:
        verifier: Verifies the signatures.
        secret: The cluster secret; without one every document counts.
        is_strict: Returns whether unsigned documents are refused, too.
    """

    def __init__(
        self, verifier: Verifier, secret: ClusterSecret, is_strict: Callable[[], bool]
    ) -> None:
        self._verifier = verifier
        self._secret = secret
        self._is_strict = is_strict

    def check(self, purpose: str, document: Mapping[str, Any], *, by: str = "") -> str:
        """Return who signed a document; empty if it counts without a signature.

        Raises:
            ProtocolError: It does not count (``forged=True``).
        """
        if not self._secret or (SIGNED_FIELD not in document and not self._is_strict()):
            return ""
        return verify_document(self._verifier, purpose, document, by=by).by
