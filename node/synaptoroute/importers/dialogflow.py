"""Exports of Dialogflow ES and CX, as the ZIP archive or as its folder.

ES: ``intents/NAME.json`` and ``intents/NAME_usersays_LANGUAGE.json``.
CX: ``intents/NAME/NAME.json`` and ``intents/NAME/trainingPhrases/LANGUAGE.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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

ES: Final = "dialogflow-es"
CX: Final = "dialogflow-cx"
_ES_PHRASES: Final = re.compile(r"(?P<stem>(?:.*/)?intents/[^/]+)_usersays_[^/]+\.json")
_ES_INTENT: Final = re.compile(r"(?P<stem>(?:.*/)?intents/[^/]+)\.json")
_CX_PHRASES: Final = re.compile(r"(?P<stem>(?:.*/)?intents/[^/]+)/trainingPhrases/[^/]+\.json")
_CX_INTENT: Final = re.compile(r"(?P<stem>(?:.*/)?intents/(?P<name>[^/]+))/(?P=name)\.json")
_FALLBACK: Final = "it is the fallback: a text that matches no route gets none"


def is_dialogflow_cx(source: Source) -> bool:
    """Whether the files are an export of Dialogflow CX."""
    return source.is_folder and any(_CX_INTENT.fullmatch(name) for name in source.files)


def is_dialogflow_es(source: Source) -> bool:
    """Whether the files are an export of Dialogflow ES."""
    if not source.is_folder or is_dialogflow_cx(source):
        return False
    return any(_ES_PHRASES.fullmatch(name) for name in source.files) or (
        any(name.rpartition("/")[2] == "agent.json" for name in source.files)
        and any(_ES_INTENT.fullmatch(name) for name in source.files)
    )


def read_dialogflow_es(source: Source) -> Imported:
    """Read an export of Dialogflow ES: intents, and the phrases of all languages.

    Raises:
        FileRefused: A file is malformed.
    """
    phrases, templates = _es_phrases(source)
    drafts, skipped = [], []
    for name, body in source.files.items():
        found = _ES_INTENT.fullmatch(name)
        if not found or _ES_PHRASES.fullmatch(name):
            continue
        intent = require_object(_json(name, body), name)
        display = intent.get("name")
        if intent.get("fallbackIntent"):
            skipped.append((str(display), _FALLBACK))
            continue
        texts = phrases.get(found["stem"], [])
        drafts.append(Draft(name, display, texts, metadata=_es_kept(intent)))
    notes = []
    if templates:
        notes.append(f"{templates} phrases in template mode are left out")
    return _with_skipped(ES, drafts, notes, skipped)


def read_dialogflow_cx(source: Source) -> Imported:
    """Read an export of Dialogflow CX: intents, and the phrases of all languages.

    Raises:
        FileRefused: A file is malformed.
    """
    phrases: dict[str, list[str]] = {}
    for name, body in source.files.items():
        if found := _CX_PHRASES.fullmatch(name):
            document = require_object(_json(name, body), name)
            listed = optional_list(document.get("trainingPhrases"), f"{name}: trainingPhrases")
            texts = phrases.setdefault(found["stem"], [])
            texts += [_parts(each, "parts", f"{name}: trainingPhrases") for each in listed]
    drafts, skipped = [], []
    for name, body in source.files.items():
        found = _CX_INTENT.fullmatch(name)
        if not found:
            continue
        intent = require_object(_json(name, body), name)
        display = intent.get("displayName") or found["name"]
        if intent.get("isFallback"):
            skipped.append((str(display), _FALLBACK))
            continue
        drafts.append(
            Draft(name, display, phrases.get(found["stem"], []), intent.get("description") or None)
        )
    return _with_skipped(CX, drafts, [], skipped)


def _with_skipped(
    name: str, drafts: list[Draft], notes: list[str], skipped: list[tuple[str, str]]
) -> Imported:
    made = finish(name, drafts, notes)
    return Imported(made.format, made.routes, made.notes, made.renamed, (*skipped, *made.skipped))


def _es_phrases(source: Source) -> tuple[dict[str, list[str]], int]:
    phrases: dict[str, list[str]] = {}
    templates = 0
    for name, body in source.files.items():
        if found := _ES_PHRASES.fullmatch(name):
            texts = phrases.setdefault(found["stem"], [])
            for each in require_list(_json(name, body), name):
                if isinstance(each, dict) and each.get("isTemplate"):
                    templates += 1
                else:
                    texts.append(_parts(each, "data", name))
    return phrases, templates


def _es_kept(intent: Any) -> dict[str, Any]:
    """Metadata of an intent: its action, which programs read beside the name."""
    actions = [
        each["action"]
        for each in optional_list(intent.get("responses"), "responses")
        if isinstance(each, dict) and each.get("action")
    ]
    return {"action": actions[0]} if actions else {}


def _parts(phrase: Any, key: str, place: str) -> str:
    """Join the parts of a phrase, annotated or not."""
    item = require_object(phrase, place)
    return "".join(_part_texts(require_list(item.get(key), f"{place}.{key}"), place))


def _part_texts(parts: list[Any], place: str) -> Iterator[str]:
    for each in parts:
        text = require_object(each, place).get("text", "")
        if not isinstance(text, str):
            raise FileRefused("invalid_route", f"{place}: a part of a phrase has no text")
        yield text


def _json(name: str, body: bytes) -> Any:
    try:
        return parse_json(decode(body).encode())
    except FileRefused as error:
        raise FileRefused(error.code, f"{name}: {error.message}", line=error.line) from None
