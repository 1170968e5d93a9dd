"""API keys with the scopes read, write, admin and metrics, for all route sets or for some.

A line of the key file is ``scope[,scope] hash name [attribute=value ...]``; ``#`` starts a comment.
A scope may be followed by ``@`` and a pattern of route sets, such as ``write@support-*``: see
``key_grants``.
The hash is the SHA-256 of the key, 64 hexadecimal digits, with or without ``sha256:`` before
them.  A key has 256 random bits, so a plain SHA-256 of it cannot be searched.  The time is
RFC 3339, such as ``2027-01-31T00:00:00Z``.  An attribute that this release does not know is
refused: what it restricts would be granted otherwise.

Keys are never logged.  A change of the file and the expiry of a key count within
``RELOAD_SECONDS``, for requests, sessions and streams alike.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from synaptoroute.errors import ConfigError
from synaptoroute.private_files import exposure_of, open_private
from synaptoroute.trust.requests import key_id_of
from synaptoroute.web.key_grants import ALL_SCOPES, Grant, Scope, parse_grant
from synaptoroute.web.key_limits import LIMITS, NO_LIMITS, KeyLimits, parse_limit
from synaptoroute.web.logs import ServerLog

KEY_PREFIX: Final = "sr_"
KEY_RANDOM_BYTES: Final = 32
KEY_CHARACTERS_MAX: Final = 256
KEYS_MAX: Final = 1_000
FILE_BYTES_MAX: Final = 1_048_576
RELOAD_SECONDS: Final = 0.25
NAME_PATTERN: Final = r"[A-Za-z0-9_.@:-]{1,64}"
"""No space and no control character: names stand in log lines, headers and pages."""
_NAME: Final = re.compile(NAME_PATTERN)
_HASH: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One API key.

    Attributes:
        name: Its holder; the author of the writes that it makes.
        key_hash: SHA-256 of the key.
        scopes: What it may do in every route set and in the cluster.
        expires_at: Unix time in seconds from which on it is refused; None for never.
        grants: What it may do in some route sets only.
        limits: How fast it may be used at one node.
        cache_scope: Caches that it shares with keys of equal grants; empty for the common ones.
    """

    name: str
    key_hash: bytes
    scopes: frozenset[Scope]
    expires_at: float | None = None
    grants: tuple[Grant, ...] = ()
    limits: KeyLimits = NO_LIMITS
    cache_scope: str = ""
    # Distinguishes a key from the same key before it was removed, had other rights or expired
    serial: int = field(default=0, compare=False)

    def may(self, scope: Scope) -> bool:
        """Whether it allows a scope everywhere."""
        return scope in self.scopes or "admin" in self.scopes

    def may_in(self, scope: Scope, route_set: str) -> bool:
        """Whether it allows a scope in a route set, or for an alias."""
        return self.may(scope) or any(
            each.scope in (scope, "admin") and each.covers(route_set) for each in self.grants
        )

    def sees(self, route_set: str) -> bool:
        """Whether it may know that a route set, or an alias, exists."""
        return not self.is_scoped or any(each.covers(route_set) for each in self.grants)

    @property
    def is_scoped(self) -> bool:
        """Whether it is for some route sets only."""
        return is_scoped(self.scopes)

    def has_rights_of(self, other: ApiKey) -> bool:
        """Whether both allow the same; their expiry and their limits may differ."""
        return (self.name, self.key_hash, self.scopes, self.grants) == (
            other.name,
            other.key_hash,
            other.scopes,
            other.grants,
        )


def make_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(KEY_RANDOM_BYTES)


def key_line(
    key: str,
    scopes: Sequence[str],
    name: str,
    expires_at: datetime | None = None,
    limits: Sequence[str] = (),
) -> str:
    """Make the line of a key for the file, without its line end.

    Args:
        scopes: Such as ``read`` or ``write@support-*``.
        limits: Such as ``requests_per_second=50``.

    Raises:
        ConfigError: A scope or a limit is not known, or the name is malformed.
    """
    # Before it is a part of the line, where a blank would begin another word.
    _check_name(name, "the key")
    line = f"{','.join(scopes)} sha256:{hashlib.sha256(key.encode()).hexdigest()} {name}"
    if expires_at is not None:
        line += f" expires={expires_at.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"
    if any(len(each.split()) != 1 for each in (*scopes, *limits)):
        raise ConfigError("the key: a scope and a limit have no spaces")
    line = " ".join((line, *limits))
    _parse_line(line, "the key")
    return line


