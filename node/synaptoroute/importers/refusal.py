"""Refusals of files: a stable code, the place, and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from synaptoroute.errors import RouteError

CODES: Final = {
    "file_empty": "The file is empty, or has no routes.",
    "file_too_large": "The file, the archive or one of its parts is over its limit.",
    "file_encoding": "The text is not UTF-8.",
    "file_syntax": "The text is not JSON, YAML or CSV, or has U+0000.",
    "duplicate_key": "An object has a key twice.",
    "duplicate_route": "Two routes of the file have one name, or get one name.",
    "invalid_route": "A route of the file is malformed.",
    "invalid_settings": "A setting of a route folder is unknown or malformed.",
    "invalid_test": "A test of a route folder is malformed.",
    "duplicate_test": "A route folder has a test twice.",
    "unknown_route": "A test names a route that is not there.",
    "invalid_set": "The name, the limits or an alias of a set is malformed.",
    "unknown_format": "The file is of no known format, or not of the one that was asked for.",
}
"""Codes of refused files, and their meaning."""
PLACES_MAX: Final = 8
"""Places that one message names."""


class FileRefused(RouteError):
    """A file or a document cannot be read; ``line`` is in ``fields`` where it is known."""

    code = "invalid_file"

    def __init__(self, code: str, message: str, *, line: int | None = None) -> None:
        super().__init__(message, **({} if line is None else {"line": line}))
        self.code = code  # type: ignore[misc]
        self.line = line


def joined(messages: Sequence[str]) -> str:
    """The first messages in one sentence, and how many more there are."""
    more = f"; and {len(messages) - PLACES_MAX} more" if len(messages) > PLACES_MAX else ""
    return "; ".join(messages[:PLACES_MAX]) + more
