"""Files with example routes and queries, which the distribution carries."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import synaptoroute
from synaptoroute.cli.exit_codes import BadUsage

_PACKAGE: Final = Path(synaptoroute.__file__).parent
# The wheel holds the files inside the package; a clone has them in its root.
_FOLDERS: Final = (_PACKAGE / "examples", _PACKAGE.parents[1] / "examples")


def example_file(name: str, chosen: Path | None) -> Path:
    """Return the file that a command line names, or the example file of this name.

    Raises:
        BadUsage: There is no such file.
    """
    candidates = (chosen,) if chosen else tuple(folder / name for folder in _FOLDERS)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise BadUsage(f"{candidates[0]} does not exist")
    return found
