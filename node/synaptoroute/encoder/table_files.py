"""Files of static tables: those that ship, and those that ``model prepare`` makes.

The tables of the bundled encoder are package data: nothing has to be prepared for it, and all
nodes of one release have the same bytes.  They are mapped, so the processes of a machine share
their memory.  Tables of other encoders are in the cache folder.  A file there is named by the
fingerprint of its encoder.  The SHA-256 of a table is checked at every load.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from synaptoroute.encoder.contract import TextEncoder
from synaptoroute.encoder.recipe import DATA
from synaptoroute.encoder.static_table import DIM, RECIPE_VERSION, ByteTable, StaticTable
from synaptoroute.errors import ModelCorrupt

SHIPPED_FINGERPRINT: Final = "409e5889050bb98973faa9ec8227e5291df10f723a7a3e8224b2d0d7324f704b"
"""Of the bundled encoder with its default precision."""


@dataclass(frozen=True, slots=True)
class ShippedFile:
    """The file of a table of the bundled encoder that is package data."""

    file: Path
    checksum: str

    @contextmanager
    def mapped(self) -> Iterator[mmap.mmap]:
        """Map it; what is wrong with it is a ``ModelCorrupt``."""
        try:
            with self.file.open("rb") as opened:
                content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            yield content
        except OSError as error:
            raise _not_shipped(self.file, f"cannot be read: {error.strerror}") from error
        except ValueError as error:  # an empty file cannot be mapped
            raise _not_shipped(self.file, str(error)) from error
        # The check has read every page.  From now on only rows of words that are asked take memory.
        content.madvise(mmap.MADV_DONTNEED)

    def check(self, checksum: str) -> None:
        if checksum != self.checksum:
            raise ValueError("is damaged: its checksum is wrong")


class ShippedTable(ShippedFile):
    """A table of 16-bit rows in the package."""

    def load(self) -> StaticTable:
        """Map and verify it: 20 ms.

        Raises:
            ModelCorrupt: The file is damaged or absent.
        """
        with self.mapped() as content:
            table, _ = _parse(content, SHIPPED_FINGERPRINT)
            self.check(table.checksum)
            return table


class ShippedByteTable(ShippedFile):
    """A table of rows of bytes in the package."""

    def load(self) -> ByteTable:
        """Map and verify it: 10 ms.

        Raises:
            ModelCorrupt: The file is damaged or absent.
        """
        with self.mapped() as content:
            table = _parse_bytes(content, SHIPPED_FINGERPRINT)
            self.check(table.checksum)
            return table


DISTILLED_TABLE: Final = ShippedTable(
    DATA / "static.table", "881ad66c73f230e16e3b6dca6fcceaa1847fc456e440cd42f89d920b26b47770"
)
"""What the bundled encoder makes of each token alone."""
FITTED_TABLE: Final = ShippedByteTable(
    DATA / "fitted.table", "6246c972b78c82df140d87244a5e0da0705984a1f2b637876b3e87653afb167c"
)
"""Rows that were fitted to texts."""

KEPT_MAX: Final = 2
"""Tables of one encoder beside the prepared one: that of the calibration and the one before."""

_KEPT_DIGITS: Final = 16
_FORMAT: Final = "synaptoroute-static-table"
_BYTES_FORMAT: Final = "synaptoroute-byte-table"
_HEADER_BYTES_MAX: Final = 4_096
_HEADER_BYTES_MULTIPLE: Final = 64


def table_file(fingerprint: str, cache_dir: Path | None = None) -> Path:
    """Path of the table that was prepared for an encoder."""
    home = os.path.expanduser("~")
    folder = cache_dir or Path(home) / ".cache" / "synaptoroute"
    return folder / "static" / f"{fingerprint[:32]}-{RECIPE_VERSION}.table"


def kept_tables(fingerprint: str, cache_dir: Path | None = None) -> list[Path]:
    """Paths of the tables of an encoder that a node distilled or read from a peer, newest first."""
    prepared = table_file(fingerprint, cache_dir)
    found = []
    for path in prepared.parent.glob(f"{prepared.stem}.*{prepared.suffix}"):
        with suppress(OSError):  # another node of this machine removed it
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def keep_table(table: StaticTable, cache_dir: Path | None = None) -> None:
    """Write a table beside the prepared one, named by its checksum; the oldest ones go.

    Raises:
        OSError: The folder cannot be written to.
    """
    prepared = table_file(table.fingerprint, cache_dir)
    name = f"{prepared.stem}.{table.checksum[:_KEPT_DIGITS]}{prepared.suffix}"
    save_table(table, prepared.with_name(name))
    for path in kept_tables(table.fingerprint, cache_dir)[KEPT_MAX:]:
        path.unlink(missing_ok=True)


def shipped_table(fingerprint: str) -> StaticTable | None:
    """Load the table that ships for the cascade of an encoder; None if none does.

    Raises:
        ModelCorrupt: The file is damaged or absent.
    """
    return DISTILLED_TABLE.load() if fingerprint == SHIPPED_FINGERPRINT else None


def find_table(fingerprint: str, cache_dir: Path | None = None) -> StaticTable | None:
    """Find the table of an encoder: the shipped one, else the prepared one, else None.

    Raises:
        ModelCorrupt: The file is damaged.
    """
    return shipped_table(fingerprint) or load_table(table_file(fingerprint, cache_dir), fingerprint)


def tables_of(encoders: Iterable[TextEncoder]) -> list[StaticTable]:
    """Find the tables of encoders; a damaged one counts as none."""
    found = []
    for encoder in encoders:
        with suppress(ModelCorrupt):
            table = find_table(encoder.fingerprint)
            if table is not None:
                found.append(table)
    return found


def save_table(table: StaticTable | ByteTable, path: Path) -> None:
    """Write a table under a temporary name first: a crash leaves the old one or none."""
    content = dump_table(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def dump_table(table: StaticTable | ByteTable) -> bytes:
    """The bytes of a table's file."""
    if isinstance(table, ByteTable):
        factors = table.factors.astype("<i4", copy=False).tobytes()
        return _header_line(table, _BYTES_FORMAT) + table.rows.tobytes() + factors
    return _header_line(table, _FORMAT) + table.rows.astype("<i2", copy=False).tobytes()


