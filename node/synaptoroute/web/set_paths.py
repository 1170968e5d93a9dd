"""Paths of route sets: ``/v1/sets/{set}/...`` is served by the endpoint of ``/v1/...``.

The prefix names a set; for queries and decisions it may name an alias as well.  Without it the set
is ``default``.
"""

from __future__ import annotations

import unicodedata
from typing import Final
from urllib.parse import quote

from synaptoroute.core.mutation import DEFAULT_SET
from synaptoroute.errors import SetNotFound

SETS_PATH: Final = "/v1/sets"
ALIASES_PATH: Final = "/v1/aliases"
_PREFIX: Final = f"{SETS_PATH}/"
_OF_A_SET: Final = frozenset(
    {
        "apply",
        "clusters",
        "conflicts",
        "decisions",
        "evaluation",
        "export",
        "feedback",
        "history",
        "import",
        "imports",
        "ops",
        "preview",
        "query",
        "revisions",
        "routes",
        "settings",
        "systemone",
        "tests",
    }
)
"""First parts of the paths below ``/v1`` that are about one route set."""
_UNMATCHED: Final = "/-/unmatched"


def is_of_a_set(path: str) -> bool:
    """Whether an endpoint is about one route set."""
    if path.startswith("/v1/"):
        return path[4:].partition("/")[0] in _OF_A_SET
    return path.startswith(_UNMATCHED)


def split_set_path(path: str) -> tuple[str, str] | None:
    """Set, or alias, and endpoint of a path.

    Returns:
        None for a path that does not begin with a set, and for one of the set itself, such as
        ``/v1/sets/support`` and ``/v1/sets/support/fork``.
    """
    if not path.startswith(_PREFIX):
        return None
    name, _, rest = path[len(_PREFIX) :].partition("/")
    if rest.partition("/")[0] == "unmatched":
        endpoint = f"/-/{rest}"
    elif rest.partition("/")[0] in _OF_A_SET:
        endpoint = f"/v1/{rest}"
    else:
        return None
    return unicodedata.normalize("NFC", name), endpoint


def path_in_a_set(endpoint: str, route_set: str) -> str:
    """Path of an endpoint for a set, whose name is not quoted here."""
    return f"{_PREFIX}{route_set}/{endpoint.split('/', 2)[2]}"


def base_of(route_set: str) -> str:
    """What stands in place of ``/v1/`` in the paths of a set."""
    return f"{_PREFIX}{quote(route_set, safe='')}/"


def set_not_found(name: str) -> SetNotFound:
    """The error for a name that is not there, or that the caller may not know."""
    shown = name if len(name) <= 120 else f"{name[:117]}..."
    return SetNotFound(f"no route set or alias has the name {shown!r}")


def set_of(route_set: str) -> str:
    """Name of the set that a request is about."""
    return route_set or DEFAULT_SET
