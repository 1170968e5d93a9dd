"""Hash trees over numbered items, from which ``core.content`` computes its root.

``Tree`` has a fixed number of leaves.  ``SparseTree`` costs what its items cost, and its copies
share their leaves until one of them changes.  In both, equal items give equal roots, whatever
was there before.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

ITEM_BYTES: Final = 16
LEAVES: Final = 1_024
_GROUP: Final = 32  # Leaves under one inner node of a ``Tree``
_SPARSE_ITEMS: Final = 64  # Items of a leaf of a ``SparseTree``
_SPARSE_GROUP: Final = 64  # Leaves under one of its inner nodes
_NUMBER_BYTES: Final = 8
_NO_ITEM: Final = bytes(ITEM_BYTES)


class Tree:
    """A hash tree of three levels over numbered items of 16 bytes; a missing item is zero."""

    __slots__ = ("_changed", "_groups", "_hashes", "_leaves", "_root")

    def __init__(self, leaves: int = LEAVES) -> None:
        self._leaves = [bytearray() for _ in range(leaves)]
        empty = sha256(b"").digest()
        self._hashes = [empty] * leaves
        self._groups = [b""] * (leaves // _GROUP)
        self._changed = set(range(leaves))
        self._root = b""

    def put(self, number: int, item: bytes) -> None:
        """Put an item into the leaf of its number modulo the number of leaves."""
        place, leaf = divmod(number, len(self._leaves))
        self.put_at(leaf, place, item)

    def drop(self, number: int) -> None:
        place, leaf = divmod(number, len(self._leaves))
        self.drop_at(leaf, place)

    def put_at(self, leaf: int, place: int, item: bytes) -> None:
        held, at = self._leaves[leaf], place * ITEM_BYTES
        if len(held) < at:
            held.extend(bytes(at - len(held)))
        held[at : at + ITEM_BYTES] = item
        self._changed.add(leaf)

    def drop_at(self, leaf: int, place: int) -> None:
        held, at = self._leaves[leaf], place * ITEM_BYTES
        if at >= len(held):
            return
        held[at : at + ITEM_BYTES] = _NO_ITEM
        # Without zeros at the end, a leaf is a function of its items alone.
        del held[_used_bytes(held, ITEM_BYTES) :]
        self._changed.add(leaf)

    def root(self) -> bytes:
        """Return the root; hashes the leaves that changed since the last call."""
        if not self._changed:
            return self._root
        hashes, leaves = self._hashes, self._leaves
        groups = set()
        for leaf in self._changed:
            hashes[leaf] = sha256(leaves[leaf]).digest()
            groups.add(leaf // _GROUP)
        self._changed.clear()
        for group in groups:
            first = group * _GROUP
            self._groups[group] = sha256(b"".join(hashes[first : first + _GROUP])).digest()
        self._root = sha256(b"".join(self._groups)).digest()
        return self._root

    def sparse(self) -> SparseTree:
        """Copy the items that ``put`` took into a sparse tree."""
        copy = SparseTree()
        count = len(self._leaves)
        assert count % _SPARSE_ITEMS == 0, "a sparse leaf is cut from whole leaves"
        for place in range(max(map(len, self._leaves)) // ITEM_BYTES):
            at, end = place * ITEM_BYTES, (place + 1) * ITEM_BYTES
            # Items that follow each other in a sparse leaf are at one place of leaves here.
            for first in range(0, count, _SPARSE_ITEMS):
                parts = self._leaves[first : first + _SPARSE_ITEMS]
                items = [held[at:end] or _NO_ITEM for held in parts]
                copy.put_leaf((place * count + first) // _SPARSE_ITEMS, b"".join(items))
        return copy


class SparseTree:
    """A hash tree of three levels over numbered items of one size; a missing item is zero."""

    __slots__ = ("_changed", "_groups", "_hashes", "_item_bytes", "_leaves", "_root")

    def __init__(self, item_bytes: int = ITEM_BYTES) -> None:
        self._item_bytes = item_bytes
        # Immutable leaves, so that copies may share them.
        self._leaves: dict[int, bytes] = {}
        self._hashes: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}
        self._changed: set[int] = set()
        self._root = sha256(b"").digest()

    def __bool__(self) -> bool:
        return bool(self._leaves)

    def put(self, number: int, item: bytes) -> None:
        leaf, place = divmod(number, _SPARSE_ITEMS)
        held, at = self._leaves.get(leaf, b""), place * self._item_bytes
        before = held[:at] if len(held) >= at else held + bytes(at - len(held))
        self._leaves[leaf] = before + item + held[at + self._item_bytes :]
        self._changed.add(leaf)

    def drop(self, number: int) -> None:
        leaf, place = divmod(number, _SPARSE_ITEMS)
        held, at = self._leaves.get(leaf, b""), place * self._item_bytes
        if at >= len(held):
            return
        held = held[:at] + bytes(self._item_bytes) + held[at + self._item_bytes :]
        if held := held[: _used_bytes(held, self._item_bytes)]:
            self._leaves[leaf] = held
        else:
            del self._leaves[leaf]
        self._changed.add(leaf)

    def put_leaf(self, leaf: int, items: bytes) -> None:
        """Put all items of a leaf at once."""
        if used := _used_bytes(items, self._item_bytes):
            self._leaves[leaf] = items[:used]
            self._changed.add(leaf)

    def copy(self) -> SparseTree:
        copy = SparseTree(self._item_bytes)
        copy._leaves = self._leaves.copy()
        copy._hashes, copy._groups = self._hashes.copy(), self._groups.copy()
        copy._changed, copy._root = self._changed.copy(), self._root
        return copy

    sparse = copy

    def root(self) -> bytes:
        """Return the root; hashes the leaves that changed since the last call."""
        if not self._changed:
            return self._root
        hashes, groups = self._hashes, self._groups
        touched = {leaf // _SPARSE_GROUP for leaf in self._changed}
        for leaf in self._changed:
            held = self._leaves.get(leaf)
            if held is None:
                hashes.pop(leaf, None)
            else:
                hashes[leaf] = sha256(held).digest()
        self._changed.clear()
        for group in touched:
            first = group * _SPARSE_GROUP
            numbers = [n for n in range(first, first + _SPARSE_GROUP) if n in hashes]
            if numbers:
                groups[group] = sha256(_joined(numbers, hashes)).digest()
            else:
                groups.pop(group, None)
        self._root = sha256(_joined(sorted(groups), groups)).digest()
        return self._root


def _joined(numbers: list[int], hashes: dict[int, bytes]) -> bytes:
    return b"".join([n.to_bytes(_NUMBER_BYTES, "big") + hashes[n] for n in numbers])


def _used_bytes(held: bytes | bytearray, item_bytes: int) -> int:
    """Length without the zero items at the end."""
    used = len(held.rstrip(b"\0"))
    return -(-used // item_bytes) * item_bytes