def add_line(path: Path, line: str) -> None:
    """Append the line of a key to a key file; one that is made is its owner's alone.

    Raises:
        ConfigError: The file cannot be written, or what it holds is malformed.
    """
    try:
        content = path.read_text(encoding="utf-8-sig") if path.exists() else ""
        parse_keys(f"{content}\n{line}\n")
        gap = "" if not content or content.endswith("\n") else "\n"
        with open_private(path, "ab") as file:
            file.write(f"{gap}{line}\n".encode())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot add a key to {path}: {error}") from error


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Read a file of keys.

    Raises:
        ConfigError: A malformed line, named by its number; no key, or too many.
    """
    keys: dict[bytes, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"line {number} of the API keys file"
        key = _parse_line(line, where)
        # Of two lines for one key an operator would remove one and believe the key revoked.
        if key.key_hash in keys:
            raise ConfigError(f"{where}: an earlier line has the same key")
        keys[key.key_hash] = key
    if not keys:
        raise ConfigError("the API keys file holds no key: nobody could authenticate")
    if len(keys) > KEYS_MAX:
        raise ConfigError(f"the API keys file holds more than {KEYS_MAX} keys")
    return tuple(keys.values())


def parse_expiry(text: str) -> float:
    """Read an RFC 3339 time with its zone.

    Returns:
        Unix time in seconds.

    Raises:
        ValueError: It is malformed.
    """
    if not _TIME.fullmatch(text):
        raise ValueError("a time is RFC 3339, such as 2027-01-31T00:00:00Z")
    return datetime.fromisoformat(text).timestamp()


def _check_name(name: str, where: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name is 1 to 64 letters, digits, '_', '.', '@', ':', '-'")


def _parse_line(line: str, where: str) -> ApiKey:
    words = line.split()
    if len(words) < 3:
        raise ConfigError(f"{where} must read: scope[,scope] sha256:hex name [attribute=value]")
    scopes, grants = _parse_scopes(words[0], where)
    digest, name = _HASH.fullmatch(words[1].lower()), words[2]
    if not digest:
        raise ConfigError(f"{where}: the second word must be sha256: and 64 hexadecimal digits")
    _check_name(name, where)
    expires_at, limits = _parse_attributes(words[3:], where)
    cache_scope = ",".join(sorted(map(str, grants))) if is_scoped(scopes) else ""
    return ApiKey(name, bytes.fromhex(digest[1]), scopes, expires_at, grants, limits, cache_scope)


def is_scoped(scopes: frozenset[Scope]) -> bool:
    """Whether scopes allow nothing in every route set."""
    return not scopes - {"metrics"}


def _parse_scopes(word: str, where: str) -> tuple[frozenset[Scope], tuple[Grant, ...]]:
    """Read the scopes of a line: those without a pattern, and the others."""
    items = word.split(",")
    plain: set[Scope] = {scope for scope in ALL_SCOPES if scope in items}
    grants: list[Grant] = []
    for item in items:
        if "@" in item:
            try:
                grants.append(parse_grant(item))
            except ValueError as error:
                raise ConfigError(f"{where}: {error}") from None
    if len(plain) + len(set(grants)) != len(items):
        raise ConfigError(
            f"{where}: scopes are {', '.join(ALL_SCOPES)}, each at most once, or with a pattern of"
            " route sets, such as read@support"
        )
    return frozenset(plain), tuple(grants)


def _parse_attributes(words: Sequence[str], where: str) -> tuple[float | None, KeyLimits]:
    """Read the expiry and the limits of a line."""
    expires_at: float | None = None
    limits: dict[str, float] = {}
    for attribute in words:
        label, _, value = attribute.partition("=")
        if label != "expires" and label not in LIMITS:
            raise ConfigError(f"{where}: the attributes are expires=time, {'=n, '.join(LIMITS)}=n")
        if label in limits or (label == "expires" and expires_at is not None):
            raise ConfigError(f"{where}: {label} is given twice")
        try:
            if label == "expires":
                expires_at = parse_expiry(value)
            else:
                limits[label] = parse_limit(value)
        except ValueError as error:
            raise ConfigError(f"{where}: {label}: {error}") from None
    return expires_at, KeyLimits(**limits) if limits else NO_LIMITS


@dataclass(frozen=True, slots=True)
class KeysStatus:
    """State of the keys of a process.

    Attributes:
        keys: Keys of the ring, expired ones included.
        expired: Those that have expired.
        next_expiry_at: Unix time in seconds of the next expiry; None for none.
        error: Why the present content of the file is refused; empty if it is in force.
        warning: What is wrong with the file although it is in force, or empty.
    """

    keys: int
    expired: int
    next_expiry_at: float | None
    error: str
    warning: str


class ApiKeys:
    """The keys of one process, read again when their file changes.

    Malformed content leaves the last valid keys in force: a mistake must not lock everybody
    out.  ``status`` and the log say so.  ``look_up`` and ``find`` run on the event loop;
    ``reload`` reads a file and runs elsewhere.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._error = ""
        self._serial = 0
        content = _read(path)
        self._keys = _by_hash(content)
        self._seen: bytes | None = _digest(content)
        self._ids: dict[str, bytes] = {}  # Hash of each key by its name in proofs
        self._ids_of: object = None  # The keys that they were computed for
        self._warning = exposure_of(path)
        self._logged_warning = self._warning  # the process logs it at its start

    def __len__(self) -> int:
        return len(self._keys)

    def look_up(self, key: str) -> ApiKey | None:
        """Find the entry of a key, expired or not."""
        presented = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        # What is compared is a hash, of which a client can choose no byte, so the time of
        # the look-up tells nothing about a key; the last comparison takes constant time.
        found = self._keys.get(presented)
        if found is None or not hmac.compare_digest(found.key_hash, presented):
            return None
        return found

    def with_id(self, key_id: str) -> ApiKey | None:
        """Find the entry of a key by its name in proofs, see ``trust.requests``."""
        if self._ids_of is not self._keys:
            self._ids = {key_id_of(each): each for each in self._keys}
            self._ids_of = self._keys
        key_hash = self._ids.get(key_id)
        return None if key_hash is None else self._keys.get(key_hash)

    def is_expired(self, key: ApiKey) -> bool:
        return key.expires_at is not None and key.expires_at <= self._clock()

    def find(self, key: str) -> ApiKey | None:
        """Find the entry of a key that is in force."""
        found = self.look_up(key)
        return None if found is None or self.is_expired(found) else found

    def is_in_force(self, key: ApiKey) -> bool:
        """Whether a key that was found before is still here, with the same rights."""
        present = self._keys.get(key.key_hash)
        # A key that was removed and came back ends what began before, too: nobody may have
        # asked in between.
        return present is not None and present.serial == key.serial and not self.is_expired(present)

    @property
    def status(self) -> KeysStatus:
        now = self._clock()
        times = [key.expires_at for key in self._keys.values() if key.expires_at is not None]
        to_come = [each for each in times if each > now]
        return KeysStatus(
            keys=len(self._keys),
            expired=len(times) - len(to_come),
            next_expiry_at=min(to_come, default=None),
            error=self._error,
            warning=self._warning,
        )

    def reload(self, *, force: bool = False) -> bool:
        """Read the file again; say whether it changed, or was to be reported again."""
        # The content is compared, not the time of the change: two changes may have one time,
        # and a read may fall between the two.
        seen, self._warning = None, exposure_of(self._path)
        try:
            content = _read(self._path)
            seen = _digest(content)
            if seen == self._seen and not force:
                return False
            self._keys = self._continued(_by_hash(content))
        except ConfigError as error:
            # The same mistake is reported once, not at every look.
            is_reported = error.message == self._error and seen == self._seen and not force
            self._error, self._seen = error.message, seen
            if is_reported:
                return False
            raise
        self._error, self._seen = "", seen
        return True

    def _continued(self, keys: dict[bytes, ApiKey]) -> dict[bytes, ApiKey]:
        """Carry the serials of the keys over that were in force with the same rights."""
        self._serial += 1
        carried = {}
        for key_hash, key in keys.items():
            before, serial = self._keys.get(key_hash), self._serial
            if before is not None and before.has_rights_of(key) and not self.is_expired(before):
                serial = before.serial
            carried[key_hash] = replace(key, serial=serial)
        return carried

    async def reload_and_log(
        self, log: ServerLog, *, force: bool = False, executor: ThreadPoolExecutor | None = None
    ) -> None:
        """Read the file again if it changed; a malformed one leaves the old keys valid."""
        loop = asyncio.get_running_loop()
        try:
            if await loop.run_in_executor(executor, lambda: self.reload(force=force)):
                log.info("api_keys_read", keys=len(self))
        except ConfigError as error:
            log.error("api_keys_refused", code=error.code, detail=error.message)
        self._log_warning(log)

    def _log_warning(self, log: ServerLog) -> None:
        warning = self._warning
        if warning and warning != self._logged_warning:
            log.warning("secret_exposed", detail=warning)
        self._logged_warning = warning

    async def watch(self, log: ServerLog) -> None:
        """Follow the file until cancelled."""
        # A thread of its own: slow work on the threads of the loop must not delay a revocation.
        with ThreadPoolExecutor(1, "synaptoroute-keys") as executor:
            while True:
                await asyncio.sleep(RELOAD_SECONDS)
                await self.reload_and_log(log, executor=executor)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"the API keys file {path} cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"the API keys file is over {FILE_BYTES_MAX} bytes")
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _by_hash(content: bytes) -> dict[bytes, ApiKey]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("the API keys file is not UTF-8") from error
    return {key.key_hash: key for key in parse_keys(text)}
