"""Prefix: one place has one history, and a node's position never runs backwards."""

from __future__ import annotations

from dataclasses import dataclass, field

from synaptoroute.core.mutation import Position


@dataclass
class PrefixCheck:
    """Fed with every position that any node reaches, as it reaches it.

    Attributes:
        found: What does not hold.
        is_one: Whether one place has one history.  Who owns the server gives the order, so he
            can give one place to two entries; then only what is of one history is compared.
    """

    is_one: bool = True
    found: list[str] = field(default_factory=list)
    _chain_at: dict[tuple[int, int], str] = field(default_factory=dict)
    _digest_at: dict[str, str] = field(default_factory=dict)
    _last: dict[str, Position] = field(default_factory=dict)

    def committed(self, node_id: str, position: Position, digest: str) -> None:
        """A node applied the entry at a position."""
        at = (position.epoch, position.seq)
        if self._chain_at.setdefault(at, position.chain) != position.chain and self.is_one:
            self.found.append(f"two histories at {position.revision}, one of them on {node_id}")
        if self._digest_at.setdefault(position.chain, digest) != digest:
            self.found.append(f"two states at {position.revision}, one of them on {node_id}")
        self._moved(node_id, position)

    def installed(self, node_id: str, position: Position) -> None:
        """A node took a snapshot; only a history that lost may be left backwards."""
        before = self._last.get(node_id)
        if before is not None and position.epoch < before.epoch:
            self.found.append(f"{node_id} went from epoch {before.epoch} to {position.epoch}")
        self._last[node_id] = position

    def _moved(self, node_id: str, position: Position) -> None:
        before = self._last.get(node_id)
        if before is not None and position.revision <= before.revision:
            self.found.append(f"{node_id} went from {before.revision} to {position.revision}")
        elif position.seq != (before.seq if before else 0) + 1:
            self.found.append(f"{node_id} skipped what is before {position.revision}")
        self._last[node_id] = position
