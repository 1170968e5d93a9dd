"""What routes, settings, tests and aliases were before and after entries of the log.

The states are computed from the frames of the op log, without vectors.  Entries are added newest
first, as the op log is read, until each state that is asked for follows from them: from an entry
that states a whole route, or from the beginning of the log.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from synaptoroute.change_models import SubjectKind
from synaptoroute.core.erasure import text_hash
from synaptoroute.core.imports import StagedKind, staged_kind
from synaptoroute.core.mutation import (
    DEFAULT_SET,
    FOUNDING_SETTINGS,
    AddUtterances,
    CommitPlan,
    DeleteAlias,
    DeleteRoute,
    DeleteSet,
    EraseTexts,
    ForkSet,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    PutAlias,
    PutRoute,
    PutSet,
    PutSettings,
    PutTests,
    RemoveUtterances,
    ReviseRoutes,
    SetLimits,
    Settings,
)

Fields: TypeAlias = dict[str, Any]
State: TypeAlias = dict[str, Any] | None
"""Fields of a route, of settings, of tests (route by text), of an alias or of a set; None for one
that does not exist."""

FOUNDING_LEVEL: Final = 3
SUBJECTS_MAX: Final = 100
"""Changes of one entry that are shown."""
_ROUTE_MUTATIONS: Final = (PutRoute, DeleteRoute, AddUtterances, RemoveUtterances, PatchRoute)
_COMMITS: Final = (ImportCommit, CommitPlan)
_NOT_SHOWN: Final = frozenset({"calibration"})


class Subject(NamedTuple):
    """Something that entries change."""

    kind: SubjectKind
    name: str  # Of the route, the alias or the set; empty for the settings or tests of a set
    route_set: str = DEFAULT_SET  # The set that it is in; for an alias or a set, its own name


@dataclass(slots=True)
class _Operation:
    """An entry without its vectors."""

    seq: int
    kind: type[Mutation]
    fields: Fields
    route_set: str
    # Routes of an import by name, joined from its chunks; None while they are not known
    routes: dict[str, Fields] | None = None
    is_replacing: bool = False  # Whether the import removes the routes that it does not name
    chunks: dict[int, list[Fields]] = field(default_factory=dict)

    @property
    def staged(self) -> StagedKind | None:
        return staged_kind(str(self.fields.get("import_id", "")))


class PastStates:
    """States between the entries that were added; they are added newest first."""

    def __init__(self) -> None:
        # Newest first: entries by what they change, those that may change anything in a set, and
        # those that may change anything.
        self._by_subject: dict[Subject, list[_Operation]] = {}
        self._by_set: dict[str, list[_Operation]] = {}
        self._of_all: list[_Operation] = []
        self._by_seq: dict[int, _Operation] = {}
        # Commits without the beginnings of their imports, by set and identity
        self._pending: dict[tuple[str, str], _Operation] = {}
        self._known: dict[tuple[Subject, int], State] = {}
        self._first_seq: int | None = None  # Of the oldest entry that was added

    def add(self, seq: int, kind: type[Mutation], fields: Fields, *, is_applied: bool) -> None:
        """Add the entry before those that were added."""
        self._first_seq = seq
        if not is_applied:
            return
        route_set = str(fields.get("route_set", "")) or DEFAULT_SET
        operation = _Operation(seq, kind, fields, route_set)
        if kind is ImportChunk or kind is ImportBegin:
            self._add_part(operation)
            return
        self._by_seq[seq] = operation
        if kind in _COMMITS:
            self._pending[route_set, str(fields["import_id"])] = operation
            self._by_set.setdefault(route_set, []).append(operation)
        elif kind is DeleteSet or kind is ForkSet:
            name = fields["name"] if kind is DeleteSet else fields["into"]
            self._by_set.setdefault(name, []).append(operation)
        elif kind is EraseTexts or kind is OpenEpoch:
            self._of_all.append(operation)
        for subject in _subjects(operation):
            if subject.kind != "set" or kind is PutSet:
                self._by_subject.setdefault(subject, []).append(operation)

    def _add_part(self, part: _Operation) -> None:
        """Take in a chunk or the beginning of an import whose commit was added."""
        import_id = part.route_set, str(part.fields["import_id"])
        commit = self._pending.get(import_id)
        if commit is None:
            return
        if part.kind is ImportChunk:
            commit.chunks[int(part.fields["number"])] = part.fields["parts"]
            return
        commit.is_replacing = bool(part.fields.get("replace"))
        commit.routes = _joined(commit.chunks)
        commit.chunks = {}
        del self._pending[import_id]

    def continues_at(self, seq: int) -> bool:
        """Whether an entry is the one before those that were added."""
        return self._first_seq is None or self._first_seq == seq + 1

    def is_known(self, seq: int) -> bool:
        """Whether everything that an entry changed is known before and after it."""
        if seq not in self._by_seq:
            return True
        subjects = self.subjects_of(seq)
        try:
            for subject in () if subjects is None else subjects[:SUBJECTS_MAX]:
                self.before(subject, seq)
        except LookupError:
            return False
        return subjects is not None

    @property
    def is_complete(self) -> bool:
        """Whether the beginning of the log was added."""
        return self._first_seq == 1

    def subjects_of(self, seq: int) -> list[Subject] | None:
        """Changes that an entry made, in order of name; None if they are not known."""
        operation = self._by_seq.get(seq)
        if operation is None:
            return []
        if operation.kind in _COMMITS:
            if operation.routes is None:
                return None
            names = {*operation.routes, *operation.fields.get("removed", ())}
            if operation.is_replacing:
                names |= self._names_before(operation.route_set, seq)
            routes = [Subject("route", name, operation.route_set) for name in sorted(names)]
            return routes + list(_subjects(operation))
        return list(_subjects(operation))

    def before(self, subject: Subject, seq: int) -> State:
        """The state before an entry.

        Raises:
            LookupError: It does not follow from the entries that were added.
        """
        chain: list[tuple[Subject, _Operation]] = []
        state: State = None
        while True:
            operation = self._last(subject, seq)
            if operation is None:
                if not self.is_complete:
                    raise LookupError(f"what {subject.name!r} was is not kept any more")
                state = _at_first(subject)
                break
            seq = operation.seq
            if (subject, seq) in self._known:
                state = self._known[subject, seq]
                break
            effect = _effect_of(operation, subject)
            if isinstance(effect, Subject):  # a copy of that one
                subject = effect
                continue
            chain.append((subject, operation))
            if effect == _WHOLE:
                break
        for each, operation in reversed(chain):
            state = _applied(operation, each, state)
            self._known[each, operation.seq] = state
        return state

    def after(self, subject: Subject, seq: int) -> State:
        """The state after an entry; see ``before``."""
        return self.before(subject, seq + 1)

    def _last(self, subject: Subject, seq: int) -> _Operation | None:
        """The newest entry before a place that concerns a subject."""
        newest: _Operation | None = None
        for operations in (
            self._by_subject.get(subject, ()),
            self._by_set.get(subject.route_set, ()),
            self._of_all,
        ):
            for operation in operations[_first_before(operations, seq) :]:
                if newest is not None and operation.seq <= newest.seq:
                    break
                if _effect_of(operation, subject) is not None:
                    newest = operation
                    break
        return newest

    def _names_before(self, route_set: str, seq: int) -> set[str]:
        """Routes that existed before an entry, as far as the entries show."""
        named = {
            each.name
            for each in self._by_subject
            if each.kind == "route" and each.route_set == route_set
        }
        for operation in self._by_set.get(route_set, ()):
            named |= set(operation.routes or ())
        found = set()
        for name in named:
            try:
                if self.before(Subject("route", name, route_set), seq) is not None:
                    found.add(name)
            except LookupError:
                found.add(name)
        return found


# --- effects of an entry on one subject ----------------------------------------------------

_WHOLE: Final = "whole"  # The entry states the whole subject
_PART: Final = "part"  # The entry changes what was there before
_Effect: TypeAlias = Subject | str | None


def _first_before(operations: Sequence[_Operation], seq: int) -> int:
    """Index of the first entry before a place; they are in descending order."""
    return bisect_left(operations, -seq + 1, key=lambda each: -each.seq)


def _subjects(operation: _Operation) -> Iterator[Subject]:
    """Changes that an entry makes, without those of an import."""
    fields, route_set = operation.fields, operation.route_set
    kind = operation.kind
    if kind in _ROUTE_MUTATIONS:
        yield Subject("route", fields["name"], route_set)
    elif kind is ReviseRoutes:
        for each in fields["routes"]:
            yield Subject("route", each["name"], route_set)
        if "settings" in fields:
            yield Subject("settings", "", route_set)
    elif kind is CommitPlan:
        if "settings" in fields:
            yield Subject("settings", "", route_set)
        if fields["tests"] or fields["tests_removed"]:
            yield Subject("tests", "", route_set)
    elif kind is PutSettings:
        yield Subject("settings", "", route_set)
    elif kind is PutTests:
        yield Subject("tests", "", route_set)
    elif kind is PutAlias or kind is DeleteAlias:
        yield Subject("alias", fields["name"], fields["name"])
    elif kind is PutSet or kind is DeleteSet:
        yield Subject("set", fields["name"], fields["name"])
    elif kind is ForkSet:
        yield Subject("set", fields["into"], fields["into"])


def _effect_of(operation: _Operation, subject: Subject) -> _Effect:
    """How an entry concerns a subject; a subject that it is a copy of from here on."""
    kind, fields = operation.kind, operation.fields
    is_content = subject.kind in ("route", "settings", "tests")
    if kind is EraseTexts:
        return _PART if subject.kind in ("route", "tests") else None
    if kind is DeleteSet and fields["name"] == subject.route_set and subject.kind != "alias":
        return _WHOLE
    if kind is ForkSet and fields["into"] == subject.route_set and subject.kind != "alias":
        copied = subject.name if is_content else fields["name"]
        return Subject(subject.kind, copied, fields["name"])
    if kind is OpenEpoch:
        is_founding = fields.get("base_seq") == 0 and fields.get("level", 1) >= FOUNDING_LEVEL
        is_default = subject == Subject("settings", "", DEFAULT_SET)
        return _WHOLE if is_founding and is_default else None
    if kind in _COMMITS and subject.kind == "route":
        return _import_effect(operation, subject)
    if subject not in _subjects(operation):
        return None
    if subject.kind == "tests":
        return _WHOLE if fields.get("replace") else _PART
    if kind is PutSet:
        is_complete = fields["limits"].keys() >= SetLimits.__dataclass_fields__.keys()
        return _WHOLE if is_complete else _PART
    is_part = kind in (AddUtterances, RemoveUtterances, PatchRoute, ReviseRoutes)
    return _PART if is_part and subject.kind == "route" else _WHOLE


def _import_effect(operation: _Operation, subject: Subject) -> _Effect:
    if subject.route_set != operation.route_set:
        return None
    if subject.name in operation.fields.get("removed", ()):
        return _WHOLE
    if operation.routes is None:
        return _PART
    if subject.name not in operation.routes:
        return _WHOLE if operation.is_replacing else None
    return _WHOLE if operation.staged in (None, StagedKind.PUT) else _PART


def _applied(operation: _Operation, subject: Subject, state: State) -> State:
    """The state of a subject after an entry that concerns it."""
    kind, fields = operation.kind, operation.fields
    if kind in (DeleteSet, DeleteAlias, DeleteRoute):
        return None
    if kind is EraseTexts:
        return _erased(subject, state, frozenset(fields["hashes"]))
    if kind is OpenEpoch:
        return settings_of(FOUNDING_SETTINGS)
    if kind in _COMMITS and subject.kind == "route":
        return _imported(operation, subject, state)
    change = _CHANGES.get(kind)
    return state if change is None else change(fields, subject, state)


def _imported(operation: _Operation, subject: Subject, state: State) -> State:
    if subject.name in operation.fields.get("removed", ()):
        return None
    if operation.routes is None:
        raise LookupError("the chunks of an import are not kept any more")
    given = operation.routes.get(subject.name)
    if given is None:
        return None
    match operation.staged:
        case StagedKind.ADD:
            return _added(given, subject, state)
        case StagedKind.REMOVE:
            return _removed(given, subject, state)
        case _:
            return _put(given, subject, state)


def _put(fields: Fields, _subject: Subject, _state: State) -> State:
    return {
        "utterances": list(fields["utterances"]),
        "threshold": fields.get("threshold"),
        "confidence_min": fields.get("confidence_min"),
        "description": fields.get("description"),
        "negatives": list(fields.get("negatives", ())),
        "metadata": json.loads(fields.get("metadata", "{}")),
        "payload": json.loads(fields.get("payload", "null")),
    }


def _added(fields: Fields, _subject: Subject, state: State) -> State:
    if state is None:
        return None
    texts = dict.fromkeys((*state["utterances"], *fields["utterances"]))
    return {**state, "utterances": list(texts)}


def _removed(fields: Fields, _subject: Subject, state: State) -> State:
    if state is None:
        return None
    gone = set(fields["utterances"])
    return {**state, "utterances": [text for text in state["utterances"] if text not in gone]}


def _patched(fields: Fields, _subject: Subject, state: State) -> State:
    if state is None:
        return None
    changed = {
        name: value
        for name, value in fields.items()
        if name in ("threshold", "confidence_min", "description", "negatives")
    }
    for name in ("metadata", "payload"):
        if name in fields:
            changed[name] = json.loads(fields[name])
    return {**state, **changed}


def _revised(fields: Fields, subject: Subject, state: State) -> State:
    if subject.kind == "settings":
        return _settings(fields["settings"], subject, state)
    given = next(each for each in fields["routes"] if each["name"] == subject.name)
    is_new = bool(given.get("is_new"))
    found = _put(given, subject, None) if is_new else _added(given, subject, state)
    if found is None:
        return None
    for name in ("threshold", "confidence_min"):
        if name in given:
            found[name] = given[name]
    known = [] if is_new else found["negatives"]
    found["negatives"] = list(dict.fromkeys((*known, *given.get("negatives", ()))))
    return found


def _settings(fields: Fields, _subject: Subject, _state: State) -> State:
    shown = settings_of(Settings())
    assert shown is not None
    return {name: _setting(name, fields.get(name, default)) for name, default in shown.items()}


def _setting(name: str, value: Any) -> Any:
    if name == "feedback" and isinstance(value, str):
        return json.loads(value) if value else None
    return value


def settings_of(settings: Settings) -> State:
    """The settings of a route set as the history shows them."""
    return {
        name: _setting(name, list(value) if isinstance(value, tuple) else value)
        for name in Settings.__dataclass_fields__
        if name not in _NOT_SHOWN
        for value in (getattr(settings, name),)
    }


def _tested(fields: Fields, _subject: Subject, state: State) -> State:
    kept = {} if fields["replace"] or state is None else dict(state)
    for text in fields["removed"]:
        kept.pop(text, None)
    return {**kept, **dict(fields["tests"])}


def _committed(fields: Fields, subject: Subject, state: State) -> State:
    """Settings or tests after the commit of a plan; its routes are those of an import."""
    if subject.kind == "settings":
        return _settings(fields["settings"], subject, state)
    changed = {"replace": False, "removed": fields["tests_removed"], "tests": fields["tests"]}
    return _tested(changed, subject, state)


def _aliased(fields: Fields, _subject: Subject, _state: State) -> State:
    shown = ("target", "shadow", "shadow_share", "canary", "canary_share")
    return {name: fields[name] for name in shown}


def _limited(fields: Fields, _subject: Subject, state: State) -> State:
    stored = dict.fromkeys(SetLimits.__dataclass_fields__, 0) if state is None else state["limits"]
    return {"limits": {**stored, **fields["limits"]}}


def _erased(subject: Subject, state: State, hashes: frozenset[str]) -> State:
    if state is None:
        return None
    if subject.kind == "tests":
        return {text: route for text, route in state.items() if text_hash(text) not in hashes}
    kept: Fields = dict(state)
    for name in ("utterances", "negatives"):
        kept[name] = [text for text in state[name] if text_hash(text) not in hashes]
    if kept["description"] is not None and text_hash(kept["description"]) in hashes:
        kept["description"] = None
    return kept if kept["utterances"] else None


def _joined(chunks: dict[int, list[Fields]]) -> dict[str, Fields]:
    """Join the parts of each route of an import."""
    found: dict[str, Fields] = {}
    for _, parts in sorted(chunks.items()):
        for part in parts:
            known = found.get(part["name"])
            if known is None:
                found[part["name"]] = dict(part)
                continue
            for name in ("utterances", "negatives"):
                if part.get(name):
                    known[name] = list(dict.fromkeys((*known.get(name, ()), *part[name])))
    return found


_CHANGES: Final[dict[type[Mutation], Callable[[Fields, Subject, State], State]]] = {
    PutRoute: _put,
    AddUtterances: _added,
    RemoveUtterances: _removed,
    PatchRoute: _patched,
    ReviseRoutes: _revised,
    PutSettings: _settings,
    PutTests: _tested,
    CommitPlan: _committed,
    PutAlias: _aliased,
    PutSet: _limited,
}


def _at_first(subject: Subject) -> State:
    """The state of a subject at the beginning of the log, or of its set."""
    if subject.kind == "tests":
        return {}
    if subject == Subject("set", DEFAULT_SET):
        return {"limits": asdict(SetLimits())}
    if subject.kind != "settings":
        return None
    return settings_of(Settings() if subject.route_set == DEFAULT_SET else FOUNDING_SETTINGS)
