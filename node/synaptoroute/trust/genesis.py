"""The genesis file: the public keys of the voters, as the operator gives them to every node.

It comes by the same channel as the cluster secret, so no node has to learn the voters from a
peer that it is about to check.  It is JSON::

    {"namespace": "default", "voters": {"node-0": "<64 hexadecimal digits>", ...},
     "operator": "<64 hexadecimal digits>"}

A key may also be a PEM certificate or a PEM public key, as ``openssl`` and Helm make them.  The
names are for people: a voter is known by its key.  ``operator`` may be missing; see ``operator``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from synaptoroute.errors import ConfigError

GENESIS_BYTES_MAX: Final = 1_048_576
VOTERS_MAX: Final = 99
_PUBLIC_KEY: Final = re.compile(r"[0-9a-f]{64}")


def read_genesis(path: Path, namespace: str) -> dict[str, str]:
    """Read the public keys of the voters by name; blocks.

    Raises:
        ConfigError: The file cannot be read, is malformed, or is of another namespace.
    """
    try:
        document = _read(path)
        voters, of = document["voters"], document["namespace"]
        keys = {str(name): _public_key(str(text)) for name, text in voters.items()}
    except OSError as error:
        raise ConfigError(f"the genesis file cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a genesis file: {error}") from error
    if of != namespace:
        raise ConfigError(f"{path} is the genesis of the namespace {of!r}, not of {namespace!r}")
    if not 1 <= len(keys) <= VOTERS_MAX or len(set(keys.values())) != len(keys):
        raise ConfigError(f"{path} must name 1 to {VOTERS_MAX} voters with different keys")
    return keys


def read_operator(path: Path) -> str:
    """Read the operator's public key, empty if there is none; blocks.

    Raises:
        ConfigError: The file cannot be read, or the key is malformed.
    """
    try:
        text = str(_read(path).get("operator", ""))
        return _public_key(text) if text else ""
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a genesis file: {error}") from error


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        return json.loads(file.read(GENESIS_BYTES_MAX))


def dump_genesis(namespace: str, voters: Mapping[str, str], operator: str = "") -> str:
    """Write a genesis file from public keys by name, and that of the operator."""
    document: dict[str, Any] = {"namespace": namespace, "voters": dict(sorted(voters.items()))}
    if operator:
        document["operator"] = operator
    return json.dumps(document, indent=2) + "\n"


def _public_key(text: str) -> str:
    if _PUBLIC_KEY.fullmatch(text):
        return text
    pem = text.encode()
    is_certificate = b"BEGIN CERTIFICATE" in pem
    key = (
        load_pem_x509_certificate(pem).public_key() if is_certificate else load_pem_public_key(pem)
    )
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("a voter has an Ed25519 key")
    return key.public_bytes_raw().hex()
