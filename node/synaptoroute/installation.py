"""The installed files: detects another distribution that installs the same package.

The distribution ``synaptoroute`` of the Python Package Index is another project with the same
import name.  Installers do not know that two distributions share a package: the later one
overwrites files of the earlier one, and removing either removes files of both.  Importing
this module raises ``ConflictingInstallation`` in such an environment.

The check needs no file that the other project has.  Its ``__init__`` imports
``synaptoroute.router``, which is ours, so the check runs even where ``__init__`` is theirs.
"""

from __future__ import annotations

import os
import sys
from typing import Final

OURS: Final = "synaptoroute-cluster"
OTHER: Final = "synaptoroute"
REPAIR: Final = f"""\
    python -m pip uninstall --yes {OTHER}
    python -m pip install --force-reinstall --no-deps {OURS}"""

_FOLDER: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class ConflictingInstallation(ImportError):
    """The package was overwritten, or its files also belong to another distribution."""


def find_conflict(package: object, folder: str) -> str | None:
    """Return a sentence that says what is wrong with the installed package; None if nothing is.

    Args:
        package: The imported package ``synaptoroute``.
        folder: The folder that holds the package and, if it is installed, its metadata.
    """
    # A folder of metadata is named after distribution and version.  To read the folder costs less
    # than to import importlib.metadata.  An archive that is imported from is no folder.
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        stem, suffix = os.path.splitext(name)
        if not name.startswith(f"{OTHER}-") or suffix not in (".dist-info", ".egg-info"):
            continue
        version = stem.partition("-")[2]
        return (
            f'The distribution "{OTHER}" {version} is another project. It is installed in the '
            f'same folder as "{OURS}", and both install the package `synaptoroute`'
        )
    if getattr(package, "__distribution__", None) != OURS:
        return (
            f'Files of "{OURS}" are missing or belong to the distribution "{OTHER}", which is '
            "another project"
        )
    return None


def check_installation() -> None:
    """Raise ``ConflictingInstallation`` if the package is not whole or not alone."""
    conflict = find_conflict(sys.modules.get("synaptoroute"), _FOLDER)
    if conflict is not None:
        raise ConflictingInstallation(f"{conflict}. To keep {OURS}, run:\n{REPAIR}\n")


check_installation()
