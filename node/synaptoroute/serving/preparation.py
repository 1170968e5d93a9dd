"""Preparation of queries: what is cut out of a text, and which words are repaired.

The result depends on the text, the settings, the words of the route set and the encoder, so on
the text and the position alone.  The scorer changes the preparation in the step in which a
change becomes visible; any thread prepares texts meanwhile.  A prepared text carries the
version of what it was made with: where that is not current any more, it is prepared again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from synaptoroute.core.change import Change, RouteRecord
from synaptoroute.core.mutation import Settings
from synaptoroute.encoder import TextEncoder
from synaptoroute.inputs.ignore import cut
from synaptoroute.inputs.repair import Lexicon, Repair, count_words
from synaptoroute.tensor import Tensor

KEY_SEPARATOR: Final = "\x00"
"""Between the texts of a key; no text contains it."""
LEXICON_ROWS_MAX: Final = 100_000
"""The words of a larger route set are not collected, and nothing is repaired."""


_TEXT: Final = attrgetter("utterance")
_words: WeakKeyDictionary[TextEncoder, Mapping[str, int]] = WeakKeyDictionary()


class PreparedText(NamedTuple):
    """A text as it is encoded.

    Attributes:
        text: The text to encode; empty if nothing was left of it.
        kept: The same without the repairs.
        repairs: Words that were replaced.
        version: What it was made with; see ``TextPreparation.version``.
        turns: The turns of its context, prepared as well, oldest first.
    """

    text: str
    kept: str
    repairs: tuple[Repair, ...]
    version: object
    turns: tuple[str, ...] = ()


class ChangedWords(NamedTuple):
    """The words that a large change adds and removes.

    Attributes:
        lexicon: All words before the change, if it is the one from which on they are collected.
    """

    added: Mapping[str, int]
    removed: Mapping[str, int]
    lexicon: Lexicon | None = None


class TextPreparation:
    """Prepares the queries of one tensor for one encoder.

    Attributes:
        version: Replaced by each change that may alter a prepared text; None while one is
            applied.  Compare it by identity.
    """

    def __init__(self, tensor: Tensor, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._ignore = tensor.settings.ignore
        self._lexicon: Lexicon | None = None
        self._fit(tensor)
        self.version: object | None = object()

    def prepare(self, text: str, ignore: tuple[str, ...] | None = None) -> PreparedText:
        """Prepare a text, or the key of a query with a context (see ``Query.key``).

        ``ignore`` takes the place of the settings' patterns, to try them.
        """
        if KEY_SEPARATOR in text:
            text, *turns = text.split(KEY_SEPARATOR)
            read = [self.prepare(turn, ignore).text for turn in turns]
            return self.prepare(text, ignore)._replace(turns=tuple(filter(None, read)))
        # Read first: a change that begins meanwhile must leave an outdated version behind.
        version = self.version
        patterns = self._ignore if ignore is None else ignore
        kept = cut(text, patterns) if patterns else text
        lexicon = self._lexicon
        if lexicon is None or lexicon.knows(kept):
            return PreparedText(kept, kept, (), version)
        repaired, repairs = lexicon.repair(kept)
        return PreparedText(repaired, kept, repairs, version)

    def needs_lexicon(self, settings: Settings | None) -> bool:
        """Whether words are to be collected from these settings on, and are not yet."""
        return settings is not None and settings.repair_words and self._lexicon is None

    def words_of(
        self, change: Change, records: Iterable[RouteRecord] | None = None
    ) -> ChangedWords | None:
        """Count the words of a change, for ``begin`` and ``finish``; None if none are collected.

        Runs on the applier's thread, so that no query waits for it.

        Args:
            records: All routes before the change, where ``needs_lexicon`` says so.
        """
        lexicon = None
        if records is not None and (words := _words_of(self._encoder)):
            lexicon = Lexicon(words)
            lexicon.add(chain.from_iterable([record.texts() for record in records]))
        elif self._lexicon is None:
            return None
        gone = {slot for slot, _ in change.replaced}
        leaving = chain(change.before, change.deleted) if gone else ()
        removed = (text for each in leaving for slot, _, text in each.rows() if slot in gone)
        return ChangedWords(count_words(map(_TEXT, change.writes)), count_words(removed), lexicon)

    def copy(self, tensor: Tensor) -> TextPreparation:
        """Copy it for a copy of its tensor; nothing may change it meanwhile."""
        copied = TextPreparation.__new__(TextPreparation)
        copied._encoder, copied._ignore = self._encoder, tensor.settings.ignore
        copied._lexicon = None if self._lexicon is None else self._lexicon.copy()
        copied.version = object()
        return copied

    # --- on the scorer's thread, around a change of the tensor ---

    def begin(self, change: Change, tensor: Tensor, words: ChangedWords | None = None) -> list[str]:
        """Void what was prepared, if it may change; returns the texts of rows that go.

        Args:
            words: The words of the change, if they were counted beforehand; then no texts are
                returned.
        """
        if words is not None:
            self.version = None
            return []
        removed: list[str] = []
        if self._lexicon is not None:
            if change.freed:
                removed = [*map(tensor.utterance_of, change.freed)]
            removed += map(tensor.utterance_of, tensor.owned_among(change.writes))
        if change.freed or change.writes or change.settings is not None:
            self.version = None
        return removed

    def finish(
        self,
        change: Change,
        tensor: Tensor,
        removed: list[str],
        words: ChangedWords | None = None,
    ) -> None:
        """Follow a change that was applied."""
        if self.version is not None:
            return
        self._ignore = tensor.settings.ignore
        lexicon = self._lexicon
        if words is not None:
            if lexicon is None:
                lexicon = self._lexicon = words.lexicon
            if lexicon is not None:
                lexicon.add_counts(words.added)
                lexicon.remove_counts(words.removed)
        elif lexicon is not None:
            lexicon.add(map(_TEXT, change.writes))
            if removed:
                lexicon.remove(removed)
        self._fit(tensor)
        self.version = object()

    def _fit(self, tensor: Tensor) -> None:
        """Collect words, or stop to do so, as the settings and the number of rows say."""
        is_on = tensor.settings.repair_words and tensor.slots_used <= LEXICON_ROWS_MAX
        if is_on and self._lexicon is not None:
            return
        words = _words_of(self._encoder) if is_on else {}
        if not words:
            self._lexicon = None
        else:
            lexicon = Lexicon(words)
            lexicon.add(chain.from_iterable([each.texts() for each in tensor.routes.values()]))
            self._lexicon = lexicon


def _words_of(encoder: TextEncoder) -> Mapping[str, int]:
    """Whole words of an encoder; one copy serves all route sets."""
    found = _words.get(encoder)
    if found is None:
        found = _words[encoder] = encoder.whole_words()
    return found
