"""Exports of Amazon Lex V1 (a JSON file) and V2 (folders), in their ZIP archives.

A sample utterance names its slots, as in ``book {Nights} nights``: a slot is replaced by a value
of its type if the export has one, or by the words of its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from synaptoroute.importers.drafts import (
    Draft,
    Imported,
    finish,
    optional_list,
    require_list,
    require_object,
)
from synaptoroute.importers.json_reader import parse_json
from synaptoroute.importers.refusal import FileRefused
from synaptoroute.importers.sources import Source
from synaptoroute.importers.text import decode

V1: Final = "lex-v1"
V2: Final = "lex-v2"
_SLOT: Final = re.compile(r"\{([^{}]+)\}")
_V2_INTENT: Final = re.compile(
    r"(?P<locale>(?:.*/)?BotLocales/[^/]+|[^/]*)(?:/[^/]+)??/Intents/[^/]+/Intent\.json"
)
_V2_SLOT: Final = re.compile(r"(?P<intent>.*/Intents/[^/]+)/Slots/[^/]+/Slot\.json")
_V2_TYPE: Final = re.compile(r".*/SlotTypes/[^/]+/SlotType\.json")
_FALLBACK: Final = "it is the fallback: a text that matches no route gets none"


def is_lex_v1(document: Any) -> bool:
    """Whether a document is a bot or an intent of Lex V1."""
    if not isinstance(document, dict) or not isinstance(document.get("resource"), dict):
        return False
    resource = document["resource"]
    return "intents" in resource or "sampleUtterances" in resource


def is_lex_v2(source: Source) -> bool:
    """Whether the files are an export of Lex V2."""
    return source.is_folder and any(_V2_INTENT.fullmatch(name) for name in source.files)


def read_lex_v1(document: Any, place: str = "") -> Imported:
    """Read a bot or an intent of Lex V1.

    Raises:
        FileRefused: An intent is malformed.
    """
    resource = require_object(document["resource"], f"{place}resource")
    types = _v1_values(resource.get("slotTypes"))
    intents = [resource]
    prefix = f"{place}resource"
    if "intents" in resource:
        intents = require_list(resource["intents"], f"{prefix}.intents")
    drafts, skipped, notes = [], [], _SlotNotes()
    for index, each in enumerate(intents):
        where = f"{prefix}.intents[{index}]" if "intents" in resource else prefix
        intent = require_object(each, where)
        if str(intent.get("parentIntentSignature", "")) == "AMAZON.FallbackIntent":
            skipped.append((str(intent.get("name")), _FALLBACK))
            continue
        values = {
            str(slot.get("name")): types.get(str(slot.get("slotType")), "")
            for slot in optional_list(intent.get("slots"), f"{where}.slots")
            if isinstance(slot, dict)
        }
        own = types | _v1_values(intent.get("slotTypes"))
        values = {name: value or own.get(name, "") for name, value in values.items()}
        samples = optional_list(intent.get("sampleUtterances"), f"{where}.sampleUtterances")
        texts = [notes.filled(text, values) for text in samples]
        drafts.append(Draft(where, intent.get("name"), texts, intent.get("description") or None))
    return _finished(V1, drafts, notes, skipped)


def read_lex_v2(source: Source) -> Imported:
    """Read a bot of Lex V2; an intent of several locales is one route.

    Raises:
        FileRefused: An intent is malformed.
    """
    types = dict(_v2_types(source))
    slots: dict[str, dict[str, str]] = {}
    for name, body in source.files.items():
        if found := _V2_SLOT.fullmatch(name):
            slot = require_object(_json(name, body), name)
            of_intent = slots.setdefault(found["intent"], {})
            of_intent[str(slot.get("name"))] = types.get(str(slot.get("slotTypeName")), "")
    drafts: dict[str, Draft] = {}
    skipped, notes = [], _SlotNotes()
    for name, body in source.files.items():
        if not _V2_INTENT.fullmatch(name):
            continue
        intent = require_object(_json(name, body), name)
        title = str(intent.get("name") or name.split("/")[-2])
        if intent.get("parentIntentSignature") == "AMAZON.FallbackIntent":
            skipped.append((title, _FALLBACK))
            continue
        values = slots.get(name.removesuffix("/Intent.json"), {})
        samples = optional_list(intent.get("sampleUtterances"), f"{name}: sampleUtterances")
        draft = drafts.setdefault(title, Draft(name, title))
        draft.description = draft.description or intent.get("description") or None
        for each in samples:
            text = each.get("utterance") if isinstance(each, dict) else each
            draft.utterances.append(notes.filled(text, values))
    return _finished(V2, list(drafts.values()), notes, list(dict.fromkeys(skipped)))


def _finished(
    name: str, drafts: list[Draft], notes: _SlotNotes, skipped: list[tuple[str, str]]
) -> Imported:
    made = finish(name, drafts, notes.sentences())
    return Imported(made.format, made.routes, made.notes, made.renamed, (*skipped, *made.skipped))


class _SlotNotes:
    """Fills slots in, and counts."""

    def __init__(self) -> None:
        self._filled = 0

    def filled(self, text: Any, values: Mapping[str, str]) -> Any:
        """A sample utterance with something in the place of each slot."""
        if not isinstance(text, str) or "{" not in text:
            return text
        if not _SLOT.sub("", text).strip():
            return ""  # a slot alone says nothing about the intent
        self._filled += 1
        return _SLOT.sub(lambda found: values.get(found[1].strip()) or _words(found[1]), text)

    def sentences(self) -> list[str]:
        """Notes for the report of the import."""
        if not self._filled:
            return []
        return [f"{self._filled} utterances have slots: each is replaced by a value or its name"]


def _words(name: str) -> str:
    """Words of an identifier: ``CheckInDate`` is ``check in date``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[_\-.\s]+", " ", spaced).strip().lower()


def _v1_values(types: Any) -> dict[str, str]:
    """The first value of each slot type."""
    found = {}
    for each in types if isinstance(types, list) else []:
        values = each.get("enumerationValues") if isinstance(each, dict) else None
        first = values[0] if isinstance(values, list) and values else None
        if isinstance(first, dict) and isinstance(first.get("value"), str):
            found[str(each.get("name"))] = first["value"]
    return found


def _v2_types(source: Source) -> Iterator[tuple[str, str]]:
    for name, body in source.files.items():
        if not _V2_TYPE.fullmatch(name):
            continue
        document = require_object(_json(name, body), name)
        values = document.get("slotTypeValues")
        first = values[0] if isinstance(values, list) and values else None
        if isinstance(first, dict):
            sample = first.get("sampleValue")
            value = sample.get("value") if isinstance(sample, dict) else None
            if isinstance(value, str):
                yield str(document.get("name")), value


def _json(name: str, body: bytes) -> Any:
    try:
        return parse_json(decode(body).encode())
    except FileRefused as error:
        raise FileRefused(error.code, f"{name}: {error.message}", line=error.line) from None
