"""Clusters with a secret: their key files, the identities of their voters, a genesis file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from followers import Peers, peers, until
from synaptoroute.trust.genesis import dump_genesis
from synaptoroute.trust.identity import NodeIdentity


class Pins:
    """The files of a cluster whose voters are pinned."""

    def __init__(self, folder: Path, voters: int, operator: str = "") -> None:
        self.folder = folder
        self.keys_file = folder / "keys"
        self.keys_file.write_text("a " + "s" * 32 + "\n")
        keys = {str(n): self.identity(n) for n in range(voters)}
        self.genesis_file = folder / "genesis.json"
        self.genesis_file.write_text(dump_genesis("default", keys, operator))

    @staticmethod
    def secret_of(folder: Path) -> str:
        """The line of the key file of a cluster in a folder."""
        return (folder / "keys").read_text()

    def key_file(self, number: int) -> Path:
        return self.folder / f"{number}.key"

    def identity(self, number: int) -> str:
        """Make the key of a node; its public key."""
        identity = NodeIdentity.generate()
        identity.save(self.key_file(number))
        return identity.public_key


@asynccontextmanager
async def signed(
    folder: Path,
    url: str,
    voters: int = 3,
    *,
    is_pinned: bool = True,
    operator: str = "",
    **settings: Any,
) -> AsyncIterator[Peers]:
    """Voters with a cluster secret and with doors; pinned, their keys are in a genesis file."""
    pins = await asyncio.to_thread(Pins, folder, voters, operator)
    shared: dict[str, Any] = {"signing_keys_file": pins.keys_file, **settings}
    if is_pinned:
        shared["genesis_file"] = pins.genesis_file
    async with peers(folder, url, 0, **shared) as found:
        for number in range(voters):
            key_file = pins.key_file(number)
            await found.add(f"v{number}", door=True, expect=voters, identity_key_file=key_file)
        for peer in found.all:
            await peer.router.wait_ready(30)
        await until(lambda: all(peer.follower.session.log_state == "open" for peer in found.all))
        yield found
