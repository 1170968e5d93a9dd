"""Reading files of limited size; loads nothing but the standard library."""

from __future__ import annotations

from pathlib import Path

from synaptoroute.cli.exit_codes import FileRejected


def read_bytes(path: Path, bytes_max: int) -> bytes:
    """Read a file of limited size.

    Raises:
        FileRejected: It cannot be read, or is over the limit.
    """
    try:
        with path.open("rb") as file:
            body = file.read(bytes_max + 1)
    except OSError as error:
        raise FileRejected(f"{path} cannot be read: {error.strerror}") from error
    if len(body) > bytes_max:
        raise FileRejected(f"{path} is over {bytes_max} bytes")
    return body
