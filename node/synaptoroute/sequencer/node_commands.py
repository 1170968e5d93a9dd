"""NodeCommands: what a node is asked to do about itself, read at its heartbeats.

An order is kept until the node says that it is done, so a node that restarts in the
middle begins again; each kind may be repeated without harm.  Only the holder of a
lease can give one: the script compares its token.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.keys import Keys
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.scripts import Script, Scripts

CommandKind = Literal["mend", "resync", "scrub", "generate", "switch", "drop"]
COMMAND_KINDS: Final[tuple[CommandKind, ...]] = get_args(CommandKind)
COMMAND_BYTES_MAX: Final = 16_384
DONORS_MAX: Final = 64
COMMAND_AGE_MS_MAX: Final = 600_000
"""An older order is not obeyed any more: whoever gave it knew another fleet."""


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """One order.

    Attributes:
        order_id: Names it.
        kind: ``mend``: put rows right; ``resync``: take another node's snapshot;
            ``scrub``: compare memory and disk with the digest; ``generate``: make the
            vectors of another encoder; ``switch``: change the cluster to it; ``drop``:
            forget such vectors.
        reason: Why, for people.
        given_ms: When it was given, by Redis' clock.
        donors: Nodes that a snapshot may come from.
        encoder: Fingerprint of the encoder that it is about.
    """

    order_id: str
    kind: CommandKind
    reason: str
    given_ms: int
    donors: tuple[str, ...] = ()
    encoder: str = ""


class NodeCommands:
    """NodeCommands of one namespace."""

    def __init__(self, scripts: Scripts, link: Link) -> None:
        self._scripts = scripts
        self._link = link

    @property
    def _keys(self) -> Keys:
        return self._scripts.keys

    async def send(self, held: Held, node_id: str, command: NodeCommand) -> bool:
        """Leave an order for a node; False if the lease is not ours any more.

        Raises:
            SequencerUnavailable: No answer.
        """
        keys = [self._keys.lease(held.name), self._keys.node_commands]
        row = json.dumps(asdict(command), sort_keys=True, separators=(",", ":"))
        answer = await self._scripts.run(Script.NODE_COMMAND, keys, [held.proof, node_id, row])
        return bool(answer[0] == b"OK")

    async def pending(self, node_id: str) -> NodeCommand | None:
        """Read the order that a node has not carried out yet.

        Raises:
            SequencerUnavailable: No answer.
            ProtocolError: It is malformed.
        """
        row = await self._link.call("HGET", self._keys.node_commands, node_id)
        return None if row is None else parse_command(row)

    async def all_pending(self) -> dict[str, NodeCommand]:
        """Read every order that waits; malformed ones are left out.

        Raises:
            SequencerUnavailable: No answer.
        """
        flat = await self._link.call("HGETALL", self._keys.node_commands)
        found: dict[str, NodeCommand] = {}
        for node_id, row in zip(flat[::2], flat[1::2], strict=False):
            try:
                found[node_id.decode()] = parse_command(row)
            except (ProtocolError, UnicodeDecodeError):
                continue
        return found

    async def complete(self, node_id: str) -> None:
        """Say that a node has carried out its order, or gives it up.

        Raises:
            SequencerUnavailable: No answer.
        """
        await self._link.call("HDEL", self._keys.node_commands, node_id)


def parse_command(row: bytes) -> NodeCommand:
    """Read an order.

    Raises:
        ProtocolError: It is malformed, or of a kind of a later release.
    """
    if len(row) > COMMAND_BYTES_MAX:
        raise ProtocolError(f"an order has at most {COMMAND_BYTES_MAX} bytes")
    try:
        said: Any = json.loads(row)
        kind, given_ms, donors = said["kind"], said["given_ms"], said["donors"]
        encoder = said.get("encoder", "")
        texts = (said["order_id"], said["reason"], encoder, *donors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError("an order is malformed") from error
    if kind not in COMMAND_KINDS or type(given_ms) is not int or len(donors) > DONORS_MAX:
        raise ProtocolError("an order is malformed")
    if not all(isinstance(text, str) for text in texts):
        raise ProtocolError("an order is malformed")
    return NodeCommand(said["order_id"], kind, said["reason"], given_ms, tuple(donors), encoder)