def parse_table(content: bytes, fingerprint: str) -> StaticTable:
    """Read what ``dump_table`` wrote.

    Raises:
        ValueError: It is damaged, or of another encoder or release.
    """
    table, checksum = _parse(content, fingerprint)
    if table.checksum != checksum:
        raise ValueError("is damaged: its checksum is wrong")
    return table


def load_table(path: Path, fingerprint: str) -> StaticTable | None:
    """Read and verify a prepared table; None if there is none.

    Raises:
        ModelCorrupt: The file is damaged, or of another encoder or release.
    """
    # Read, not mapped: a mapping of a file that an operator cuts short kills the process.
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _corrupt(path, f"cannot be read: {error.strerror}") from error
    try:
        return parse_table(content, fingerprint)
    except ValueError as error:
        raise _corrupt(path, str(error)) from error


def _header_line(table: StaticTable | ByteTable, kind: str) -> bytes:
    header = {
        "format": kind,
        "recipe": RECIPE_VERSION,
        "fingerprint": table.fingerprint,
        "shape": list(table.rows.shape),
        "sha256": table.checksum,
    }
    line = json.dumps(header, sort_keys=True).encode()
    # Spaces, so that the rows of a mapped file are aligned.
    return line + b" " * (-(len(line) + 1) % _HEADER_BYTES_MULTIPLE) + b"\n"


def _parse(content: bytes | mmap.mmap, fingerprint: str) -> tuple[StaticTable, object]:
    """Read a table without a copy of its rows; also returns the checksum of the header."""
    tokens, start, checksum = _read_header(content, fingerprint, _FORMAT)
    if len(content) - start != tokens * DIM * 2:
        raise ValueError("is damaged: its size is wrong")
    rows = np.frombuffer(content, "<i2", offset=start).astype(np.int16, copy=False)
    return StaticTable(fingerprint, rows.reshape(tokens, DIM)), checksum


def _parse_bytes(content: bytes | mmap.mmap, fingerprint: str) -> ByteTable:
    tokens, start, _ = _read_header(content, fingerprint, _BYTES_FORMAT)
    if len(content) - start != tokens * (DIM + 4):
        raise ValueError("is damaged: its size is wrong")
    rows = np.frombuffer(content, np.int8, tokens * DIM, start).reshape(tokens, DIM)
    factors = np.frombuffer(content, "<i4", tokens, start + rows.nbytes)
    return ByteTable(fingerprint, rows, factors.astype(np.int32))


def _read_header(
    content: bytes | mmap.mmap, fingerprint: str, kind: str
) -> tuple[int, int, object]:
    """Read the number of tokens, the place of the rows, and the checksum."""
    start = content.find(b"\n", 0, _HEADER_BYTES_MAX) + 1
    try:
        header: dict[str, Any] = json.loads(content[:start])
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from error
    if not isinstance(header, dict) or header.get("format") != kind:
        raise ValueError("is damaged: it does not start with a table header")
    if header.get("recipe") != RECIPE_VERSION or header.get("fingerprint") != fingerprint:
        raise ValueError("is of another encoder or release")
    shape = header.get("shape")
    if not isinstance(shape, list) or len(shape) != 2 or shape[1] != DIM:
        raise ValueError("is damaged: its shape is malformed")
    if not isinstance(shape[0], int):
        raise ValueError("is damaged: its size is wrong")
    return shape[0], start, header.get("sha256")


def _corrupt(path: Path, what: str) -> ModelCorrupt:
    return ModelCorrupt(
        f"the table {path.name} {what}: run `synaptoroute model prepare`", file=path.name
    )


def _not_shipped(file: Path, what: str) -> ModelCorrupt:
    return ModelCorrupt(
        f"the table {file.name} {what}: reinstall synaptoroute-cluster", file=file.name
    )


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
