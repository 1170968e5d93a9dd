"""Malformed files of every format are refused; none ends in another error."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import yaml

import foreign_files as foreign
from synaptoroute.importers import CODES, FORMATS, FileRefused, Source, read_routes

pytestmark = pytest.mark.unit

DOCUMENTS: dict[str, Any] = {
    "sr1": yaml.safe_load(foreign.SEMANTIC_ROUTER_1),
    "sr0": foreign.SEMANTIC_ROUTER_0,
    "redisvl": yaml.safe_load(foreign.REDISVL),
    "litellm": foreign.LITELLM,
    "rasa": yaml.safe_load(foreign.RASA),
    "lex1": foreign.LEX_V1,
    "openai": foreign.OPENAI_TOOLS,
    "mcp": foreign.MCP_TOOLS,
    "openapi": yaml.safe_load(foreign.OPENAPI),
}
ARCHIVES: dict[str, dict[str, Any]] = {
    "es": foreign.DIALOGFLOW_ES,
    "cx": foreign.DIALOGFLOW_CX,
    "lex2": foreign.LEX_V2,
}
VALUES: tuple[Any, ...] = (
    None, True, 0, 1.5, "", "é/", [], {}, [None], [[]], {"a": 1}, ["x"], "\x07", "a" * 200,
)  # fmt: skip
RUNS = 120


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a document but the document itself."""
    children: Any = ()
    if isinstance(document, dict):
        children = document.items()
    elif isinstance(document, list):
        children = enumerate(document)
    found = [(*path, key) for key, _ in children]
    for key, value in children:
        found += places(value, (*path, key))
    return found


def altered(document: Any, draw: random.Random) -> Any:
    """The document with one value replaced or removed."""
    document = json.loads(json.dumps(document))
    *path, last = draw.choice(places(document))
    owner = document
    for key in path:
        owner = owner[key]
    if draw.random() < 0.3:
        del owner[last]
    else:
        owner[last] = draw.choice(VALUES)
    return document


def cut(body: bytes, draw: random.Random) -> bytes:
    """The bytes with some of them missing and one that is new."""
    at = draw.randrange(len(body))
    return body[:at] + bytes([draw.randrange(256)]) + body[at + draw.choice((0, 1, 5)) :]


@pytest.mark.parametrize("name", [*DOCUMENTS, *ARCHIVES])
def test_altered_file_is_read_or_refused(name: str) -> None:
    draw = random.Random(name)
    for _ in range(RUNS):
        suffix = draw.choice(("json", "yaml"))
        if name in ARCHIVES:
            files = dict(ARCHIVES[name])
            changed = draw.choice(sorted(files))
            files[changed] = altered(files[changed], draw)
            suffix, body = "zip", foreign.archive(files)
        elif suffix == "yaml":
            body = yaml.safe_dump(altered(DOCUMENTS[name], draw), allow_unicode=True).encode()
        else:
            body = json.dumps(altered(DOCUMENTS[name], draw)).encode()
        if draw.random() < 0.2:
            body = cut(body, draw)
        for file_format in (None, draw.choice(FORMATS)):
            code = ""
            try:
                made = read_routes(Source.of(f"file.{suffix}", body), file_format)
            except FileRefused as error:
                code = error.code
            assert code in CODES if code else made.routes
