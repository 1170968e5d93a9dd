"""Sources of an import: a file, a folder or an archive, as names and bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from synaptoroute.importers.json_reader import parse_json
from synaptoroute.importers.own import read_lines
from synaptoroute.importers.refusal import FileRefused
from synaptoroute.importers.tables import delimiter_of
from synaptoroute.importers.text import decode
from synaptoroute.importers.yaml_reader import parse_yaml

FILE_BYTES_MAX: Final = 1_073_741_824
FILES_BYTES_MAX: Final = 268_435_456
"""Bytes of all files of a folder, or of an archive when they are unpacked."""
FILES_MAX: Final = 20_000

Kind = Literal["json", "yaml", "ndjson", "csv", "tsv", "markdown"]
KIND_BY_SUFFIX: Final[dict[str, Kind]] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".csv": "csv",
    ".tsv": "tsv",
    ".md": "markdown",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Files by their relative names, with ``/`` between folders.

    Attributes:
        name: Of the file, the folder or the archive; for messages and its suffix.
        files: Their bytes; a single file is listed under its own name.
        is_folder: Whether there may be several files: a folder or an archive.
        sibling: Reads a file that lies beside the given one; None if there is none.
    """

    name: str
    files: Mapping[str, bytes]
    is_folder: bool = False
    sibling: Callable[[str], bytes | None] = field(default=lambda name: None)

    @classmethod
    def of(cls, name: str, body: bytes) -> Source:
        """A single file."""
        return cls(name, {name: body})

    @property
    def body(self) -> bytes:
        """The bytes of a single file."""
        return self.files[self.name]


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file.

    Attributes:
        value: What the text says; lines with their numbers for NDJSON; the text for tables.
        kind: How it was parsed.
        text: The text.
    """

    value: Any
    kind: Kind
    text: str


def opened(source: Source) -> Source:
    """Unpack a file that is a ZIP archive; other sources stay as they are.

    Raises:
        FileRefused: ``file_too_large``, or ``file_syntax`` for a broken or encrypted archive.
    """
    if source.is_folder or not source.body.startswith(b"PK\x03\x04"):
        return source
    files: dict[str, bytes] = {}
    total_bytes = 0
    try:
        with zipfile.ZipFile(io.BytesIO(source.body)) as archive:
            entries = [each for each in archive.infolist() if not each.is_dir()]
            if len(entries) > FILES_MAX:
                raise FileRefused("file_too_large", f"the archive has over {FILES_MAX} files")
            for entry in entries:
                if entry.flag_bits & 1:
                    raise FileRefused("file_syntax", "the archive is encrypted")
                with archive.open(entry) as opened_entry:
                    # The sizes that an archive states may be false.
                    body = opened_entry.read(FILES_BYTES_MAX - total_bytes + 1)
                total_bytes += len(body)
                if total_bytes > FILES_BYTES_MAX:
                    raise FileRefused(
                        "file_too_large", f"the archive unpacks to over {FILES_BYTES_MAX} bytes"
                    )
                files[entry.filename.replace("\\", "/")] = body
    except FileRefused:
        raise
    # A damaged archive makes zipfile and its decompressors raise nearly anything, an IndexError
    # for an entry without a name included.
    except Exception as error:
        raise FileRefused("file_syntax", f"the archive cannot be read: {error}") from None
    if not files:
        raise FileRefused("file_empty", "the archive is empty")
    return Source(source.name, files, is_folder=True)


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with its dot."""
    base = name.rpartition("/")[2]
    stem, dot, suffix = base.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def parse(name: str, body: bytes) -> Document:
    """Parse a file by its suffix, or by its content where the suffix says nothing.

    Raises:
        FileRefused: The text breaks a rule; the message names the place.
    """
    text = decode(body)
    kind = KIND_BY_SUFFIX.get(suffix_of(name)) or _kind_of(text)
    match kind:
        case "json":
            value = parse_json(text.encode())
        case "yaml":
            value = parse_yaml(text)
        case "ndjson":
            value = read_lines(text)
        case _:
            value = text
    return Document(value, kind, text)


def _kind_of(text: str) -> Kind:
    head = text.lstrip()
    if head.startswith(("{", "[")):
        first, _, rest = head.partition("\n")
        is_lines = first.rstrip().endswith("}") and rest.lstrip().startswith("{")
        return "ndjson" if is_lines else "json"
    delimiter = delimiter_of(text)
    if delimiter is not None:
        return "tsv" if delimiter == "\t" else "csv"
    if "\t" in head.partition("\n")[0]:
        return "tsv"
    return "yaml"
