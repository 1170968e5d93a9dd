"""The cluster secret: a ring of HMAC keys that all nodes share.

The key file has lines ``key_id secret``: the first key signs, all keys verify.  To rotate, add
the new key as the second line on all nodes, then make it the first line on all nodes, then
remove the old key.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from synaptoroute.errors import ConfigError

KEYS_MAX: Final = 4
KEYS_FILE_BYTES_MAX: Final = 4_096
SECRET_BYTES_MIN: Final = 32
MAC_BYTES: Final = 32
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_\-]{1,8}")


class ClusterSecret:
    """The keys of one namespace; empty if no secret is configured.

    Every user holds the same object, so one ``reload`` reaches all of them.
    """

    def __init__(
        self,
        namespace: str,  # Part of what is authenticated: nothing is valid in another cluster
        keys: Mapping[str, bytes] | None = None,  # Secret by key id; the first one signs
        path: Path | None = None,  # The file that ``reload`` reads again
    ) -> None:
        self.namespace = namespace
        self.keys: Mapping[str, bytes] = keys or {}
        self._path = path

    @classmethod
    def load(cls, namespace: str, path: Path | None) -> ClusterSecret:
        """Read the key file, if there is one; blocks.

        Raises:
            ConfigError: The file is malformed.
        """
        return cls(namespace, read_keys(path) if path else {}, path)

    def reload(self) -> None:
        """Read the key file again; blocks.  The former keys stay if the file is malformed."""
        if self._path is not None:
            self.keys = read_keys(self._path)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def mac(self, message: bytes) -> tuple[str, bytes]:
        """Authenticate a message with the first key; return the key's id and the code."""
        key_id, secret = next(iter(self.keys.items()))
        return key_id, self._mac(secret, message)

    def is_mac(self, key_id: str, mac: bytes, message: bytes) -> bool:
        """Whether a message was authenticated with the named key of the ring."""
        secret = self.keys.get(key_id)
        return secret is not None and hmac.compare_digest(mac, self._mac(secret, message))

    def _mac(self, secret: bytes, message: bytes) -> bytes:
        return hmac.digest(secret, message, sha256)


def read_keys(path: Path) -> dict[str, bytes]:
    """Read a key file; blocks.

    Raises:
        ConfigError: A line is malformed, or there are no keys or too many.
    """
    try:
        with path.open("rb") as file:
            text = file.read(KEYS_FILE_BYTES_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key file {path} cannot be read: {error}") from error
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key_id, _, secret = line.strip().partition(" ")
        if not _KEY_ID.fullmatch(key_id) or key_id in keys:
            raise ConfigError(
                f"line {number} of the key file: the key id is malformed or used twice"
            )
        if len(secret.strip()) < SECRET_BYTES_MIN:
            raise ConfigError(
                f"line {number} of the key file: a secret has at least "
                f"{SECRET_BYTES_MIN} characters"
            )
        keys[key_id] = secret.strip().encode()
    if not 1 <= len(keys) <= KEYS_MAX:
        raise ConfigError(f"a key file has 1 to {KEYS_MAX} keys, found {len(keys)}")
    return keys
