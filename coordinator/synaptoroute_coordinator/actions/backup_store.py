"""Where backups are kept: a folder, or a bucket (see ``bucket``).

A shelf keeps files by name.  ``put`` is all or nothing: a name that is listed is whole.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from pathlib import Path
from typing import Protocol

from synaptoroute.errors import ClusterError


class Shelf(Protocol):
    """A place for files."""

    @property
    def scratch(self) -> Path:
        """A folder of this machine for what is on its way."""
        ...

    async def put(self, name: str, source: Path) -> None:
        """Keep a file of this machine under a name; the file may be moved away."""
        ...

    async def names(self) -> list[str]:
        """List what is kept."""
        ...

    async def read(self, name: str, bytes_max: int) -> bytes:
        """Read a small file."""
        ...

    async def fetch(self, name: str, target: Path) -> None:
        """Bring a file to this machine."""
        ...

    async def remove(self, name: str) -> None:
        """Forget a file; one that is not there is forgotten already."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class FolderShelf:
    """Files in one folder; raises OSError and, where a file is too long, ClusterError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def scratch(self) -> Path:
        """The folder itself, so that a file is kept by a rename."""
        return self._folder

    async def put(self, name: str, source: Path) -> None:
        """Keep a file under a name."""
        await asyncio.to_thread(self._put, name, source)

    def _put(self, name: str, source: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / name
        if source.parent == self._folder:
            draft = source
        else:
            draft = self._folder / f".{uuid.uuid4().hex}"
            shutil.copyfile(source, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)

    async def names(self) -> list[str]:
        """List what is kept."""
        return await asyncio.to_thread(self._names)

    def _names(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        return [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]

    async def read(self, name: str, bytes_max: int) -> bytes:
        """Read a small file."""
        return await asyncio.to_thread(self._read, name, bytes_max)

    def _read(self, name: str, bytes_max: int) -> bytes:
        with (self._folder / name).open("rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise ClusterError(f"{name} has more than {bytes_max} bytes")
        return content

    async def fetch(self, name: str, target: Path) -> None:
        """Copy a file."""
        await asyncio.to_thread(shutil.copyfile, self._folder / name, target)

    async def remove(self, name: str) -> None:
        """Delete a file."""
        path = self._folder / name
        await asyncio.to_thread(path.unlink, missing_ok=True)

    async def close(self) -> None:
        """Nothing is open."""
