"""Finds the rows of a text.

The index maps a hash of the normalised text to slots.  It only nominates: the caller
compares the text of a slot, so a collision, or a slot that lost its owner, costs time and
never a wrong answer.  It takes about 100 bytes an utterance, whatever its length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.same_text import same_text_form

_NO_KEY: Final = -1
"""``hash`` never returns it."""
_ROWS_MIN: Final = 256


def text_keys(texts: Iterable[str]) -> list[int]:
    """Hash the normalised forms of texts; a hash differs from process to process."""
    return [hash(same_text_form(text)) for text in texts]


class TextIndex:
    """Slots by the hash of their normalised text; not thread-safe."""

    def __init__(self) -> None:
        # Most texts are of one slot; a set for each would take four times the memory.
        self._slots: dict[int, int | set[int]] = {}
        self._keys = np.full(0, _NO_KEY, np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def copy(self) -> TextIndex:
        copied = TextIndex()
        copied._slots = {
            key: set(slots) if isinstance(slots, set) else slots
            for key, slots in self._slots.copy().items()
        }
        copied._keys = self._keys.copy()
        return copied

    def put(self, slots: Iterable[int], keys: Iterable[int]) -> None:
        """Set the texts of slots, by their ``text_keys``, in place of what they had."""
        if not self._slots:
            slots, keys = list(slots), list(keys)
            found: dict[int, int | set[int]] = dict(zip(keys, slots, strict=True))
            if len(found) == len(slots) == len(set(slots)):  # each text once: half of the time
                if (count := max(slots, default=-1) + 1) > len(self._keys):
                    self._grow(count)
                self._keys[slots] = keys
                self._slots = found
                return
        for slot, key in zip(slots, keys, strict=True):
            if slot >= len(self._keys):
                self._grow(slot + 1)
            elif self._keys.item(slot) != _NO_KEY:
                self._remove(slot)
            self._keys[slot] = key
            known = self._slots.setdefault(key, slot)
            if isinstance(known, set):
                known.add(slot)
            elif known != slot:
                self._slots[key] = {known, slot}

    def free(self, slots: Iterable[int]) -> None:
        """Forget slots."""
        for slot in slots:
            if slot < len(self._keys) and self._keys.item(slot) != _NO_KEY:
                self._remove(slot)
                self._keys[slot] = _NO_KEY

    def find(self, text: str) -> tuple[int, ...]:
        """Find the slots that may have a text, in ascending order."""
        known = self._slots.get(hash(same_text_form(text)))
        if known is None:
            return ()
        return tuple(sorted(known)) if isinstance(known, set) else (known,)

    def known(self, texts: Iterable[str]) -> list[str]:
        """Keep the texts that some slot may have."""
        return [text for text in texts if hash(same_text_form(text)) in self._slots]

    def missing(self, slots: NDArray[np.int64]) -> list[int]:
        """Find places in ``slots`` of slots without a text."""
        inside = slots < len(self._keys)
        keys = np.full(len(slots), _NO_KEY, np.int64)
        keys[inside] = self._keys[slots[inside]]
        found: list[int] = np.flatnonzero(keys == _NO_KEY).tolist()
        return found

    def _grow(self, count: int) -> None:
        missing = max(count, 2 * len(self._keys), _ROWS_MIN) - len(self._keys)
        self._keys = np.concatenate([self._keys, np.full(missing, _NO_KEY, np.int64)])

    def _remove(self, slot: int) -> None:
        key = self._keys.item(slot)
        known = self._slots[key]
        if not isinstance(known, set):
            del self._slots[key]
            return
        known.discard(slot)
        if len(known) == 1:
            (self._slots[key],) = known
