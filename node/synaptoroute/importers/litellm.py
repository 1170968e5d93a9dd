"""The auto-router in LiteLLM's ``config.yaml``: its routes are in a text or in a file beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from synaptoroute.importers.drafts import Imported, require_list
from synaptoroute.importers.json_reader import parse_json
from synaptoroute.importers.refusal import FileRefused
from synaptoroute.importers.semantic_router import read_semantic_router
from synaptoroute.importers.sources import Source

NAME: Final = "litellm"
_TEXT: Final = "auto_router_config"
_PATH: Final = "auto_router_config_path"


def is_litellm(document: Any) -> bool:
    """Whether a document is the configuration of a LiteLLM proxy."""
    return isinstance(document, dict) and isinstance(document.get("model_list"), list)


def read_litellm(document: Any, source: Source) -> Imported:
    """Read the routes of the auto-router of a proxy.

    Raises:
        FileRefused: There is none, or more than one, or its file is not there.
    """
    found = list(_routers(document))
    if not found:
        raise FileRefused(
            "file_empty",
            "no model of model_list has an `auto_router_config` or `auto_router_config_path`",
        )
    if len(found) > 1:
        names = ", ".join(repr(name) for name, _, _ in found)
        raise FileRefused(
            "unknown_format",
            f"model_list has {len(found)} auto-routers ({names}): import their files one by one",
        )
    name, place, parameters = found[0]
    body = _body(parameters, place, source)
    try:
        imported = read_semantic_router(parse_json(body), NAME)
    except FileRefused as error:
        raise FileRefused(error.code, f"{place}: {error.message}", line=error.line) from None
    notes = [f"the routes are those of the auto-router {name!r}: each is the name of a model"]
    if default := parameters.get("auto_router_default_model"):
        notes.append(f"its default model {str(default)!r} is for texts that match no route")
    return replace(imported, notes=(*notes, *imported.notes))


def _routers(document: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for index, item in enumerate(require_list(document.get("model_list"), "model_list")):
        parameters = item.get("litellm_params") if isinstance(item, dict) else None
        if isinstance(parameters, dict) and (parameters.get(_TEXT) or parameters.get(_PATH)):
            place = f"model_list[{index}].litellm_params"
            yield str(item.get("model_name", "")), place, parameters


def _body(parameters: Mapping[str, Any], place: str, source: Source) -> bytes:
    path = parameters.get(_PATH)
    if not path:
        return str(parameters[_TEXT]).encode()
    body = source.sibling(str(path))
    if body is None:
        raise FileRefused(
            "unknown_format",
            f"{place}: its routes are in {str(path)!r}, which is not beside this file: "
            "import that file",
        )
    return body
