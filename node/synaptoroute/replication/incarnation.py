"""The identity of a node, and whether another process that has it is alive.

A node's identity lies in its data directory.  A copy of the directory is a second process with
the same identity, which would vote and acknowledge writes for the first.  So each run has a
boot name, and a run begins only when no other run of the identity is alive.

A restart must not wait: the former process is known to be gone if its operating system says so,
if it ended in an orderly way, or if its address now belongs to this run.  Otherwise its counter
in Redis has to stand still for as long as a node counts as live.

If both run (the first was cut off while the second began), the run that began later stays: the
earlier one finds its rows replaced, and stops to write, to vote and to report.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from synaptoroute.config import ClusterConfig
from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.node_rows import (
    CLAIM,
    PRESENCE,
    ROW_BYTES_MAX,
    NodeReport,
    parse_document,
    report_of,
)
from synaptoroute.sequencer.presence import Presence
from synaptoroute.trust.documents import canonical, sign_document, verify_document
from synaptoroute.trust.identity import NodeIdentity
from synaptoroute.trust.statements import Signer, Verifier

CLAIM_MS: Final = 10_000
POLL_SECONDS: Final = 0.25
CLOCK_ERROR_MS: Final = 1_000  # Nodes estimate Redis' clock from their round trips

_log = logging.getLogger(__name__)

AskBoot = Callable[[str, str], Awaitable[str]]
"""Asks an address for the boot name of the node there, as signed by a public key; empty if
nobody answers with one."""


def process_name() -> str:
    """Name this process so that another process of the same host can look for it."""
    return f"{_host_name()}:{os.getpid()}:{_started_at(os.getpid())}"


def is_process_gone(name: str) -> bool:
    """Whether a process was on this host and has ended; False if that is not certain."""
    host, _, rest = name.partition(":")
    pid, _, started_at = rest.partition(":")
    if not host or host != _host_name() or not pid.isdigit() or not started_at:
        return False
    return _started_at(int(pid)) != started_at


def _host_name() -> str:
    # A process number means something in its own namespace of the running system only.
    try:
        system = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return sha256(f"{system} {space}".encode()).hexdigest()[:16]


def _started_at(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    # The command, in parentheses, may hold spaces.
    words = text.rpartition(")")[2].split()
    # A process that has ended and was not collected yet is gone, too.
    return "" if not words or words[0] in "ZX" or len(words) < 20 else words[19]


class Incarnation:
    """One run of a node: this one.  Used on one event loop.

    Args:
        signer: Signs as this node.
        verifier: Verifies the rows of this node's name.
        presence: The rows in Redis.
        ask_boot: Asks an address which run is there.
    """

    def __init__(
        self, signer: Signer, verifier: Verifier, presence: Presence, ask_boot: AskBoot
    ) -> None:
        # The time first: names of runs are ordered.
        self.boot = f"{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(8)}"
        self.process = ""  # Known once the identity is claimed
        self.is_claimed = False  # Whether the identity is this run's
        self.conflict = ""  # The other run that is alive; empty if there is none
        self.conflicts_count = 0  # Times another run was found
        self.url = ""
        self._signer = signer
        self._verifier = verifier
        self._presence = presence
        self._ask_boot = ask_boot
        self._counter = 0
        self._since_ms = 0  # Redis' time when this run took the identity
        self._before: tuple[str, int] = ("", 0)  # Boot and counter of the row that was taken over

    async def claim(self, url: str) -> bool:
        """Take the identity if no other run of it is alive; may wait for some seconds.

        Raises:
            SequencerUnavailable: Redis does not answer.
        """
        self.url = url
        # /proc is read on a thread: it is a file like any other.
        self.process = self.process or await asyncio.to_thread(process_name)
        row, age_ms, now_ms = await self._presence.row_of(self._signer.name)
        other = self._other(row)
        if other is not None and await self._is_alive(other, age_ms):
            self._note(other)
            document = {"boot": self.boot, "url": url, "process": self.process}
            text = canonical(sign_document(self._signer, CLAIM, document))
            await self._presence.claim(self._signer.name, text, CLAIM_MS)
            return False
        if other is not None:
            self._before = (other.boot, other.counter)
        self._since_ms = now_ms - CLOCK_ERROR_MS
        self.conflict, self.is_claimed = "", True
        return True

    def check(self, displaced: bytes, claim: bytes) -> bool:
        """Check what a heartbeat has found; False if a later run has this identity.

        Args:
            displaced: The row that the heartbeat replaced.
            claim: What a refused process has left.
        """
        other = self._other(displaced)
        if other is None or not self._is_running(other):
            self._read_claim(claim)
            return True
        self._note(other)
        self.is_claimed = other.boot < self.boot
        return self.is_claimed

    def _is_running(self, other: NodeReport) -> bool:
        """Whether a row that was replaced was written after this run took the identity."""
        # An older row is that of a process that has ended, or somebody has put it back.
        is_new = other.time_ms >= self._since_ms
        return is_new and not other.is_ended and (other.boot, other.counter) != self._before

    def next_counter(self) -> int:
        """Number the next report."""
        self._counter += 1
        return self._counter

    def _read_claim(self, claim: bytes) -> None:
        if not claim:
            self.conflict = ""
            return
        try:
            document = self._presence.rows.read_claim(self._signer.name, claim)
            boot, url = str(document.get("boot")), str(document.get("url"))
        except ProtocolError:
            return
        if boot == self.boot:
            self.conflict = ""
            return
        self._tell(f"a second process ({_name(boot, url)}) has the identity of this node and is "
                   f"refused; this is {_name(self.boot, self.url)}")  # fmt: skip

    def _other(self, row: bytes) -> NodeReport | None:
        """The report of another run of this identity; None if the row is not one."""
        if not row:
            return None
        try:
            document = parse_document(row, ROW_BYTES_MAX)
            report = report_of(document)
            found = verify_document(self._verifier, PRESENCE, document, by=self._signer.name)
        except ProtocolError:
            return None
        # Without a secret everybody can sign with some key: only this node's own key counts.
        is_own = found.public_key == self._signer.public_key
        if report.boot in ("", self.boot) or not (is_own or self._presence.rows.is_verifying):
            return None
        return report

    async def _is_alive(self, other: NodeReport, age_ms: int) -> bool:
        if other.is_ended or age_ms > other.alive_ms:
            return False
        if await asyncio.to_thread(is_process_gone, other.process):
            return False
        if other.url:
            boot = await self._ask_boot(other.url, self._signer.public_key)
            if boot:
                return boot == other.boot
        return await self._is_advancing(other, age_ms)

    async def _is_advancing(self, other: NodeReport, age_ms: int) -> bool:
        """Watch the row for as long as a node without a heartbeat counts as live."""
        deadline = time.monotonic() + max(0, other.alive_ms - age_ms) / 1_000
        while time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            row, _, _ = await self._presence.row_of(self._signer.name)
            now = self._other(row)
            if now is not None and now.is_ended:
                return False
            if now is not None and (now.boot, now.counter) > (other.boot, other.counter):
                return True
        return False

    def _note(self, other: NodeReport) -> None:
        self._tell(
            f"another process ({_name(other.boot, other.url)}) has the identity of this node, "
            f"{self._signer.name}, and is alive; this is {_name(self.boot, self.url)}"
        )

    def _tell(self, conflict: str) -> None:
        if conflict != self.conflict:
            self.conflict = conflict
            self.conflicts_count += 1
            _log.error("identity conflict: %s", conflict)


def _name(boot: str, url: str) -> str:
    return f"boot {boot} at {url or 'no address'}"


def open_identity(config: ClusterConfig, database: str) -> NodeIdentity:
    """Read the key of this node, or keep the given one, or a new one, beside the database; blocks.

    A node in memory without a given key has a new one each time.

    Raises:
        ConfigError: The key cannot be read.
    """
    if config.identity_key_file is not None:
        return NodeIdentity.load(config.identity_key_file)
    # Named like the database: several nodes of one host may share a folder.
    path = None if database == ":memory:" else Path(database).with_suffix(".key")
    # A node keeps the identity that others know, whatever it is given later.
    if path is not None and _exists(path):
        return NodeIdentity.load(path)
    initial = config.initial_identity_key_file
    if initial is not None and _exists(initial):
        identity = NodeIdentity.load(initial)
    else:
        identity = NodeIdentity.generate()
    if path is not None:
        try:
            identity.save(path)
        except OSError as error:
            # A full disk must not keep a node from answering queries.
            _log.warning("the key of this node cannot be kept in %s: %s", path, error)
    return identity


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
