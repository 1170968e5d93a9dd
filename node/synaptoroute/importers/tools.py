"""Lists of tools: a tool is a route whose payload is its definition.

OpenAI's function lists have the shapes of chat completions (``{"type": "function", "function":
{...}}``), of responses (``{"type": "function", "name": ...}``) and the older ``functions``; MCP's
are the result of ``tools/list``, with or without the JSON-RPC message around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from synaptoroute.importers.drafts import (
    Draft,
    Imported,
    finish,
    payload_that_fits,
    require_list,
    require_object,
)
from synaptoroute.importers.refusal import FileRefused

OPENAI: Final = "openai-tools"
MCP: Final = "mcp-tools"
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
SHORTENED: Final = "the definition is over the limit of a payload: only its name is kept"


def openai_tools_of(document: Any) -> list[Any] | None:
    """The tools in a document of one of OpenAI's shapes; None for another document."""
    found = document
    if isinstance(document, dict):
        found = document.get("tools", document.get("functions"))
    if not isinstance(found, list) or not any(map(_is_function, found)):
        return None
    return found


def _is_function(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    inner = item.get("function")
    if item.get("type") == "function":
        return isinstance(inner, dict) or "name" in item
    return "name" in item and ("parameters" in item or "input_schema" in item)


def mcp_tools_of(document: Any) -> list[Any] | None:
    """The tools in a result of ``tools/list``; None for another document."""
    found = document
    if isinstance(found, dict) and isinstance(found.get("result"), dict):
        found = found["result"]
    if isinstance(found, dict):
        found = found.get("tools")
    if not isinstance(found, list):
        return None
    is_mcp = any(isinstance(each, dict) and "inputSchema" in each for each in found)
    return found if is_mcp else None


def read_openai_tools(document: Any) -> Imported:
    """Read a list of functions; tools that are no functions are left out.

    Raises:
        FileRefused: A function is malformed.
    """
    return _read(OPENAI, openai_tools_of(document), _function)


def read_mcp_tools(document: Any) -> Imported:
    """Read the result of ``tools/list``.

    Raises:
        FileRefused: A tool is malformed.
    """
    return _read(MCP, mcp_tools_of(document), lambda tool: tool)


def _read(
    name: str, tools: list[Any] | None, inner: Callable[[Any], Mapping[str, Any] | None]
) -> Imported:
    drafts, skipped = [], []
    notes: list[str] = []
    for index, each in enumerate(require_list(tools, "tools")):
        place = f"tools[{index}]"
        tool = require_object(each, place)
        definition = inner(tool)
        if definition is None:
            skipped.append((str(tool.get("type", place)), "it is no function"))
            continue
        if not isinstance(definition.get("name"), str):
            raise FileRefused("invalid_route", f"{place}: a tool needs a name")
        drafts.append(tool_draft(place, definition, each, notes))
    made = finish(name, drafts, notes)
    return Imported(name, made.routes, made.notes, made.renamed, (*skipped, *made.skipped))


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if isinstance(tool.get("function"), dict):
        function: Mapping[str, Any] = tool["function"]
        return function
    return tool if "name" in tool and tool.get("type", "function") == "function" else None


def tool_draft(place: str, definition: Mapping[str, Any], payload: Any, notes: list[str]) -> Draft:
    """A route of a tool: its title, the first sentence of its description, its words."""
    name = definition["name"]
    description = definition.get("description")
    kept = payload_that_fits(payload)
    if kept is None:
        notes.append(f"{name!r}: {SHORTENED}")
        kept = {"name": name}
    return Draft(
        place,
        name,
        texts_of(definition.get("title"), description, name),
        description if isinstance(description, str) else None,
        kept,
    )


def texts_of(title: Any, description: Any, name: str) -> list[str]:
    """Examples of a tool: title, first sentence of the description, and words of the name."""
    texts = [title, first_sentence(description), words_of(name)]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def first_sentence(text: Any) -> str | None:
    """The first sentence of a text, on one line; None if it is none."""
    if not isinstance(text, str) or not text.strip():
        return None
    return " ".join(_SENTENCE_END.split(text.strip(), maxsplit=1)[0].split())


def words_of(name: str) -> str:
    """Words of an identifier: ``getWeather_v2`` is ``get weather v2``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return " ".join(re.sub(r"[_\-./:{}]+", " ", spaced).lower().split())
