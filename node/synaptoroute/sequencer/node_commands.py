"""Commands: what the coordinator asks a node to do.  A node polls for its command.

A command is kept until the node has completed it, so a node that restarts halfway executes it
again; every kind may be repeated without harm.  Only the holder of a lease can send one: the
script compares the lease's token.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from synaptoroute.errors import ProtocolError
from synaptoroute.sequencer.client import Link
from synaptoroute.sequencer.lease import Held
from synaptoroute.sequencer.scripts import Script, Scripts

CommandKind = Literal["mend", "resync", "scrub", "generate", "switch", "drop"]
COMMAND_KINDS: Final[tuple[CommandKind, ...]] = get_args(CommandKind)
COMMAND_BYTES_MAX: Final = 16_384
DONORS_MAX: Final = 64
COMMAND_AGE_MS_MAX: Final = 600_000
"""An older command is not executed: it was given for another state of the fleet."""


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """One command.  The names of the fields are its JSON form in Redis."""

    order_id: str
    # ``mend``: repair rows; ``resync``: install another node's snapshot; ``scrub``: compare
    # memory and disk with the digest; ``generate``: compute the vectors of another encoder;
    # ``switch``: change the cluster to it; ``drop``: drop such vectors
    kind: CommandKind
    reason: str
    given_ms: int  # By Redis' clock
    donors: tuple[str, ...] = ()  # Nodes from which a snapshot may come
    encoder: str = ""  # Fingerprint of the encoder concerned


class NodeCommands:
    """The commands of one namespace.  Every method raises ``SequencerUnavailable``."""

    def __init__(self, scripts: Scripts, link: Link) -> None:
        self._scripts = scripts
        self._link = link
        self._key = scripts.keys.node_commands

    async def send(self, held: Held, node_id: str, command: NodeCommand) -> bool:
        """Leave a command for a node; False if the lease is not ours any more."""
        keys = [self._scripts.keys.lease(held.name), self._key]
        row = json.dumps(asdict(command), sort_keys=True, separators=(",", ":"))
        answer = await self._scripts.run(Script.NODE_COMMAND, keys, [held.proof, node_id, row])
        return bool(answer[0] == b"OK")

    async def pending(self, node_id: str) -> NodeCommand | None:
        """Read the command that a node has not completed yet."""
        row = await self._link.call("HGET", self._key, node_id)
        return None if row is None else parse_command(row)

    async def all_pending(self) -> dict[str, NodeCommand]:
        """Read every pending command by node; malformed ones are left out."""
        flat = await self._link.call("HGETALL", self._key)
        found: dict[str, NodeCommand] = {}
        for node_id, row in zip(flat[::2], flat[1::2], strict=False):
            try:
                found[node_id.decode()] = parse_command(row)
            except (ProtocolError, UnicodeDecodeError):
                continue
        return found

    async def complete(self, node_id: str) -> None:
        """Remove a node's command, because it was executed or given up."""
        await self._link.call("HDEL", self._key, node_id)


def parse_command(row: bytes) -> NodeCommand:
    """Read a command."""
    if len(row) > COMMAND_BYTES_MAX:
        raise ProtocolError(f"an order has at most {COMMAND_BYTES_MAX} bytes")
    try:
        parsed: Any = json.loads(row)
        kind, given_ms, donors = parsed["kind"], parsed["given_ms"], parsed["donors"]
        encoder = parsed.get("encoder", "")
        texts = (parsed["order_id"], parsed["reason"], encoder, *donors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError("an order is malformed") from error
    if kind not in COMMAND_KINDS or type(given_ms) is not int or len(donors) > DONORS_MAX:
        raise ProtocolError("an order is malformed")
    if not all(isinstance(text, str) for text in texts):
        raise ProtocolError("an order is malformed")
    return NodeCommand(parsed["order_id"], kind, parsed["reason"], given_ms, tuple(donors), encoder)
