"""Leases with fencing tokens.

A lease may expire while its holder believes to have it: after a long pause of the process, or
because the clock was set.  So a lease alone protects nothing.  Each lease carries a token that
only grows; every script that needs the lease compares the token in the same atomic step.
Source: M. Kleppmann, "How to do distributed locking" (2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synaptoroute.sequencer.append_errors import text_of
from synaptoroute.sequencer.scripts import Script, Scripts

OWNER_BYTES_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that is ours."""

    name: str
    owner: str
    token: int  # Larger than that of every earlier holder

    @property
    def proof(self) -> str:
        return f"{self.token}:{self.owner}"


@dataclass(frozen=True, slots=True)
class Taken:
    """A lease that is not ours."""

    owner: str  # empty if it has expired
    left_ms: int


class Lease:
    """One lease of a namespace, for one owner.

    ``owner`` must be unique to the process: after a restart it is another owner.
    """

    def __init__(self, scripts: Scripts, name: str, owner: str, *, lease_ms: int = 5_000) -> None:
        assert 0 < len(owner.encode()) <= OWNER_BYTES_MAX, "a short owner is needed"
        self._scripts = scripts
        self._keys = [scripts.keys.lease(name), scripts.keys.fence]
        self._name = name
        self._owner = owner
        self._lease_ms = lease_ms

    async def acquire(self) -> Held | Taken:
        """Take the lease if nobody holds it."""
        return await self._run("acquire", "")

    async def renew(self, held: Held) -> Held | Taken:
        """Extend the lease; ``Taken`` means that it is lost and its holder must stop."""
        return await self._run("renew", str(held.token))

    async def release(self, held: Held) -> None:
        """Give the lease back, so that the next holder need not wait."""
        await self._run("release", str(held.token))

    async def _run(self, action: str, token: str) -> Held | Taken:
        args = [action, self._owner, token, self._lease_ms]
        answer = await self._scripts.run(Script.LEASE, self._keys, args)
        if answer[0] == b"OK":
            return Held(self._name, self._owner, int(answer[1]))
        return Taken(text_of(answer[1]), max(0, int(answer[2])))
