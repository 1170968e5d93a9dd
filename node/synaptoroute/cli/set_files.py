"""Route folders on the disk: folders and archives of them, read and written."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from synaptoroute.cli.exit_codes import FileRejected
from synaptoroute.cli.options import read_bytes
from synaptoroute.cli.route_files import read_source, rejected
from synaptoroute.importers import FileRefused, Source, opened
from synaptoroute.importers.folder import (
    SET,
    SETTINGS,
    TESTS,
    RouteFolder,
    SetFolders,
    read_set_folders,
)
from synaptoroute.importers.folder_writer import (
    file_stems,
    hashed_stem,
    route_file,
    settings_file,
    tests_file,
    write_set_folders,
)
from synaptoroute.importers.sources import FILES_BYTES_MAX, FILES_MAX

_TAR_MAGIC: Final = b"ustar"
_TAR_MAGIC_AT: Final = 257
_MODE: Final = 0o644


def read_folders(path: Path) -> SetFolders:
    """Read a route folder, a folder of several sets, or an archive of either.

    Raises:
        FileRejected: A file breaks a rule, with the code of the rule.
    """
    try:
        return read_set_folders(_source(path))
    except FileRefused as error:
        raise rejected(path, error) from error


def _source(path: Path) -> Source:
    if path.is_dir():
        return read_source(path)
    source = Source(path.name, {path.name: read_bytes(path, FILES_BYTES_MAX)})
    if source.body[_TAR_MAGIC_AT : _TAR_MAGIC_AT + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return Source(path.name, _tar_files(source.body), is_folder=True)
    source = opened(source)
    if not source.is_folder:
        raise FileRefused("unknown_format", "it is no folder, and no tar or ZIP archive of one")
    return source


def _tar_files(body: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if len(files) == FILES_MAX:
                    raise FileRefused("file_too_large", f"the archive has over {FILES_MAX} files")
                found = archive.extractfile(member)
                assert found is not None, "the member is a file"
                files[member.name.removeprefix("./")] = found.read()
    except (tarfile.TarError, ValueError, OSError, EOFError) as error:
        raise FileRefused("file_syntax", f"the archive cannot be read: {error}") from None
    if not files:
        raise FileRefused("file_empty", "the archive is empty")
    return files


def tar_of(folders: SetFolders) -> bytes:
    """An archive of folders: equal content gives equal bytes."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, body in sorted(write_set_folders(folders).items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(body), _MODE
            archive.addfile(member, io.BytesIO(body))
    return output.getvalue()


def write_file(path: Path, body: bytes) -> None:
    """Write a file that appears complete or not at all.

    Raises:
        FileRejected: It cannot be written.
    """
    part_file = path.with_name(f".{path.name[:180]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part_file.write_bytes(body)
        part_file.replace(path)
    except OSError as error:
        raise FileRejected(f"{path} cannot be written: {error.strerror}") from error
    finally:
        part_file.unlink(missing_ok=True)


# --- writing over what is there ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FolderChanges:
    """Changes of a folder: bytes by file name, and files that go."""

    written: Mapping[str, bytes]
    removed: tuple[str, ...]
    kept: int


def write_folders(out: Path, folders: SetFolders, *, prune: bool) -> FolderChanges:
    """Write route folders into a folder; a file whose content is equal keeps its bytes.

    Comments and file names that people chose stay that way.

    Raises:
        FileRejected: The folder has other files that would be read back, and ``prune`` is
            false; or something else than a route folder is there.
    """
    changes = _changes(out, folders)
    if changes.removed and not prune:
        names = ", ".join(changes.removed[:3])
        more = f" and {len(changes.removed) - 3} more" if len(changes.removed) > 3 else ""
        raise FileRejected(
            f"{out} has files that the node does not have: {names}{more}; --prune removes them"
        )
    for name, body in changes.written.items():
        write_file(out / name, body)
    for name in changes.removed:
        try:
            (out / name).unlink()
        except OSError as error:
            raise FileRejected(f"{out / name} cannot be removed: {error.strerror}") from error
    return changes


def _changes(out: Path, folders: SetFolders) -> FolderChanges:
    files = write_set_folders(folders)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return FolderChanges(files, (), 0)
    if not out.is_dir():
        raise FileRejected(f"{out} is no folder")
    try:
        source = read_source(out)
        there = read_set_folders(source)
    except FileRefused as error:
        if error.code == "file_empty":
            return FolderChanges(files, (), 0)
        raise rejected(out, error) from error
    if there.is_several != folders.is_several:
        kind = "several sets" if there.is_several else "one set"
        raise FileRejected(f"{out} is a folder of {kind}: choose another one")
    if not there.is_several:
        return _changes_of_set(folders.sets[0], there.sets[0], source, files)
    raise FileRejected(f"{out} has the folders of sets already: choose an empty one")


def _changes_of_set(
    wanted: RouteFolder, there: RouteFolder, source: Source, files: Mapping[str, bytes]
) -> FolderChanges:
    bodies = _named_as_there(wanted, there)
    read = set(there.files.values())
    known = {route.name: route for route in there.routes}
    unchanged = {
        there.files[route.name]
        for route in wanted.routes
        if route.name in known and route_file(known[route.name]) == route_file(route)
    }
    is_same = {
        SETTINGS: settings_file(there.settings or {}) == files.get(f"{SETTINGS}.yaml"),
        TESTS: tests_file(there.tests or {}) == files.get(f"{TESTS}.yaml"),
        SET: (there.name, there.limits) == (wanted.name, wanted.limits),
    }
    for stem, same in is_same.items():
        present = [name for name in (f"{stem}.yaml", f"{stem}.yml") if name in source.files]
        read.update(present)
        if f"{stem}.yaml" in files:
            name = present[0] if present else f"{stem}.yaml"
            bodies[name] = files[f"{stem}.yaml"]
            if present and same:
                unchanged.add(name)
    written = {name: body for name, body in bodies.items() if name not in unchanged}
    return FolderChanges(written, tuple(sorted(read - bodies.keys())), len(unchanged))


def _named_as_there(wanted: RouteFolder, there: RouteFolder) -> dict[str, bytes]:
    """The files of routes: a route that has a file keeps its name, and no file gets two."""
    taken = {name.casefold() for name in there.files.values()}
    stems = file_stems(route.name for route in wanted.routes)
    bodies = {}
    for route in wanted.routes:
        name = there.files.get(route.name, f"{stems[route.name]}.yaml")
        if route.name not in there.files and name.casefold() in taken:
            name = f"{hashed_stem(route.name)}.yaml"
        bodies[name] = route_file(route)
    return bodies
