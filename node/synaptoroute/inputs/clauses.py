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
from typing import Final, NamedTuple

CLAUSES_MAX: Final = 8
"""Clauses of one text; what follows belongs to the last one."""
_WORDS_MIN: Final = 2
_SENTENCE_WORDS_MIN: Final = 3


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


def split_clauses(text: str) -> list[Span]:
    """Cut a text into at most ``CLAUSES_MAX`` clauses, in order, without their conjunctions.

    A text that is not cut is one clause, from its first to its last character.
    """
    spans: list[Span] = []
    start = at = 0
    while len(spans) < CLAUSES_MAX - 1 and (found := _BORDER.search(text, at)) is not None:
        at = found.end()
        # The sign at the end of a sentence belongs to it, a conjunction to neither side.
        end = found.end() if found.lastgroup == "sentence" else found.start()
        after = _skip_conjunctions(text, found.end())
        if _is_border(text, start, end, after, found.lastgroup or ""):
            spans.append(_trim(text, start, end))
            start = at = after
    spans.append(_trim(text, start, len(text)))
    return spans


def _trim(text: str, start: int, end: int) -> Span:
    """Leave out white space and commas at both ends."""
    part = text[start:end]
    return Span(
        start + len(part) - len(part.lstrip(" \t\r\n,;")),
        end - (len(part) - len(part.rstrip(" \t\r\n,"))),
    )


def _skip_conjunctions(text: str, at: int) -> int:
    """Find where the words of a clause begin, behind ``and then`` and the like."""
    while (found := _WORD.search(text, at)) is not None:
        if found.group().lower() not in _CONJUNCTIONS:
            return found.start()
        at = found.end()
    return len(text)


def _is_border(text: str, start: int, end: int, after: int, kind: str) -> bool:
    left = [found.lower() for found in _WORD.findall(text, start, end)]
    # A clause shows what it is by its first words.
    right = [found.lower() for found in _WORD.findall(text[after : after + 400])]
    if len(left) < _WORDS_MIN or len(right) < _WORDS_MIN:
        return False
    if _FILLERS.issuperset(left) or _leans(right):
        return False
    if kind == "sentence":
        if text[end - 1] == "." and left[-1] in _ABBREVIATIONS:
            return False
        return len(left) >= _SENTENCE_WORDS_MIN and len(right) >= _SENTENCE_WORDS_MIN
    if left[0] in _SUBORDINATORS:
        return False
    # What surely begins a clause may follow a mere phrase: ``oil change and where is my car``.
    if not _begins_clause(right):
        return False
    return _begins_clause(left) or (len(left) >= _SENTENCE_WORDS_MIN and kind == "conjunction")


def _leans(words: list[str]) -> bool:
    """Whether words mean nothing without what stands before them: ``can you do it for me``."""
    said = [word for word in words if word not in _SAYING_NOTHING]
    return len(said) <= (_LEANING_WORDS_MAX if _PRONOUNS.intersection(words) else 0)


def _begins_clause(words: list[str]) -> bool:
    """Whether words begin as a request, a question or a statement does."""
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
