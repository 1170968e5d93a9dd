"""Route folders: a route set as YAML files, one a route, beside its settings and its tests.

    refunds.yaml     a route
    settings.yaml    settings of the set; those that are not named stay as they are
    tests.yaml       texts and the routes that are right
    set.yaml         the set's name and its limits

A folder of several sets has one such folder a set, and ``aliases.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synaptoroute.core.mutation import SetLimits, Settings
from synaptoroute.core.names import is_set_name
from synaptoroute.importers.own import explained, read_route
from synaptoroute.importers.refusal import FileRefused, joined
from synaptoroute.importers.sources import Source, suffix_of
from synaptoroute.importers.text import decode
from synaptoroute.importers.yaml_reader import Places, parse_yaml
from synaptoroute.models import (
    UTTERANCE_BYTES_MAX,
    Route,
    RouteSetSettings,
    check_name,
    check_text,
    normal_name,
)
from synaptoroute.web.problems import field_errors

SETTINGS: Final = "settings"
TESTS: Final = "tests"
SET: Final = "set"
ALIASES: Final = "aliases"
RESERVED: Final = (SETTINGS, TESTS, SET, ALIASES)
"""Stems of files that are no routes."""
YAML_SUFFIXES: Final = (".yaml", ".yml")
_ROUTE_LIKE: Final = (".json", ".ndjson", ".jsonl")
_ROUTE_KEYS: Final = re.compile(rb"^(utterances|\"utterances\"|'utterances')\s*:", re.MULTILINE)
NO_ROUTE: Final = "-"
FAULTS_PER_FILE_MAX: Final = 100
"""Mistakes after which the rest of a file is not read: each place costs a parse."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake in a file: a code of ``refusal.CODES``, and a sentence with its place."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class AliasEntry:
    """An alias of ``aliases.yaml``: the set that answers, and what is tried beside it."""

    target: str
    shadow: str = ""
    shadow_share: float = 0.0  # 0 to 1
    canary: str = ""
    canary_share: float = 0.0  # 0 to 1

    @property
    def sets(self) -> set[str]:
        """Names of the sets that it names."""
        return {self.target, self.shadow, self.canary} - {""}


@dataclass(slots=True)
class RouteFolder:
    """A route set as files.

    Attributes:
        name: Of the set, by ``set.yaml``, or by the folder among several sets; empty if
            neither says it.
        routes: In order of name.
        files: File of each route.
        settings: The settings that ``settings.yaml`` names, valid; None without the file.
        tests: Texts and their routes, None for no route; None without ``tests.yaml``.
        limits: By ``set.yaml``; None if it has none.
        faults: Every mistake that was found; what is mistaken is missing above.
    """

    name: str = ""
    routes: list[Route] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] | None = None
    tests: dict[str, str | None] | None = None
    limits: SetLimits | None = None
    faults: list[Fault] = field(default_factory=list)

    def checked(self) -> RouteFolder:
        """Return the folder if it has no mistakes.

        Raises:
            FileRefused: It has some; the code is that of the first.
        """
        check_faults(self.faults)
        return self


@dataclass(slots=True)
class SetFolders:
    """The sets of a folder, and their aliases.

    Attributes:
        sets: In order of name; one without a name if the folder is one set.
        aliases: By name; None without ``aliases.yaml``.
        is_several: Whether each set has a folder of its own.
    """

    sets: list[RouteFolder]
    aliases: dict[str, AliasEntry] | None = None
    is_several: bool = False


def check_faults(faults: list[Fault]) -> None:
    """Raise the mistakes as one error, if there are any."""
    if faults:
        raise FileRefused(faults[0].code, joined([fault.message for fault in faults]))


def is_route_folder(source: Source) -> bool:
    """Whether files look like a route folder, whatever mistakes they have."""
    for name, body in source.files.items():
        if "/" in name or suffix_of(name) not in YAML_SUFFIXES:
            continue
        if _stem(name) in (SETTINGS, TESTS, SET) or _ROUTE_KEYS.search(body):
            return True
    return False


