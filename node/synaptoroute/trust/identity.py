"""The identity of a node: an Ed25519 key pair.

The public key is the identity; the node's name only labels it.  The private key lies in a file
beside the database, or in a file that the operator mounts, and never leaves the node.

Source of the signature scheme: RFC 8032, by the library ``cryptography``.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from synaptoroute.errors import ConfigError

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
KEY_FILE_BYTES_MAX: Final = 4_096


class NodeIdentity:
    """An Ed25519 key pair.  Immutable."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw().hex()  # 64 hexadecimal digits

    @classmethod
    def generate(cls) -> NodeIdentity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> NodeIdentity:
        """Read a private key in PEM form (PKCS 8); blocks.

        Raises:
            ConfigError: The file cannot be read or holds no Ed25519 private key.
        """
        try:
            with path.open("rb") as file:
                key = load_pem_private_key(file.read(KEY_FILE_BYTES_MAX), password=None)
        except OSError as error:
            raise ConfigError(f"the identity key cannot be read: {error}") from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path} holds no private key in PEM form") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} holds a key that is not Ed25519")
        return cls(key)

    @classmethod
    def load_or_create(cls, path: Path) -> NodeIdentity:
        """Read the key of a file, or create the file with a new key; blocks."""
        if path.exists():
            return cls.load(path)
        identity = cls.generate()
        identity.save(path)
        return identity

    def save(self, path: Path) -> None:
        """Write the private key to a new file that only its owner can read; blocks."""
        text = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        # The mode is set when the file is created: at no time can others read the key.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def sign(self, message: bytes) -> bytes:
        """Sign a message; the caller puts its purpose in front, see ``statements``."""
        return self._key.sign(message)


@lru_cache(maxsize=4_096)
def _public_key_of(public_key: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))


def is_signature(public_key: str, message: bytes, signature: bytes) -> bool:
    """Whether a signature over a message was made with the private key of ``public_key``."""
    try:
        _public_key_of(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
