"""API keys with the scopes read, write and admin.

The file holds hashes only, ``scope[,scope] sha256-hex name`` a line; ``#`` starts a
comment.  A key has 256 random bits, so a plain SHA-256 of it cannot be searched.
Keys are compared in constant time and never logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from synaptoroute.errors import ConfigError
from synaptoroute.web.logs import ServerLog

Scope = Literal["read", "write", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
KEY_PREFIX: Final = "sr_"
KEY_RANDOM_BYTES: Final = 32
KEY_CHARACTERS_MAX: Final = 256
KEYS_MAX: Final = 1_000
FILE_BYTES_MAX: Final = 1_048_576
RELOAD_SECONDS: Final = 1.0
_NAME = re.compile(r"[A-Za-z0-9_.@:-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One API key."""

    name: str
    key_hash: bytes
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


def make_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(KEY_RANDOM_BYTES)


def key_line(key: str, scopes: Sequence[str], name: str) -> str:
    """Make the line of a key for the file, without its line end."""
    line = f"{','.join(scopes)} {hashlib.sha256(key.encode()).hexdigest()} {name}"
    _parse_line(line, "the key")
    return line


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Read a file of keys.

    Raises:
        ConfigError: A malformed line, named by its number; no key, or too many.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            keys.append(_parse_line(line, f"line {number} of the API keys file"))
    if not keys:
        raise ConfigError("the API keys file holds no key: nobody could authenticate")
    if len(keys) > KEYS_MAX:
        raise ConfigError(f"the API keys file holds more than {KEYS_MAX} keys")
    return tuple(keys)


def _parse_line(line: str, where: str) -> ApiKey:
    words = line.split()
    if len(words) != 3:
        raise ConfigError(f"{where} must read: scope[,scope] sha256-hex name")
    scopes, digest, name = words[0].split(","), words[1].lower(), words[2]
    known: list[Scope] = [scope for scope in SCOPES if scope in scopes]
    if len(known) != len(scopes):
        raise ConfigError(f"{where}: scopes are {', '.join(SCOPES)}, each at most once")
    if not _HASH.fullmatch(digest):
        raise ConfigError(f"{where}: the second word must be 64 hexadecimal digits")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name is 1 to 64 letters, digits, '_', '.', '@', ':', '-'")
    return ApiKey(name, bytes.fromhex(digest), frozenset(known))


class ApiKeys:
    """The keys of one process, read again when their file changes.

    ``find`` runs on the event loop; ``reload`` reads a file and runs elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys, self._stamp = _read(path)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: str) -> ApiKey | None:
        presented = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = None
        # Every entry is compared, so that the time does not tell which one matches.
        for entry in self._keys:
            if hmac.compare_digest(entry.key_hash, presented):
                found = entry
        return found

    def reload(self, *, force: bool = False) -> bool:
        """Read the file again if it changed; say whether it was read."""
        if not force and _stamp(self._path) == self._stamp:
            return False
        try:
            self._keys, self._stamp = _read(self._path)
        except ConfigError:
            # The same broken content is reported once, not every second.
            self._stamp = _stamp(self._path)
            raise
        return True

    async def reload_and_log(self, log: ServerLog, *, force: bool = False) -> None:
        """Read the file again if it changed; a malformed one leaves the old keys valid."""
        try:
            if await asyncio.to_thread(self.reload, force=force):
                log.info("api_keys_read", keys=len(self))
        except ConfigError as error:
            # A mistake in the file must not lock everybody out.
            log.error("api_keys_refused", code=error.code, detail=error.message)

    async def watch(self, log: ServerLog) -> None:
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            await self.reload_and_log(log)


Stamp = tuple[int, int, int] | None


def _stamp(path: Path) -> Stamp:
    """Identify the present content of a file; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> tuple[tuple[ApiKey, ...], Stamp]:
    stamp = _stamp(path)
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"the API keys file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the API keys file {path} is not UTF-8") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"the API keys file is over {FILE_BYTES_MAX} bytes")
    return parse_keys(text), stamp
