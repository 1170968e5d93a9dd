"""Writes route folders: equal content gives equal bytes, whatever its history.

Texts are sorted, because a node keeps them in no promised order.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote

import yaml

from synaptoroute.importers.folder import (
    ALIASES,
    RESERVED,
    SET,
    SETTINGS,
    TESTS,
    AliasEntry,
    RouteFolder,
    SetFolders,
    limits_document,
)
from synaptoroute.models import Route

STEM_BYTES_MAX: Final = 180
"""Bytes of a file name without the suffix; file systems allow 255."""
_LINE_CHARACTERS_MAX: Final = 1_000_000  # One text a line, so that differences are readable
_DEVICES: Final = frozenset(
    ("con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10)))
)
"""Names that Windows does not allow for files."""


def write_set_folders(folders: SetFolders) -> dict[str, bytes]:
    """The files of one set, or of several sets in folders of their own, by name."""
    files: dict[str, bytes] = {}
    if folders.aliases:
        files[f"{ALIASES}.yaml"] = aliases_file(folders.aliases)
    if not folders.is_several:
        return files | write_route_folder(folders.sets[0])
    stems = file_stems(each.name for each in folders.sets)
    for each in folders.sets:
        prefix = stems[each.name]
        files |= {f"{prefix}/{name}": body for name, body in write_route_folder(each).items()}
    return files


def write_route_folder(folder: RouteFolder) -> dict[str, bytes]:
    """The files of one set, by name."""
    stems = file_stems(route.name for route in folder.routes)
    files = {f"{stems[route.name]}.yaml": route_file(route) for route in folder.routes}
    if folder.settings is not None:
        files[f"{SETTINGS}.yaml"] = settings_file(folder.settings)
    if folder.tests:
        files[f"{TESTS}.yaml"] = tests_file(folder.tests)
    if folder.name:
        files[f"{SET}.yaml"] = set_file(folder)
    return files


def route_file(route: Route) -> bytes:
    """Write a route, without what is absent."""
    document: dict[str, Any] = {"name": route.name}
    if route.description is not None:
        document["description"] = route.description
    if route.threshold is not None:
        document["threshold"] = route.threshold
    if route.confidence_min is not None:
        document["confidence_min"] = route.confidence_min
    document["utterances"] = sorted(route.utterances)
    if route.negatives:
        document["negatives"] = sorted(route.negatives)
    if route.metadata:
        document["metadata"] = _sorted(route.metadata)
    if route.payload is not None:
        document["payload"] = _sorted(route.payload)
    return _yaml(document)


def settings_file(settings: Mapping[str, Any]) -> bytes:
    """Write settings, in the order given."""
    return _yaml(dict(settings))


def tests_file(tests: Mapping[str, str | None]) -> bytes:
    """Write tests in order of text."""
    return _yaml({text: tests[text] for text in sorted(tests)})


def set_file(folder: RouteFolder) -> bytes:
    """Write the name and the limits of a set."""
    document: dict[str, Any] = {"name": folder.name}
    if folder.limits is not None and (limits := limits_document(folder.limits)):
        document["limits"] = limits
    return _yaml(document)


def aliases_file(aliases: Mapping[str, AliasEntry]) -> bytes:
    """Write aliases in order of name."""
    document: dict[str, Any] = {}
    for name in sorted(aliases):
        alias = aliases[name]
        document[name] = {"set": alias.target}
        if alias.shadow:
            document[name] |= {"shadow": alias.shadow, "shadow_share": alias.shadow_share}
        if alias.canary:
            document[name] |= {"canary": alias.canary, "canary_share": alias.canary_share}
    return _yaml(document)


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """File names without suffix for names of routes or sets, distinct in any case of letters.

    A name that a file system may refuse, cut or mix up with another one gets a hash of the name.
    """
    given = list(names)
    plain = {name: _plain_stem(name) for name in given}
    uses: dict[str, int] = {}
    for stem in plain.values():
        uses[stem.casefold()] = uses.get(stem.casefold(), 0) + 1
    return {
        name: stem if uses[stem.casefold()] == 1 and _is_safe(stem) else hashed_stem(name)
        for name, stem in plain.items()
    }


def _plain_stem(name: str) -> str:
    # Letters of any script stay readable; what a shell or a file system minds is escaped.
    return "".join(
        each if each.isalnum() or each in "-_." or unicodedata.category(each)[0] == "M"
        else quote(each, safe="")
        for each in name
    )  # fmt: skip


def _is_safe(stem: str) -> bool:
    first = stem.partition(".")[0].casefold()
    return (
        len(stem.encode()) <= STEM_BYTES_MAX
        and stem.casefold() not in RESERVED
        and first not in _DEVICES
        and not stem.endswith(".")
    )


def hashed_stem(name: str) -> str:
    """A file name without suffix that no other name gets."""
    stem = _plain_stem(name)
    digest = blake2b(name.encode(), digest_size=4).hexdigest()
    while len(stem.encode()) > STEM_BYTES_MAX - 9:
        stem = stem[:-1]
    return f"{stem.rstrip('.')}~{digest}"


def _sorted(value: Any) -> Any:
    """The same JSON value with sorted keys, as a node stores it."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(each) for each in value]
    return value


def _yaml(document: dict[str, Any]) -> bytes:
    text: str = yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=_LINE_CHARACTERS_MAX,
    )
    return text.encode()


class _Dumper(yaml.CSafeDumper):
    """The safe dumper without anchors, which the reader refuses."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
