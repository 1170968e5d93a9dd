"""The right to act, with an end and a number.

A lease may run out while its holder believes that it has it.  So its token, which
only grows, goes along with each act, and the script of the act compares it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synaptoroute.sequencer.scripts import Script, Scripts, text_of

OWNER_BYTES_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that is ours.

    Attributes:
        name: What it is for.
        owner: Who we are.
        token: Its number, larger than that of every earlier holder.
    """

    name: str
    owner: str
    token: int

    @property
    def proof(self) -> str:
        """What a script compares."""
        return f"{self.token}:{self.owner}"


@dataclass(frozen=True, slots=True)
class Taken:
    """A lease that is not ours.

    Attributes:
        owner: Who holds it; empty for nobody (it ran out).
        left_ms: How long it still runs.
    """

    owner: str
    left_ms: int


class Lease:
    """One lease of a namespace, for one owner.

    ``owner`` must be unique to the process: a holder that came back after a restart
    is another one.
    """

    def __init__(self, scripts: Scripts, name: str, owner: str, *, lease_ms: int = 5_000) -> None:
        assert 0 < len(owner.encode()) <= OWNER_BYTES_MAX, "a short owner is needed"
        self._scripts = scripts
        self._keys = [scripts.keys.lease(name), scripts.keys.fence]
        self._name = name
        self._owner = owner
        self._lease_ms = lease_ms

    async def acquire(self) -> Held | Taken:
        """Take the lease where nobody holds it.

        Raises:
            SequencerUnavailable: No answer; if it was taken, it runs out by itself.
        """
        return await self._run("acquire", "")

    async def renew(self, held: Held) -> Held | Taken:
        """Keep the lease; ``Taken`` means that it is lost and acting must stop."""
        return await self._run("renew", str(held.token))

    async def release(self, held: Held) -> None:
        """Give the lease back, so that another need not wait."""
        await self._run("release", str(held.token))

    async def _run(self, act: str, token: str) -> Held | Taken:
        args = [act, self._owner, token, self._lease_ms]
        answer = await self._scripts.run(Script.LEASE, self._keys, args)
        if answer[0] == b"OK":
            return Held(self._name, self._owner, int(answer[1]))
        return Taken(text_of(answer[1]), max(0, int(answer[2])))
