"""Drafts of routes, made by all readers of foreign files, and the rules that turn them into routes.

A *draft* has the name and the texts as the other program keeps them.  Names are changed only
as far as a route's name needs it; two drafts whose names would become one are refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from synaptoroute.core.names import NAME_CHARACTERS_MAX, is_name, is_name_character
from synaptoroute.errors import InvalidRoute
from synaptoroute.importers.own import read_route
from synaptoroute.importers.refusal import FileRefused, joined
from synaptoroute.importers.text import control_character
from synaptoroute.models import (
    METADATA_BYTES_MAX,
    UTTERANCE_BYTES_MAX,
    UTTERANCES_PER_ROUTE_CALL_MAX,
    Route,
    canonical_json,
)

DESCRIPTION_BYTES_MAX: Final = UTTERANCE_BYTES_MAX


@dataclass(slots=True)
class Draft:
    """A route as another program describes it.

    Attributes:
        place: Where it is in the file.
        name: As written there.
        utterances: Examples; what is no text is refused.
        description: What it is for; it becomes the first example of a route without any.
        payload: Returned with every match.
        metadata: Everything else that is worth keeping.
        negatives: Texts that must not get it.
    """

    place: str
    name: Any
    utterances: list[Any] = field(default_factory=list)
    description: Any = None
    payload: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    negatives: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Imported:
    """The routes of a file, and what happened on the way.

    Attributes:
        format: Name of the format that was read.
        routes: Valid routes with distinct names.
        notes: Sentences on what was left out or kept elsewhere.
        renamed: Names before and after.
        skipped: Names, or places, of what did not become a route, and why.
    """

    format: str
    routes: tuple[Route, ...]
    notes: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()


def finish(name: str, drafts: Iterable[Draft], notes: Iterable[str] = ()) -> Imported:
    """Make routes of drafts.

    Raises:
        FileRefused: ``duplicate_route``, ``invalid_route``, or ``file_empty``.
    """
    found, renamed, skipped = list(notes), [], []
    routes: list[Route] = []
    problems: list[str] = []
    taken: dict[str, tuple[str, str]] = {}
    for draft in drafts:
        try:
            wanted = convert_name(draft)
            first = taken.setdefault(wanted, (draft.place, str(draft.name)))
            if first != (draft.place, draft.name):
                raise _collision(wanted, first, draft)
            document = _document(draft, wanted, found)
            if document is None:
                skipped.append((str(draft.name), "it has no text to recognise it by"))
                continue
            routes.append(read_route(document))
        except InvalidRoute as error:
            problems.append(f"{draft.place} ({str(draft.name)[:60]}): {error.message}")
            continue
        if wanted != draft.name:
            renamed.append((str(draft.name), wanted))
    if problems:
        raise FileRefused("invalid_route", joined(problems))
    if not routes:
        first_skipped = [f"; the first of {len(skipped)} is {one!r}: {why}" for one, why in skipped]
        raise FileRefused(
            "file_empty", f"the {name} file has no routes{''.join(first_skipped[:1])}"
        )
    return Imported(name, tuple(routes), tuple(found), tuple(renamed), tuple(skipped))


def _collision(name: str, first: tuple[str, str], draft: Draft) -> FileRefused:
    place, written = first
    if written == draft.name:
        return FileRefused(
            "duplicate_route",
            f"{draft.place}: the route {written!r} is already defined in {place}",
        )
    return FileRefused(
        "duplicate_route",
        f"{written!r} ({place}) and {draft.name!r} ({draft.place}) would both become "
        f"{name!r}: rename one of them",
    )


# --- names -----------------------------------------------------------------------------

_INVISIBLE: Final = frozenset({"Cf", "Cc"})


def convert_name(draft: Draft) -> str:
    """Change a name as little as a route's name needs it.

    NFC; characters that cannot be seen are dropped, others that a name cannot hold become
    ``_``, and what cannot stand at the ends is cut.

    Raises:
        InvalidRoute: Nothing is left of it, or it is too long.
    """
    if not isinstance(draft.name, str):
        raise InvalidRoute("it has no name that is a text")
    name = unicodedata.normalize("NFC", draft.name)
    if is_name(name):
        return name
    kept = (each for each in name if not _cannot_be_seen(each))
    name = "".join(each if is_name_character(each) else "\0" for each in kept)
    name = re.sub("\0+", "_", name)
    name = re.sub(r"\s+", " ", unicodedata.normalize("NFC", name)).strip()
    while name and not is_name(name[0]):
        name = name[1:]
    name = name.rstrip(" ")
    if not any(each.isalnum() for each in name):
        raise InvalidRoute(f"the name {draft.name!r} has no letter or digit")
    if len(name) > NAME_CHARACTERS_MAX:
        raise InvalidRoute(
            f"the name has {len(name)} characters, at most {NAME_CHARACTERS_MAX} are possible"
        )
    if not is_name(name):
        raise InvalidRoute(f"the name {draft.name!r} cannot become the name of a route")
    return name


def _cannot_be_seen(character: str) -> bool:
    if character in "\t\n\r":
        return False
    hidden = unicodedata.category(character) in _INVISIBLE
    return hidden or "\ufe00" <= character <= "\ufe0f"


# --- texts -----------------------------------------------------------------------------


def _document(draft: Draft, name: str, notes: list[str]) -> dict[str, Any] | None:
    """The document of a route; None if it has no text."""
    utterances = _texts(draft.utterances, "utterances", name, notes)
    description = draft.description
    if description is not None and not isinstance(description, str):
        raise InvalidRoute("description: must be a text")
    description = cut(description.strip(), DESCRIPTION_BYTES_MAX) if description else None
    if not utterances and description:
        utterances, description = [description], None
    if not utterances:
        return None
    if len(utterances) > UTTERANCES_PER_ROUTE_CALL_MAX:
        dropped = len(utterances) - UTTERANCES_PER_ROUTE_CALL_MAX
        notes.append(
            f"{name!r} has {len(utterances)} utterances: the first "
            f"{UTTERANCES_PER_ROUTE_CALL_MAX} are kept, {dropped} are left out"
        )
        utterances = utterances[:UTTERANCES_PER_ROUTE_CALL_MAX]
    document: dict[str, Any] = {"name": name, "utterances": utterances}
    if description and description not in utterances:
        document["description"] = description
    negatives = _texts(draft.negatives, "negatives", name, notes)
    if negatives:
        known = set(utterances)
        document["negatives"] = [each for each in negatives if each not in known]
    if draft.metadata:
        document["metadata"] = draft.metadata
    if draft.payload is not None:
        document["payload"] = draft.payload
    return document


def _texts(found: Sequence[Any], what: str, name: str, notes: list[str]) -> list[str]:
    """Trimmed, distinct texts in order; empty ones are left out."""
    texts: dict[str, None] = {}
    empty = 0
    for index, text in enumerate(found):
        if not isinstance(text, str):
            raise InvalidRoute(f"{what}[{index}]: must be a text, not {_kind(text)}")
        text = text.strip()
        if not text:
            empty += 1
            continue
        if control := control_character(text):
            notes.append(f"{name!r}: {what}[{index}] has the control character {control}")
        texts.setdefault(text)
    if empty:
        notes.append(f"{name!r}: {empty} of its {what} are empty and left out")
    return list(texts)


def _kind(value: Any) -> str:
    kinds = {bool: f"the boolean {str(value).lower()}: quote it", type(None): "null"}
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {value}: quote it"
    return kinds.get(type(value), "an object or a list")


def cut(text: str, bytes_max: int) -> str:
    """The beginning of a text, in at most so many bytes of UTF-8."""
    body = text.encode("utf-8", "replace")
    return text if len(body) <= bytes_max else body[:bytes_max].decode("utf-8", "ignore").rstrip()


def payload_that_fits(value: Any, smaller: Any = None) -> Any:
    """A payload, or a smaller one if it is over the limit of a payload."""
    try:
        canonical_json(value, METADATA_BYTES_MAX)
    except ValueError:
        return smaller
    return value


def thresholds_note(drafts: Iterable[Draft], key: str) -> list[str]:
    """Say that thresholds of another encoder are kept and not applied."""
    count = sum(key in draft.metadata for draft in drafts)
    if not count:
        return []
    return [
        f"{count} thresholds belong to another encoder: kept as metadata {key!r}, not applied; "
        "fit new ones with `synaptoroute calibrate`"
    ]


def require_object(value: Any, place: str) -> Mapping[str, Any]:
    """Refuse what is no object."""
    if not isinstance(value, dict):
        raise FileRefused("invalid_route", f"{place} must be an object")
    return value


def optional_list(value: Any, place: str) -> list[Any]:
    """A list that may be missing; refuse what is none."""
    return [] if value is None else require_list(value, place)


def require_list(value: Any, place: str) -> list[Any]:
    """Refuse what is no list."""
    if not isinstance(value, list):
        raise FileRefused("invalid_route", f"{place} must be a list")
    return value