def read_set_folders(source: Source) -> SetFolders:
    """Read a folder of one set or of several.

    Raises:
        FileRefused: A file breaks a rule; the message names every place, up to a limit.
    """
    own: dict[str, bytes] = {}
    by_folder: dict[str, dict[str, bytes]] = {}
    for name, body in source.files.items():
        folder, slash, rest = name.partition("/")
        if slash:
            by_folder.setdefault(folder, {})[rest] = body
        else:
            own[name] = body
    aliases_file = next((name for name in own if _is_file_of(name, ALIASES)), None)
    is_single = any(
        suffix_of(name) in YAML_SUFFIXES and name != aliases_file for name in own
    ) or not any(map(_has_yaml, by_folder.values()))
    faults: list[Fault] = []
    if is_single:
        folder_read = read_route_folder(source)
        if aliases_file is not None:
            faults.append(
                Fault("unknown_format", f"{aliases_file}: aliases belong to a folder of sets")
            )
        check_faults(folder_read.faults + faults)
        return SetFolders([folder_read])
    sets = []
    for name in sorted(by_folder):
        if not _has_yaml(by_folder[name]):
            continue
        found = read_route_folder(Source(name, by_folder[name], is_folder=True), f"{name}/")
        if not found.name:
            found.name = normal_name(name)
            if not is_set_name(found.name):
                faults.append(Fault("invalid_set", f"{name}/: is not the name of a set"))
        faults += found.faults
        sets.append(found)
    faults += _repeated_sets(sets)
    aliases = None
    if aliases_file is not None:
        aliases = _read_aliases(aliases_file, own[aliases_file], faults)
        for both in sorted({each.name for each in sets} & (aliases or {}).keys()):
            faults.append(Fault("invalid_set", f"{aliases_file}: a set is named {both!r}, too"))
    check_faults(faults)
    sets.sort(key=lambda each: each.name)
    return SetFolders(sets, aliases, is_several=True)


def _has_yaml(files: Mapping[str, bytes]) -> bool:
    return any("/" not in name and suffix_of(name) in YAML_SUFFIXES for name in files)


def _repeated_sets(sets: list[RouteFolder]) -> list[Fault]:
    names = [each.name for each in sets]
    repeated = sorted({name for name in names if names.count(name) > 1})
    return [Fault("duplicate_route", f"two folders are the set {name!r}") for name in repeated]


def read_route_folder(source: Source, prefix: str = "") -> RouteFolder:
    """Read the files of one set; mistakes are in ``faults``, not raised.

    Args:
        source: Its files.
        prefix: What stands before their names in messages.
    """
    found = RouteFolder()
    routes: dict[str, Route] = {}
    for name in sorted(source.files):
        place = f"{prefix}{name}"
        if "/" in name:
            if suffix_of(name) in YAML_SUFFIXES:
                message = f"{place}: route files stand in the folder itself, not below it"
                found.faults.append(Fault("unknown_format", message))
            continue
        if suffix_of(name) in _ROUTE_LIKE:
            message = f"{place}: a route folder has YAML files; `routes convert` writes YAML"
            found.faults.append(Fault("unknown_format", message))
        if suffix_of(name) not in YAML_SUFFIXES:
            continue
        try:
            text = decode(source.files[name])
            document = parse_yaml(text)
        except FileRefused as error:
            found.faults.append(Fault(error.code, f"{place}: {error.message}"))
            continue
        match _stem(name):
            case "settings":
                found.settings = _read_settings(document, place, Places(text), found.faults)
            case "tests":
                found.tests = _read_tests(document, place, Places(text), found.faults)
            case "set":
                _read_set(document, place, Places(text), found)
            case _ if prefix and _is_file_of(name, ALIASES):
                message = f"{place}: aliases belong beside the folders of the sets"
                found.faults.append(Fault("unknown_format", message))
            case "aliases":
                pass  # ``read_set_folders`` reads it
            case _:
                _read_route(document, name, place, text, routes, found)
    found.routes = [routes[name] for name in sorted(routes)]
    if not any(suffix_of(name) in YAML_SUFFIXES for name in source.files) and not found.faults:
        found.faults.append(Fault("file_empty", f"{prefix or 'the folder'} has no route files"))
    return found


def _stem(name: str) -> str:
    return name.removesuffix(suffix_of(name)) if suffix_of(name) else name


def _is_file_of(name: str, stem: str) -> bool:
    return suffix_of(name) in YAML_SUFFIXES and _stem(name) == stem


# --- routes ------------------------------------------------------------------------------


