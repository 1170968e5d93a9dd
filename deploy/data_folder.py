"""Run a command with a data folder that no other container of the volume uses.

Containers of one service, such as ``docker compose up --scale node=5``, share their named volume
but not a database.  Each locks one folder ``node-N`` of the volume: that of its own number, as in
the container's name ``project_node_2``, else the first free one.  So containers that are made
again, after ``down`` or on another day, take up the databases and the votes of those before.

The kernel releases the lock when the process ends, however that happens.

Usage: data_folder.py COMMAND [ARGUMENT ...]
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS_MAX = 99
_NUMBER = re.compile(r"[-_]([1-9][0-9]?)(?:\.|$)")


def own_number() -> int | None:
    """The number of this container in its service; None if its network has no name for it."""
    try:
        name = socket.gethostbyaddr(socket.gethostbyname(socket.gethostname()))[0]
    except OSError:
        return None
    found = _NUMBER.search(name)
    return int(found[1]) if found else None


def lock_folder(volume: Path, own: int | None) -> tuple[int, Path]:
    """Lock a folder for the life of this process.

    Args:
        volume: Folder that all containers share.
        own: Number of the folder that is tried first.

    Returns:
        Its number, and the folder.

    Raises:
        SystemExit: Every folder is in use.
    """
    for number in _candidates(own):
        folder = volume / f"node-{number}"
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        # The command that replaces this program keeps the lock.
        os.set_inheritable(lock, True)
        return number, folder
    raise SystemExit(f"data_folder.py: {volume}: all {FOLDERS_MAX} folders are in use")


def _candidates(own: int | None) -> Iterator[int]:
    if own is not None:
        yield own
    yield from (number for number in range(1, FOLDERS_MAX + 1) if number != own)


def main(command: list[str]) -> None:
    """Lock a folder, name it in the environment, and become the command."""
    if not command:
        raise SystemExit(__doc__)
    number, folder = lock_folder(Path(os.environ.get("DATA_VOLUME", "/data")), own_number())
    os.environ["DATA_FOLDER"] = str(folder)
    os.environ["SYNAPTOROUTE_DATABASE"] = str(folder / "synaptoroute.sqlite")
    os.environ.setdefault("SYNAPTOROUTE_NODE_NAME", f"node-{number}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
