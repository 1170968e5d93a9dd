"""Training data of Rasa: ``nlu.yml``, and the older JSON and Markdown.

Annotations of entities are taken out of the examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from synaptoroute.importers.drafts import (
    Draft,
    Imported,
    finish,
    optional_list,
    require_list,
    require_object,
)
from synaptoroute.importers.refusal import FileRefused
from synaptoroute.importers.sources import KIND_BY_SUFFIX, Source, parse, suffix_of

NAME: Final = "rasa"
# "[Berlin](city)", "[Berlin]{"entity": "city"}", and a list of them behind one text.
_ENTITY: Final = re.compile(r"\[(?P<text>[^\]\[]+)\](?:\([^)]*\)|\{[^}]*\}|\[\{[^\]]*\}\])")
_BULLET: Final = re.compile(r"^\s*[-*+]\s+(.*\S)\s*$")
_MARKDOWN_INTENT: Final = re.compile(r"^##\s*intent:\s*(.+?)\s*$", re.IGNORECASE)
_OTHER_DATA: Final = ("synonym", "regex", "lookup")


def is_rasa(document: Any) -> bool:
    """Whether a document holds training data of Rasa."""
    if not isinstance(document, dict):
        return False
    nlu = document.get("nlu")
    return "rasa_nlu_data" in document or (
        isinstance(nlu, list) and any(isinstance(item, dict) and "intent" in item for item in nlu)
    )


def is_rasa_markdown(text: str) -> bool:
    """Whether a text is training data of Rasa 1 in Markdown."""
    return any(_MARKDOWN_INTENT.match(line) for line in text.splitlines())


def read_rasa(source: Source) -> Imported:
    """Read one file, or all files of a folder that hold training data.

    Raises:
        FileRefused: A file is malformed.
    """
    drafts: dict[str, Draft] = {}
    others = 0
    for name, body in source.files.items():
        if source.is_folder and suffix_of(name) not in KIND_BY_SUFFIX:
            continue
        try:
            document = parse(name, body)
            if document.kind == "markdown":
                found = list(_markdown_examples(document.text))
            elif is_rasa(document.value):
                found, more = _examples(document.value)
                others += more
            elif source.is_folder:
                continue  # stories, rules and the domain
            else:
                raise FileRefused("unknown_format", "it has no training data of Rasa")
        except FileRefused as error:
            if source.is_folder and error.code == "file_empty":
                continue
            where = f"{name}: " if source.is_folder else ""
            raise FileRefused(error.code, where + error.message, line=error.line) from None
        for place, intent, texts in found:
            where = f"{name}, {place}" if source.is_folder else place
            draft = drafts.setdefault(intent, Draft(where, intent))
            draft.utterances += texts
    notes = []
    if others:
        notes.append(f"{others} synonyms, lookup tables and regular expressions are left out")
    return finish(NAME, drafts.values(), notes)


def _examples(document: dict[str, Any]) -> tuple[list[tuple[str, str, list[str]]], int]:
    """Examples of each intent, and how much other data there is."""
    if "rasa_nlu_data" in document:
        data = require_object(document["rasa_nlu_data"], "rasa_nlu_data")
        return list(_common_examples(data)), sum(
            len(optional_list(data.get(key), key)) for key in _JSON_OTHERS
        )
    found, others = [], 0
    for index, each in enumerate(require_list(document["nlu"], "nlu")):
        place = f"nlu[{index}]"
        item = require_object(each, place)
        if "intent" not in item:
            others += any(key in item for key in _OTHER_DATA)
            continue
        texts = [plain_text(text) for text in _yaml_texts(item.get("examples"), place)]
        found.append((place, _name(item["intent"], place), texts))
    return found, others


_JSON_OTHERS: Final = ("entity_synonyms", "regex_features", "lookup_tables")


def _name(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise FileRefused("invalid_route", f"{place}.intent: must be a text, not {value!r}: quote")
    return value


def _yaml_texts(examples: Any, place: str) -> Iterable[str]:
    """Examples as a block of lines, or as a list of objects with ``text``."""
    if examples is None:
        return
    if isinstance(examples, str):
        yield from _bullets(examples)
        return
    for index, each in enumerate(require_list(examples, f"{place}.examples")):
        text = each.get("text") if isinstance(each, dict) else each
        if not isinstance(text, str):
            raise FileRefused(
                "invalid_route", f"{place}.examples[{index}]: must have a text: quote it"
            )
        yield from _bullets(text) if text.lstrip().startswith("- ") else [text]


def _bullets(block: str) -> Iterator[str]:
    for line in block.splitlines():
        if found := _BULLET.match(line):
            yield found[1]


def _common_examples(data: Any) -> Iterator[tuple[str, str, list[str]]]:
    examples = optional_list(data.get("common_examples"), "rasa_nlu_data.common_examples")
    for index, each in enumerate(examples):
        place = f"rasa_nlu_data.common_examples[{index}]"
        item = require_object(each, place)
        if item.get("intent") is not None:
            yield place, _name(item["intent"], place), [item.get("text") or ""]


def _markdown_examples(text: str) -> Iterator[tuple[str, str, list[str]]]:
    intent: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("##"):
            found = _MARKDOWN_INTENT.match(line)
            intent = found[1] if found else None
        elif intent and (bullet := _BULLET.match(line)):
            yield f"line {number}", intent, [plain_text(bullet[1])]


def plain_text(example: str) -> str:
    """An example without its annotations: ``to [Berlin](city)`` is ``to Berlin``."""
    return _ENTITY.sub(lambda found: found["text"], example).strip()
