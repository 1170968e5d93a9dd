"""Route files on the command line: files, folders and archives, and how they differ from a node.

The formats and their rules are in ``importers``; this module reads the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from synaptoroute.cli.exit_codes import BadUsage, FileRejected
from synaptoroute.cli.options import read_bytes
from synaptoroute.importers import (
    FILE_BYTES_MAX,
    FORMATS,
    FileRefused,
    Imported,
    Source,
    detect,
    opened,
    own_routes,
    parse,
    read_routes,
)
from synaptoroute.importers.folder import is_route_folder, read_route_folder
from synaptoroute.importers.formats import OWN
from synaptoroute.importers.sources import FILES_BYTES_MAX, FILES_MAX
from synaptoroute.models import Route
from synaptoroute.server.documents import plain_route as document_of

SIBLING_BYTES_MAX: Final = 67_108_864
ResultT = TypeVar("ResultT")


def read_route_file(path: Path, file_format: str | None = None) -> Imported:
    """Read and validate a route file, a folder or an archive.

    Raises:
        FileRejected: It breaks a rule, with the code of the rule.
    """
    if file_format is not None and file_format not in FORMATS:
        raise BadUsage(f"--format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    return _read(path, lambda source: read_routes(source, file_format))


def inspect_route_file(path: Path, file_format: str | None = None) -> tuple[list[Route], list[str]]:
    """Read the valid routes and list every error, not only the first ones."""

    def inspect(source: Source) -> tuple[list[Route], list[str]]:
        source = opened(source)
        if not source.is_folder and file_format in (None, OWN):
            document = parse(source.name, source.body)
            if file_format == OWN or detect(document) == OWN:
                return own_routes(document)
        if source.is_folder and file_format in (None, OWN) and is_route_folder(source):
            folder = read_route_folder(source)
            return folder.routes, [fault.message for fault in folder.faults]
        return list(read_routes(source, file_format).routes), []

    return _read(path, inspect)


def _read(path: Path, read: Callable[[Source], ResultT]) -> ResultT:
    try:
        return read(read_source(path))
    except FileRefused as error:
        raise rejected(path, error) from error


def rejected(path: Path, error: FileRefused) -> FileRejected:
    """The error of a command for a file that a reader refused; it keeps the code."""
    found = FileRejected(f"{path}: {error.message}")
    found.code = error.code  # type: ignore[misc]
    return found


def read_source(path: Path) -> Source:
    """Read a file, or all files of a folder, into memory.

    Raises:
        FileRejected: It cannot be read.
        FileRefused: ``file_too_large``.
    """
    if not path.is_dir():
        body = read_bytes(path, FILE_BYTES_MAX)
        return Source(path.name, {path.name: body}, sibling=lambda name: _sibling(path, name))
    files: dict[str, bytes] = {}
    total_bytes = 0
    for each in sorted(path.rglob("*")):
        if not each.is_file() or any(part.startswith(".") for part in each.relative_to(path).parts):
            continue
        if len(files) == FILES_MAX:
            raise FileRefused("file_too_large", f"the folder has over {FILES_MAX} files")
        body = read_bytes(each, FILES_BYTES_MAX)
        total_bytes += len(body)
        if total_bytes > FILES_BYTES_MAX:
            raise FileRefused("file_too_large", f"the folder has over {FILES_BYTES_MAX} bytes")
        files[each.relative_to(path).as_posix()] = body
    if not files:
        raise FileRefused("file_empty", "the folder has no files")
    return Source(path.name, files, is_folder=True)


def _sibling(path: Path, name: str) -> bytes | None:
    """A file that another one names, from the same folder or below it only."""
    folder = path.absolute().parent.resolve()
    found = (folder / name).resolve()
    if not found.is_relative_to(folder) or not found.is_file():
        return None
    return read_bytes(found, SIBLING_BYTES_MAX)


def plain_route(route: Route) -> dict[str, Any]:
    """Make the document of a route for a file, without absent fields."""
    document = document_of(route)
    if route.vectors is not None:
        document["vectors"] = route.vectors
    return document


def ndjson_line(route: Route) -> bytes:
    text = json.dumps(plain_route(route), ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


# --- comparing -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RouteDiff:
    """The changes that an import would make."""

    created: tuple[str, ...] = ()
    changed: tuple[tuple[str, str], ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the import would change nothing."""
        return not (self.created or self.changed or self.removed)


def compare(
    present: Iterable[Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]], *, replace: bool
) -> RouteDiff:
    """Compare routes of a node with routes of a file; ``replace`` removes those not in the file."""
    old, new = ({route["name"]: route for route in side} for side in (present, wanted))
    created, changed, unchanged = [], [], []
    for name in sorted(new):
        if name not in old:
            created.append(name)
        elif what := _describe_changes(old[name], new[name]):
            changed.append((name, what))
        else:
            unchanged.append(name)
    removed = sorted(old.keys() - new.keys()) if replace else []
    return RouteDiff(tuple(created), tuple(changed), tuple(unchanged), tuple(removed))


def _describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Describe how two versions of a route differ; empty if they do not."""
    parts = []
    before, after = set(old["utterances"]), set(new["utterances"])
    if before != after:
        parts.append(f"utterances +{len(after - before)} −{len(before - after)}")
    elif list(old["utterances"]) != list(new["utterances"]):
        parts.append("order of utterances")
    before, after = set(old.get("negatives") or ()), set(new.get("negatives") or ())
    if before != after:  # a node keeps no order of them
        parts.append(f"negatives +{len(after - before)} −{len(before - after)}")
    parts += [
        f"{key} {_limit_text(old.get(key))} → {_limit_text(new.get(key))}"
        for key in ("threshold", "confidence_min")
        if old.get(key) != new.get(key)
    ]
    keys = ("description", "metadata", "payload")
    parts += [key for key in keys if (old.get(key) or None) != (new.get(key) or None)]
    return ", ".join(parts)


def _limit_text(limit: float | None) -> str:
    return "default" if limit is None else f"{limit:g}"
