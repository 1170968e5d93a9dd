"""All formats: which one a file is of, and its routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from synaptoroute.importers import dialogflow, lex, litellm, openapi, rasa, redisvl, tools
from synaptoroute.importers import semantic_router as semantic
from synaptoroute.importers.drafts import Draft, Imported, finish
from synaptoroute.importers.folder import is_route_folder, read_route_folder
from synaptoroute.importers.own import read_own, require_routes
from synaptoroute.importers.refusal import FileRefused
from synaptoroute.importers.sources import Document, Source, opened, parse
from synaptoroute.importers.tables import (
    LabelledText,
    is_labelled_line,
    read_delimited,
    read_labelled_lines,
)

OWN: Final = "synaptoroute"
CSV: Final = "csv"
TSV: Final = "tsv"
JSONL: Final = "jsonl"

_FOLDERS: Final[dict[str, tuple[Callable[[Source], bool], Callable[[Source], Imported]]]] = {
    dialogflow.CX: (dialogflow.is_dialogflow_cx, dialogflow.read_dialogflow_cx),
    dialogflow.ES: (dialogflow.is_dialogflow_es, dialogflow.read_dialogflow_es),
    lex.V2: (lex.is_lex_v2, lex.read_lex_v2),
}
_DOCUMENTS: Final[dict[str, tuple[Callable[[Any], bool], Callable[[Any], Imported]]]] = {
    redisvl.NAME: (redisvl.is_redisvl, redisvl.read_redisvl),
    semantic.NAME: (semantic.is_semantic_router, semantic.read_semantic_router),
    lex.V1: (lex.is_lex_v1, lex.read_lex_v1),
    openapi.NAME: (openapi.is_openapi, openapi.read_openapi),
    tools.MCP: (lambda found: tools.mcp_tools_of(found) is not None, tools.read_mcp_tools),
    tools.OPENAI: (
        lambda found: tools.openai_tools_of(found) is not None,
        tools.read_openai_tools,
    ),
}
FORMATS: Final = (
    OWN, *_DOCUMENTS, litellm.NAME, rasa.NAME, *_FOLDERS, CSV, TSV, JSONL,
)  # fmt: skip
"""Names of the formats that are read."""


def read_routes(source: Source, file_format: str | None = None) -> Imported:
    """Read the routes of a file, a folder or an archive.

    Args:
        source: What to read.
        file_format: One of ``FORMATS``; None to detect it by the content.

    Raises:
        FileRefused: It breaks a rule; the code and the message say which one and where.
    """
    source = opened(source)
    if source.is_folder:
        return _read_folder(source, file_format)
    if file_format in _FOLDERS:
        raise FileRefused("unknown_format", f"{file_format} is read from an archive or a folder")
    document = parse(source.name, source.body)
    detected = file_format or detect(document)
    if detected == OWN:
        return Imported(OWN, require_routes(*own_routes(document)))
    return _read_document(detected, document, source)


def own_routes(document: Document) -> tuple[list[Any], list[str]]:
    """The valid routes of a file of this project, and every error.

    Raises:
        FileRefused: It is no list of routes.
    """
    match document.kind:
        case "json" | "yaml" | "ndjson" as kind:
            return read_own(document.value, kind, document.text)
        case _:
            raise FileRefused("unknown_format", "a route file is YAML, JSON or NDJSON")


def detect(document: Document) -> str:
    """The format of a parsed file; that of this project if it is no other."""
    match document.kind:
        case "csv":
            return CSV
        case "tsv":
            return TSV
        case "markdown":
            return rasa.NAME
        case "ndjson":
            is_labelled = document.value and is_labelled_line(document.value[0][1])
            return JSONL if is_labelled else OWN
    if litellm.is_litellm(document.value):
        return litellm.NAME
    if rasa.is_rasa(document.value):
        return rasa.NAME
    for name, (is_format, _) in _DOCUMENTS.items():
        if is_format(document.value):
            return name
    return OWN


def _read_document(name: str, document: Document, source: Source) -> Imported:
    match name:
        case "csv" | "tsv":
            if document.kind not in ("csv", "tsv"):
                raise FileRefused("unknown_format", f"the file is {document.kind}, not {name}")
            return _labelled(name, read_delimited(document.text, "\t" if name == TSV else ""))
        case "jsonl":
            if document.kind != "ndjson":
                raise FileRefused("unknown_format", f"the file is {document.kind}, not JSON lines")
            return _labelled(name, read_labelled_lines(document.value))
        case litellm.NAME:
            if not litellm.is_litellm(document.value):
                raise FileRefused("unknown_format", "the file has no `model_list`")
            return litellm.read_litellm(document.value, source)
        case rasa.NAME:
            return rasa.read_rasa(source)
    is_format, read = _DOCUMENTS[name]
    is_parsed = document.kind in ("json", "yaml")
    if not is_parsed or not (is_format(document.value) or _is_list_of_routes(name, document.value)):
        raise FileRefused("unknown_format", f"the file is not of the format {name}")
    return read(document.value)


def _is_list_of_routes(name: str, value: Any) -> bool:
    """Whether a bare list of routes is of the format that was asked for."""
    if name not in (semantic.NAME, redisvl.NAME):
        return False
    return isinstance(value, list) or (isinstance(value, dict) and "routes" in value)


def _read_folder(source: Source, file_format: str | None) -> Imported:
    if file_format in (None, OWN) and is_route_folder(source):
        found = read_route_folder(source).checked()
        if not found.routes:
            raise FileRefused("file_empty", "the folder has no routes")
        return Imported(OWN, tuple(found.routes))
    for name, (is_format, read) in _FOLDERS.items():
        if file_format in (None, name) and is_format(source):
            return read(source)
    if file_format in _FOLDERS:
        raise FileRefused("unknown_format", f"it is no export of {file_format}")
    if file_format in (None, rasa.NAME) and _has_rasa(source):
        return rasa.read_rasa(source)
    if file_format == rasa.NAME:
        raise FileRefused("unknown_format", "no file has training data of Rasa")
    # An archive of one file, as Lex V1 exports it.
    files = {name: body for name, body in source.files.items() if not name.startswith("__MACOSX/")}
    if len(files) != 1:
        raise FileRefused(
            "unknown_format",
            f"{len(files)} files of no known export: Dialogflow, Lex and Rasa are known",
        )
    name, body = next(iter(files.items()))
    return read_routes(Source(name, {name: body}), file_format)


def _has_rasa(source: Source) -> bool:
    for name, body in source.files.items():
        if not name.endswith((".yml", ".yaml", ".json", ".md")) or b"intent" not in body:
            continue
        try:
            document = parse(name, body)
        except FileRefused:
            continue  # read again, and refused with its name, if it is Rasa's
        is_markdown = document.kind == "markdown" and rasa.is_rasa_markdown(document.text)
        if is_markdown or rasa.is_rasa(document.value):
            return True
    return False


def _labelled(name: str, texts: list[LabelledText]) -> Imported:
    """Routes of labelled texts; those of no route are left out."""
    drafts: dict[str, Draft] = {}
    without = 0
    for each in texts:
        if each.route is None:
            without += 1
            continue
        draft = drafts.setdefault(each.route, Draft(f"line {each.line}", each.route))
        draft.utterances.append(each.text)
    notes = [f"{without} texts have no route and are left out"] if without else []
    return finish(name, drafts.values(), notes)
