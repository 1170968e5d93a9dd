"""Files and folders that only their owner can use, whatever the umask of the process.

Databases, snapshots, backups, logs and secrets are made with mode 0600, folders with 0700.
A file that an operator names for an export has the mode that the operator's umask gives.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final, Literal, cast

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_PUBLIC_FIELDS: Final = ("routes_file", "ca_file", "cert_file", "client_ca")


def open_private(path: Path, mode: Literal["ab", "wb"]) -> BinaryIO:
    """Open a file to write; one that is made is its owner's alone."""
    return cast(BinaryIO, open(path, mode, opener=_opener))


def make_private_file(path: Path) -> None:
    """Make an empty file, for a writer that cannot set modes; an existing one stays as it is."""
    open_private(path, "ab").close()


def make_private_folder(path: Path) -> None:
    """Make a folder and those above it; existing ones stay as they are."""
    # ``Path.mkdir`` gives its mode to the last folder only.
    for folder in reversed((path, *path.parents)):
        if not folder.exists():
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)


def exposure_of(path: Path) -> str:
    """Say who else can read or change a file; empty if nobody can, or there is no file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be changed by other users: chmod 600"
    return f"{path} can be read by all users: chmod 600" if mode & stat.S_IROTH else ""


def exposed_secrets(settings: object) -> list[str]:
    """Say which files with secrets, of all that settings name, others can read or change.

    ``settings`` are pydantic settings: a field ``..._file`` or ``..._key`` that is a path
    names a secret, unless it is a certificate or a route file.
    """
    fields = vars(settings).items()
    paths = [
        path
        for name, path in fields
        if isinstance(path, Path)
        and name.endswith(("_file", "_key"))
        and not name.endswith(_PUBLIC_FIELDS)
    ]
    return [warning for path in paths if (warning := exposure_of(path))]


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
