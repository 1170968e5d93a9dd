"""State that a coordinator saves for the next one, in one key.

Counts of traffic and past alarms: nothing that a decision about the log depends on.  In a cluster
with a secret it is authenticated, so that whoever can write to Redis cannot make up a history.
"""

from __future__ import annotations

from typing import Final

from synaptoroute.errors import ProtocolError, SequencerUnavailable
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.trust.cluster_secret import MAC_BYTES, ClusterSecret

_KIND: Final = b"coordinator state|"


class SavedState:
    """The saved state of a namespace."""

    def __init__(self, link: Link, keys: Keys, secret: ClusterSecret) -> None:
        self._link = link
        self._key = keys.coordinator
        self._secret = secret

    async def load(self) -> bytes | None:
        """Read what was saved; None if nothing was.

        Raises:
            ProtocolError: It is not authentic, or the key holds something else.
            SequencerUnavailable: Redis does not answer.
        """
        try:
            found = await self._link.call("GET", self._key)
        except SequencerUnavailable as error:
            if str(error.fields.get("redis_error", "")).startswith("WRONGTYPE"):
                raise ProtocolError("the saved state of the coordinator is no string") from error
            raise
        if found is None or not self._secret:
            return None if found is None else bytes(found).partition(b"|")[2]
        key_id, _, rest = bytes(found).partition(b"|")
        mac, content = rest[:MAC_BYTES], rest[MAC_BYTES:]
        if not self._secret.is_mac(key_id.decode("latin-1"), mac, _KIND + content):
            raise ProtocolError("the saved state of the coordinator is not authentic")
        return content

    async def store(self, content: bytes) -> None:
        """Save it in place of what was saved before.

        Raises:
            SequencerUnavailable: Redis does not answer, or refuses.
        """
        if self._secret:
            key_id, mac = self._secret.mac(_KIND + content)
            head = key_id.encode() + b"|" + mac
        else:
            head = b"|"
        await self._link.call("SET", self._key, head + content)