def _read_route(
    document: Any, name: str, place: str, text: str, routes: dict[str, Route], found: RouteFolder
) -> None:
    if not isinstance(document, dict) or "routes" in document:
        what = "a file of a route folder is one route: an object with `name` and `utterances`"
        found.faults.append(Fault("unknown_format", f"{place}: {what}"))
        return
    if "vectors" in document:
        at = _at(Places(text), ("vectors",))
        found.faults.append(Fault("invalid_route", f"{place}{at}: vectors: is no key here"))
        return
    errors = explained(document, (), place, text)
    if errors:
        found.faults += [Fault("invalid_route", message) for message in errors]
        return
    route = read_route(document)
    if route.name in routes:
        first = found.files[route.name]
        message = f"{place}: the route {route.name!r} is already defined in {first}"
        found.faults.append(Fault("duplicate_route", message))
        return
    routes[route.name] = route
    found.files[route.name] = name


# --- settings ------------------------------------------------------------------------------


def settings_document(settings: RouteSetSettings) -> dict[str, Any]:
    """All settings by name, those at their defaults included."""
    document = settings.model_dump(mode="json")
    return {
        name: document.get(name, getattr(settings, name)) for name in RouteSetSettings.model_fields
    }


def default_settings() -> dict[str, Any]:
    """The settings of a new set, by name."""
    given = Settings()
    return settings_document(
        RouteSetSettings(
            aggregation=given.aggregation,
            topk=given.topk,
            threshold=given.threshold,
            capacity_slots=given.capacity_slots,
        )
    )


def _read_settings(
    document: Any, place: str, places: Places, faults: list[Fault]
) -> dict[str, Any] | None:
    if not isinstance(document, dict):
        faults.append(Fault("invalid_settings", f"{place}: must be an object of settings"))
        return None
    try:
        checked = RouteSetSettings.model_validate({**default_settings(), **document}, strict=True)
    except ValidationError as error:
        faults += _model_faults(error, "invalid_settings", place, places)
        return None
    known = settings_document(checked)
    return {name: known[name] for name in RouteSetSettings.model_fields if name in document}


def _model_faults(
    error: ValidationError, code: str, place: str, places: Places | None
) -> list[Fault]:
    locations = [each["loc"] for each in error.errors(include_url=False, include_context=False)]
    faults = []
    for each, location in zip(field_errors(error), locations, strict=False):
        named = f"{each['field']}: " if each["field"] else ""
        faults.append(Fault(code, f"{place}{_at(places, location)}: {named}{each['message']}"))
    return faults


def _at(places: Places | None, path: Sequence[str | int]) -> str:
    known = None if places is None else places.scalar_at(path)
    return "" if known is None else f", line {known[0]}, column {known[1]}"


# --- tests ---------------------------------------------------------------------------------


def read_tests(document: Any, place: str, text: str) -> dict[str, str | None]:
    """Read labelled queries: an object of texts and routes, or a list of such objects.

    Raises:
        FileRefused: ``invalid_test`` with every place, up to a limit.
    """
    faults: list[Fault] = []
    found = _read_tests(document, place, Places(text), faults)
    check_faults(faults)
    return found or {}


def _read_tests(
    document: Any, place: str, places: Places, faults: list[Fault]
) -> dict[str, str | None] | None:
    pairs: list[tuple[tuple[str | int, ...], Any, Any]] = []
    if isinstance(document, dict):
        pairs = [((key,), key, value) for key, value in document.items()]
    elif isinstance(document, list):
        for index, item in enumerate(document):
            if not isinstance(item, dict) or item.keys() != {"text", "route"}:
                at = _at(places, (index,))
                message = f"{place}{at}: a test has `text` and `route`, and nothing else"
                faults.append(Fault("invalid_test", message))
                continue
            pairs.append(((index,), item["text"], item["route"]))
    else:
        faults.append(Fault("invalid_test", f"{place}: must be an object of texts and routes"))
        return None
    tests: dict[str, str | None] = {}
    for path, given, route in pairs:
        if len(faults) >= FAULTS_PER_FILE_MAX:
            break
        try:
            key, value = _checked_test(given, route)
        except ValueError as error:
            faults.append(Fault("invalid_test", f"{place}{_at(places, path)}: {error}"))
            continue
        if key in tests:
            message = f"{place}{_at(places, path)}: the text {key[:60]!r} is already a test"
            faults.append(Fault("duplicate_test", message))
            continue
        tests[key] = value
    return tests


