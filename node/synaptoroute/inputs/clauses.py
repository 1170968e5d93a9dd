"""Clauses: the parts of a text that may have different intents.

The rules are for English.  A text is cut after a sentence, at a semicolon or a line break,
and at a comma or a conjunction where both sides are clauses: ``turn on the lights and play
some music`` is cut, ``salt and pepper`` and ``my name and address`` are not.  A side is a
clause if it begins as a request, a question or a statement does.  Texts in other languages
are cut after sentences only.

A wrong cut costs little: clauses of one route become one again (``router.splits``).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import islice
from typing import Final, NamedTuple

CLAUSES_MAX: Final = 8
"""Clauses of one text; what follows belongs to the last one."""
BORDERS_MAX: Final = 200
"""Signs and conjunctions of one text that are looked at; each costs up to 50 us."""
_WORDS_MIN: Final = 2
_SENTENCE_WORDS_MIN: Final = 3
_WORDS_SEEN: Final = 80
"""Words of a clause that show what it is."""
_CONJUNCTIONS_MAX: Final = 4
"""Conjunctions in a row that begin one clause: ``and then also``."""


class Span(NamedTuple):
    """A part of a text: characters ``start`` to ``end - 1``."""

    start: int
    end: int


_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W\d_]+)?")
# No two neighbouring repetitions match the same character, so the search is linear.
_BORDER = re.compile(
    r"(?P<sentence>[.?!;\u2026]+[\"')\]\u201d\u2019]*(?=\s)|[\u3002\uff01\uff1f]+|\n)"
    r"|(?P<comma>,)(?=\s)"
    r"|(?<![\w'\u2019-])(?P<conjunction>and|but|then|also|plus|additionally|next)(?![\w'\u2019-])",
    re.IGNORECASE,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CONJUNCTIONS: Final = _words("and but then also plus additionally next after that besides")
_ABBREVIATIONS: Final = _words(
    "mr mrs ms dr st jr sr vs etc eg ie approx inc ltd co no fig dept apt ave blvd"
)
_QUESTIONS: Final = _words(
    "what who whom whose where when why how which what's who's where's when's how's why's "
    "whats hows wheres whos"
)
_AUXILIARIES: Final = _words(
    "is are was were am do does did can could will would should may might shall must has have "
    "had isn't aren't wasn't weren't don't doesn't didn't can't couldn't won't wouldn't "
    "shouldn't hasn't haven't hadn't"
)
_SUBJECTS: Final = _words(
    "i i'm i'd i've i'll im ive id you you're you'll we we're we'd we've we'll they they're he "
    "she it it's there there's he's she's let's lets"
)
_DETERMINERS: Final = _words(
    "a an the my your our his her their its this that these those some any all every another "
    "each no"
)
_OBJECTS: Final = _words("me us him them it you")
_VERBS: Final = _words(
    "add adjust answer apply arrange ask become begin bring buy calculate cancel close compare "
    "complete compute configure confirm connect convert create decrease define delete deposit "
    "describe disable disconnect dispute do download edit eliminate enable enter erase explain "
    "find fix forget freeze get give go have hear help identify ignore include increase inform "
    "install keep know learn leave let listen locate log lower make mute notify obtain open pay "
    "please plan prepare provide purchase put raise reactivate read recommend remember remind "
    "remove rename renew repeat replace reschedule resend reserve reset resume retrieve save say "
    "see select sell send share show shuffle silence skip speak spell start stop submit "
    "subscribe suggest switch take teach tell terminate throw translate try turn unlock "
    "unsubscribe unpause update upgrade upload use validate verify view wake withdraw write"
)
_NOUNS_TOO: Final = _words(
    "activate alert block book borrow call change charge check clear contact copy cut dim "
    "email file fill flip fly follow list load lock look mail map mark mention message mix move "
    "name need need note order park pause phone pick play post print queue rate refund reload "
    "rent reply report request return review ring roll route run schedule search set ship sign "
    "slow sort stream sync talk text top track transfer turn track visit wait want want watch"
)
_AFTER_A_VERB: Final = _words(
    "for to on off up out down in into at about with from over through how what when where who "
    "why which if please back"
)
_SUBORDINATORS: Final = _words(
    "when if because since after before while although though once unless until as whenever "
    "considering given assuming"
)
_PRONOUNS: Final = _words("it it's its they they're them this that that's those these one ones")
_EMPTY: Final = _words(
    "of for to on off up out down in into at about with from over through by as than too also "
    "be been being get got give know need want like make check see look fix happen happened "
    "going wrong still not yet really sure something anything everything nothing now then again "
    "here problem issue matter reason details info information explain understand idea much many "
    "done doing way find say said think thought "
)
_FILLERS: Final = _words(
    "please help thanks thank you hi hello hey ok okay yes no sir madam there dear good morning "
    "afternoon evening well so oh um uh sorry excuse me advance in much very for your cheers "
    "regards best kind team guys again just now"
)


_SAYING_NOTHING: Final = (
    _QUESTIONS | _AUXILIARIES | _SUBJECTS | _DETERMINERS | _OBJECTS | _PRONOUNS | _EMPTY
    | _FILLERS | _CONJUNCTIONS
)  # fmt: skip
_LEANING_WORDS_MAX: Final = 2


class _Word(NamedTuple):
    start: int
    end: int
    lower: str


def split_clauses(text: str) -> list[Span]:
    """Cut a text into at most ``CLAUSES_MAX`` clauses, in order, without their conjunctions.

    A text that is not cut is one clause, from its first to its last character.
    """
    words = [_Word(*found.span(), found[0].lower()) for found in _WORD.finditer(text)]
    starts = [word.start for word in words]
    spans: list[Span] = []
    start = first = 0  # of the clause: its first character and its first word
    for found in islice(_BORDER.finditer(text), BORDERS_MAX):
        if len(spans) == CLAUSES_MAX - 1:
            break
        if found.start() < start:
            continue
        # The sign at the end of a sentence belongs to it, a conjunction to neither side.
        kind = found.lastgroup or ""
        end = found.end() if kind == "sentence" else found.start()
        stop = bisect_left(starts, end)
        left = [word.lower for word in words[first : min(stop, first + _WORDS_SEEN)]]
        after = bisect_left(starts, found.end())
        for _ in range(_CONJUNCTIONS_MAX):
            after += after < len(words) and words[after].lower in _CONJUNCTIONS
        right = [word.lower for word in words[after : after + _WORDS_SEEN]]
        is_abbreviated = (
            stop > 0 and text[end - 1 : end] == "." and words[stop - 1].lower in _ABBREVIATIONS
        )
        if _is_border(left, right, kind, is_abbreviated=is_abbreviated):
            spans.append(_trim(text, start, end, " \t\r\n,"))
            start, first = words[after].start, after
    spans.append(_trim(text, start, len(text)))
    return spans


def _trim(text: str, start: int, end: int, signs: str | None = None) -> Span:
    """Leave out white space, and the signs at the end."""
    part = text[start:end]
    return Span(start + len(part) - len(part.lstrip()), start + len(part.rstrip(signs)))


def _is_border(left: list[str], right: list[str], kind: str, *, is_abbreviated: bool) -> bool:
    """Whether words on both sides of a sign or a conjunction are clauses of their own."""
    if len(left) < _WORDS_MIN or len(right) < _WORDS_MIN:
        return False
    if (len(left) < _WORDS_SEEN and _FILLERS.issuperset(left)) or _leans(right):
        return False
    if kind == "sentence":
        if is_abbreviated:
            return False
        return len(left) >= _SENTENCE_WORDS_MIN and len(right) >= _SENTENCE_WORDS_MIN
    if left[0] in _SUBORDINATORS or not _begins_clause(right):
        return False
    # What surely begins a clause may follow a mere phrase: ``oil change and where is my car``.
    return _begins_clause(left) or (len(left) >= _SENTENCE_WORDS_MIN and kind == "conjunction")


def _leans(words: list[str]) -> bool:
    """Whether words mean nothing without what stands before them: ``can you do it for me``."""
    said = [word for word in words if word not in _SAYING_NOTHING]
    return len(said) <= (_LEANING_WORDS_MAX if _PRONOUNS.intersection(words) else 0)


def _begins_clause(words: list[str]) -> bool:
    """Whether words begin as a request, a question or a statement does."""
    words = words[:_WORDS_SEEN]
    while len(words) > 1 and (words[0] in _FILLERS or words[0] in _CONJUNCTIONS):
        words = words[1:]
    first = words[0].replace("\u2019", "'")
    second = words[1] if len(words) > 1 else ""
    if first in _QUESTIONS or first in _SUBJECTS or first in _AUXILIARIES:
        return len(words) > 1
    if first in _VERBS:
        return True
    if first in _NOUNS_TOO:
        # ``order history`` is no request, ``order a pizza`` is.
        return second in _DETERMINERS or second in _OBJECTS or second in _AFTER_A_VERB
    if first in _DETERMINERS:
        # ``my card is lost``: a statement has a verb behind its subject.
        return any(word.replace("\u2019", "'") in _AUXILIARIES for word in words[2:6])
    return False
