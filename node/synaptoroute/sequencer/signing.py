"""Signatures over entries, so that access to Redis is not enough to write routes.

A signed frame is ``"SK" | key id 8 | HMAC-SHA256 32 | frame``.  The signature covers the
namespace and the frame's header.  The header carries the SHA-256 of the payload, so it stands
for the whole frame, and an announcement without the payload can be verified, too.  Epoch and seq
are not signed, because the sequencer assigns them later.  A frame that somebody appends again
repeats its op_id, so it has no effect.

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

from synaptoroute.core.codec import HEADER_BYTES, header_of
from synaptoroute.errors import ConfigError, ProtocolError

KEYS_MAX: Final = 4
KEYS_FILE_BYTES_MAX: Final = 4_096
SECRET_BYTES_MIN: Final = 32
_MAGIC: Final = b"SK"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_\-]{1,8}")
_ID_BYTES: Final = 8
_MAC_BYTES: Final = 32
SEAL_BYTES: Final = len(_MAGIC) + _ID_BYTES + _MAC_BYTES
_DOMAIN: Final = b"synaptoroute entry 1\x00"


class SigningKeys:
    """Keys of one namespace; without keys nothing is signed and nothing is refused.

    Every part of the room holds the same object, so one ``reload`` reaches all of them.
    """

    def __init__(
        self,
        namespace: str,
        keys: Mapping[str, bytes] | None = None,
        allow_unsigned: bool = False,
        path: Path | None = None,
    ) -> None:
        """Use keys that are known already; see ``load`` for those of a file.

        Args:
            namespace: Part of what is signed: an entry is void in another cluster.
            keys: Secret by key id; the first one signs, all of them verify.
            allow_unsigned: Accept entries without a signature, while keys are introduced.
            path: The file that ``reload`` reads again.
        """
        self.namespace = namespace
        self.keys: Mapping[str, bytes] = keys or {}
        self._allow_unsigned = allow_unsigned
        self._path = path

    @classmethod
    def load(
        cls, namespace: str, path: Path | None, *, allow_unsigned: bool = False
    ) -> SigningKeys:
        """Read the key file, if there is one; blocks."""
        return cls(namespace, _read_keys(path) if path else {}, allow_unsigned, path)

    def reload(self) -> None:
        """Read the key file again; blocks.  The former keys stay if the file is malformed."""
        if self._path is not None:
            self.keys = _read_keys(self._path)

    def seal(self, frame: bytes) -> bytes:
        """Put a signature before a frame, if there are keys."""
        keys = self.keys
        if not keys:
            return frame
        key_id, secret = next(iter(keys.items()))
        mac = self._sign(secret, header_of(frame))
        return _MAGIC + key_id.encode().ljust(_ID_BYTES, b"\x00") + mac + frame

    def open(self, body: bytes) -> bytes:
        """Verify a frame, or the header of one, and remove the signature."""
        is_signed = body.startswith(_MAGIC)
        frame = body[SEAL_BYTES:] if is_signed else body
        # Read once: ``reload`` may replace the keys on another thread meanwhile.
        keys = self.keys
        if not keys or (not is_signed and self._allow_unsigned):
            return frame
        if not is_signed:
            raise ProtocolError("an entry without a signature", forged=True)
        key_id = body[len(_MAGIC) : len(_MAGIC) + _ID_BYTES].rstrip(b"\x00")
        secret = keys.get(key_id.decode("ascii", errors="replace"))
        mac = body[len(_MAGIC) + _ID_BYTES : SEAL_BYTES]
        if len(frame) < HEADER_BYTES or secret is None:
            raise ProtocolError("an entry signed with a key that is not valid", forged=True)
        if not hmac.compare_digest(mac, self._sign(secret, header_of(frame))):
            raise ProtocolError("an entry whose signature is wrong", forged=True)
        return frame

    def _sign(self, secret: bytes, header: bytes) -> bytes:
        signed = _DOMAIN + self.namespace.encode() + b"\x00" + header
        return hmac.new(secret, signed, sha256).digest()


def _read_keys(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        text = file.read(KEYS_FILE_BYTES_MAX).decode()
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