def _checked_test(text: Any, route: Any) -> tuple[str, str | None]:
    if not isinstance(text, str):
        raise ValueError(f"the text `{str(text)[:40]}` is read as {_kind(text)}: quote it")
    text = check_text(text, UTTERANCE_BYTES_MAX)
    if route is None or route == NO_ROUTE:
        return text, None
    if not isinstance(route, str):
        raise ValueError(f"the route `{str(route)[:40]}` is read as {_kind(route)}: quote it")
    return text, check_name(route)


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), "no text")


# --- sets and aliases ------------------------------------------------------------------------


class LimitsFile(BaseModel):
    """Limits of a set; 0 is no limit."""

    model_config = ConfigDict(extra="forbid", title="Limits")

    utterances_max: int = Field(default=0, ge=0, description="Utterances and negatives.")
    routes_max: int = Field(default=0, ge=0)
    bytes_max: int = Field(default=0, ge=0, description="Bytes of texts, payloads and metadata.")
    writes_per_second_max: int = Field(default=0, ge=0, description="At each node.")
    write_bytes_per_second_max: int = Field(default=0, ge=0, description="At each node.")


class SetFile(BaseModel):
    """The name and the limits of a set."""

    model_config = ConfigDict(extra="forbid", title="Route set")

    name: str | None = None
    limits: LimitsFile | None = None


class AliasFile(BaseModel):
    """An alias: the set that answers, and what is tried beside it."""

    model_config = ConfigDict(extra="forbid", title="Alias")

    set: str
    shadow: str | None = None
    shadow_share: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    canary: str | None = None
    canary_share: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)


def _read_set(document: Any, place: str, places: Places, found: RouteFolder) -> None:
    try:
        checked = SetFile.model_validate(document, strict=True)
    except ValidationError as error:
        found.faults += _model_faults(error, "invalid_set", place, places)
        return
    if checked.name is not None:
        found.name = normal_name(checked.name)
        if not is_set_name(found.name):
            message = f"{place}{_at(places, ('name',))}: {found.name[:60]!r} is not a set's name"
            found.faults.append(Fault("invalid_set", message))
    if checked.limits is not None:
        found.limits = SetLimits(**checked.limits.model_dump())


def _read_aliases(name: str, body: bytes, faults: list[Fault]) -> dict[str, AliasEntry] | None:
    try:
        text = decode(body)
        document = parse_yaml(text)
        places = Places(text)
    except FileRefused as error:
        faults.append(Fault(error.code, f"{name}: {error.message}"))
        return None
    if not isinstance(document, dict):
        faults.append(Fault("invalid_set", f"{name}: must be an object of aliases"))
        return None
    aliases: dict[str, AliasEntry] = {}
    for alias, item in document.items():
        at = _at(places, (alias,))
        if not isinstance(alias, str) or not is_set_name(normal_name(alias)):
            message = f"{name}{at}: {str(alias)[:60]!r} is not an alias's name"
            faults.append(Fault("invalid_set", message))
            continue
        try:
            checked = AliasFile.model_validate(item, strict=True)
        except ValidationError as error:
            faults += _model_faults(error, "invalid_set", f"{name}{at}", None)
            continue
        entry = AliasEntry(
            normal_name(checked.set),
            normal_name(checked.shadow or ""),
            checked.shadow_share,
            normal_name(checked.canary or ""),
            checked.canary_share,
        )
        if problem := _alias_problem(entry):
            faults.append(Fault("invalid_set", f"{name}{at}: {problem}"))
        aliases[normal_name(alias)] = entry
    return aliases


def _alias_problem(alias: AliasEntry) -> str:
    """Why a node would refuse an alias; empty if it would not for what the file says."""
    named = [alias.target, *filter(None, (alias.shadow, alias.canary))]
    if wrong := next((each for each in named if not is_set_name(each)), None):
        return f"{wrong[:60]!r} is not a set's name"
    if alias.target in named[1:]:
        return "it names its set twice"
    if (alias.shadow_share and not alias.shadow) or (alias.canary_share and not alias.canary):
        return "a share needs a set"
    return ""


def limits_document(limits: SetLimits) -> dict[str, int]:
    """The limits that are set, by name."""
    return {name: value for name, value in asdict(limits).items() if value}
