"""Plans: what an apply of a route folder changes in a set.  Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from synaptoroute.core.mutation import SetLimits
from synaptoroute.importers.folder import (
    AliasEntry,
    Fault,
    RouteFolder,
    check_faults,
    limits_document,
)
from synaptoroute.models import Route, canonical_json

Action = Literal["create", "change", "delete"]
_VALUE_FIELDS: Final = ("description", "threshold", "confidence_min", "metadata", "payload")
PLAN_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class PresentSet:
    """A set as a node holds it.

    Attributes:
        exists: Whether the set is there; if not, everything else is empty.
        routes: By name.
        revisions: Of the routes, ``epoch.seq``, by name.
        settings: All of them, by name; empty before the first write, which founds a log with
            settings of its own.
        tests: Texts and their routes; None if the node keeps no tests.
        limits: Of the set; None if the node shows none.
    """

    exists: bool = True
    routes: Mapping[str, Route] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tests: Mapping[str, str | None] | None = field(default_factory=dict)
    limits: SetLimits | None = None


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A field, a setting or a limit with its value before and after."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class RouteChange:
    """The change of one route.

    Attributes:
        revision: That the plan saw; None for a route that is created.
        route: As it will be; None for one that is deleted.
    """

    name: str
    action: Action
    revision: str | None = None
    route: Route | None = None
    values: tuple[ValueChange, ...] = ()
    utterances_added: tuple[str, ...] = ()
    utterances_removed: tuple[str, ...] = ()
    negatives_added: tuple[str, ...] = ()
    negatives_removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TestChanges:
    """Tests to put and to remove; ``changed`` are those of ``put`` that exist."""

    put: Mapping[str, str | None] = field(default_factory=dict)
    changed: Mapping[str, str | None] = field(default_factory=dict)  # with their routes before
    removed: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetPlan:
    """Everything that an apply changes in one set.

    Attributes:
        name: Of the set.
        creates_set: Whether the set is created.
        routes: Changes, in order of name.
        unchanged: Routes of the folder that are as it says.
        kept_routes: Routes that the folder does not have; a plan with ``prune`` deletes them.
        settings: Changes of settings.
        are_settings_known: Whether their values before are those of the node.
        tests: Changes of tests.
        kept_tests: Tests that the folder does not have; as for routes.
        limits: Changes of limits.
        limits_after: As they will be; None if none changes.
    """

    name: str
    creates_set: bool = False
    routes: tuple[RouteChange, ...] = ()
    unchanged: int = 0
    kept_routes: tuple[str, ...] = ()
    settings: tuple[ValueChange, ...] = ()
    are_settings_known: bool = True
    tests: TestChanges = field(default_factory=TestChanges)
    kept_tests: int = 0
    limits: tuple[ValueChange, ...] = ()
    limits_after: SetLimits | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.creates_set or self.limits or self.has_content)

    @property
    def has_content(self) -> bool:
        """Whether routes, settings or tests change."""
        return any((self.routes, self.settings, self.tests.put, self.tests.removed))

    def counts(self) -> dict[str, int]:
        """How many routes and tests are created, changed and deleted."""
        actions = [change.action for change in self.routes]
        put, changed = len(self.tests.put), len(self.tests.changed)
        return {
            "create": actions.count("create"),
            "change": actions.count("change"),
            "delete": actions.count("delete"),
            "unchanged": self.unchanged,
            "settings": len(self.settings),
            "tests_create": put - changed,
            "tests_change": changed,
            "tests_delete": len(self.tests.removed),
        }

    def document(self) -> dict[str, Any]:
        """The plan for programs."""
        tests = [
            {"action": "change" if text in self.tests.changed else "create", "text": text}
            | ({"before": self.tests.changed[text]} if text in self.tests.changed else {})
            | {"route": route}
            for text, route in self.tests.put.items()
        ]
        tests += [
            {"action": "delete", "text": text, "route": route}
            for text, route in self.tests.removed.items()
        ]
        return {
            "version": PLAN_VERSION,
            "set": self.name,
            "create_set": self.creates_set,
            "summary": self.counts(),
            "routes": [_route_document(change) for change in self.routes],
            "kept_routes": list(self.kept_routes),
            "settings": [asdict(change) for change in self.settings],
            "tests": tests,
            "kept_tests": self.kept_tests,
            "limits": [asdict(change) for change in self.limits],
        }


def _route_document(change: RouteChange) -> dict[str, Any]:
    document: dict[str, Any] = {
        "route": change.name,
        "action": change.action,
        "revision": change.revision,
    }
    if change.values:
        document["values"] = [asdict(value) for value in change.values]
    for key in ("utterances", "negatives"):
        for kind in ("added", "removed"):
            if texts := getattr(change, f"{key}_{kind}"):
                document[f"{key}_{kind}"] = list(texts)
    return document


def plan_set(name: str, present: PresentSet, wanted: RouteFolder, *, prune: bool) -> SetPlan:
    """Compare a set with a folder.

    Args:
        name: Of the set.
        present: As the node holds it.
        wanted: The folder, without mistakes.
        prune: Whether routes and tests that the folder does not have are deleted.

    Raises:
        FileRefused: ``unknown_route``: a test names a route that will not be there.
    """
    files = {route.name: route for route in wanted.routes}
    compared = (_route_change(present, route) for route in wanted.routes)
    changes = [change for change in compared if change is not None]
    unchanged = len(files) - len(changes)
    others = sorted(present.routes.keys() - files.keys())
    if prune:
        changes += [_deletion(present, other) for other in others]
    changes.sort(key=lambda change: change.name)
    settings = _value_changes(present.settings, wanted.settings or {})
    tests = _test_changes(present.tests or {}, wanted.tests, prune=prune)
    _check_routes_of(wanted.tests or {}, files.keys() | (set() if prune else set(others)))
    kept_tests = 0
    if wanted.tests is not None and not prune:
        kept_tests = len((present.tests or {}).keys() - wanted.tests.keys())
    limits_before = limits_document(present.limits or SetLimits())
    limits_after = limits_document(wanted.limits) if wanted.limits is not None else limits_before
    limits = tuple(
        ValueChange(key, limits_before.get(key, 0), limits_after.get(key, 0))
        for key in sorted(limits_before.keys() | limits_after.keys())
        if limits_before.get(key, 0) != limits_after.get(key, 0)
    )
    return SetPlan(
        name=name,
        creates_set=not present.exists,
        routes=tuple(changes),
        unchanged=unchanged,
        kept_routes=() if prune else tuple(others),
        settings=settings,
        are_settings_known=bool(present.settings),
        tests=tests,
        kept_tests=kept_tests,
        limits=limits,
        limits_after=wanted.limits if limits else None,
    )


def _route_change(present: PresentSet, route: Route) -> RouteChange | None:
    """The change that makes a route as the folder has it; None if it is."""
    before = present.routes.get(route.name)
    if before is None:
        return _creation(route)
    values = _value_changes(_values(before), _values(route))
    added, removed = _text_changes(before.utterances, route.utterances)
    negatives_added, negatives_removed = _text_changes(before.negatives, route.negatives)
    if not (values or added or removed or negatives_added or negatives_removed):
        return None
    return RouteChange(
        name=route.name,
        action="change",
        revision=present.revisions.get(route.name),
        route=route,
        values=values,
        utterances_added=added,
        utterances_removed=removed,
        negatives_added=negatives_added,
        negatives_removed=negatives_removed,
    )


def _creation(route: Route) -> RouteChange:
    nothing: dict[str, Any] = dict.fromkeys(_VALUE_FIELDS)
    nothing["metadata"] = {}
    return RouteChange(
        name=route.name,
        action="create",
        route=route,
        values=_value_changes(nothing, _values(route)),
        utterances_added=tuple(route.utterances),
        negatives_added=tuple(route.negatives),
    )


def _deletion(present: PresentSet, name: str) -> RouteChange:
    route = present.routes[name]
    return RouteChange(
        name=name,
        action="delete",
        revision=present.revisions.get(name),
        utterances_removed=tuple(route.utterances),
        negatives_removed=tuple(route.negatives),
    )


def _values(route: Route) -> dict[str, Any]:
    return {name: getattr(route, name) for name in _VALUE_FIELDS}


def _value_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[ValueChange, ...]:
    return tuple(
        ValueChange(name, before.get(name), value)
        for name, value in after.items()
        if name not in before or not _is_same(before[name], value)
    )


def _is_same(before: Any, after: Any) -> bool:
    # 1 and 1.0 are one number for a limit, but not for a payload, and True is no number at all.
    if isinstance(before, float | int) and isinstance(after, float | int):
        return before == after and isinstance(before, bool) == isinstance(after, bool)
    return canonical_json(before, _ANY_BYTES) == canonical_json(after, _ANY_BYTES)


_ANY_BYTES: Final = 1 << 40


def _text_changes(
    before: Sequence[str], after: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts that are added and removed, in their order; the order of a list does not count."""
    old, new = set(before), set(after)
    return tuple(t for t in after if t not in old), tuple(t for t in before if t not in new)


def _test_changes(
    before: Mapping[str, str | None], after: Mapping[str, str | None] | None, *, prune: bool
) -> TestChanges:
    if after is None:
        return TestChanges()
    put = {
        text: after[text]
        for text in sorted(after)
        if text not in before or before[text] != after[text]
    }
    removed = sorted(before.keys() - after.keys()) if prune else []
    return TestChanges(
        put=put,
        changed={text: before[text] for text in put if text in before},
        removed={text: before[text] for text in removed},
    )


def _check_routes_of(tests: Mapping[str, str | None], names: Iterable[str]) -> None:
    known = set(names)
    faults = [
        Fault("unknown_route", f"the test {text[:60]!r} names the route {route!r}, which is not")
        for text, route in tests.items()
        if route is not None and route not in known
    ]
    faults = [Fault(each.code, f"{each.message} in the folder") for each in faults]
    check_faults(faults)


# --- showing ---------------------------------------------------------------------------

_TEXTS_SHOWN: Final = 20
_MARKS: Final[dict[str, str]] = {"create": "+", "change": "~", "delete": "-"}


def plan_lines(plan: SetPlan, *, texts_max: int = _TEXTS_SHOWN) -> Iterator[str]:
    """Lines for people; each begins with ``+``, ``-``, ``~`` or a space.

    Args:
        texts_max: Texts of a route to show.
    """
    if plan.creates_set:
        yield f"+ set {plan.name}"
    for limit in plan.limits:
        yield f"~ limit {limit.name}: {limit.before or 'none'} → {limit.after or 'none'}"
    for setting in plan.settings:
        yield f"~ setting {setting.name}: {_shown(setting.before)} → {_shown(setting.after)}"
    for change in plan.routes:
        yield f"{_MARKS[change.action]} route {change.name}"
        yield from _value_lines(change)
        signed = [
            *(("+", "", text) for text in change.utterances_added),
            *(("-", "", text) for text in change.utterances_removed),
            *(("+", "not ", text) for text in change.negatives_added),
            *(("-", "not ", text) for text in change.negatives_removed),
        ]
        for sign, kind, text in signed[:texts_max]:
            yield f"{sign}     {kind}{_shown(text)}"
        if len(signed) > texts_max:
            yield f"      and {len(signed) - texts_max} more texts"
    for number, (text, route) in enumerate(plan.tests.put.items()):
        if number == texts_max:
            yield f"  and {len(plan.tests.put) - texts_max} more tests"
            break
        mark = "~" if text in plan.tests.changed else "+"
        was = f" (was {plan.tests.changed[text] or '-'})" if mark == "~" else ""
        yield f"{mark} test {_shown(text)}: {route or '-'}{was}"
    for text in [*plan.tests.removed][:texts_max]:
        yield f"- test {_shown(text)}: {plan.tests.removed[text] or '-'}"
    if (more := len(plan.tests.removed) - texts_max) > 0:
        yield f"  and {more} more tests"


def _value_lines(change: RouteChange) -> Iterator[str]:
    for value in change.values:
        if change.action == "create":
            yield f"+     {value.name}: {_shown(value.after)}"
        else:
            yield f"~     {value.name}: {_shown(value.before)} → {_shown(value.after)}"


def _shown(value: Any) -> str:
    text = canonical_json(value, _ANY_BYTES)
    return text if len(text) <= 200 else f"{text[:199]}…"


def summary_line(plan: SetPlan) -> str:
    """The plan in one sentence."""
    if plan.is_empty:
        left = f"; {len(plan.kept_routes)} other routes stay" if plan.kept_routes else ""
        return f"set {plan.name}: nothing to do, {plan.unchanged} routes are up to date{left}"
    counts = plan.counts()
    parts = [
        f"routes: {counts['create']} to create, {counts['change']} to change, "
        f"{counts['delete']} to delete, {counts['unchanged']} unchanged"
    ]
    if counts["settings"]:
        parts.append(f"settings: {counts['settings']} to change")
    tests = [counts[f"tests_{action}"] for action in ("create", "change", "delete")]
    if any(tests):
        parts.append(f"tests: {tests[0]} to create, {tests[1]} to change, {tests[2]} to delete")
    if plan.kept_routes:
        parts.append(f"{len(plan.kept_routes)} other routes stay (--prune deletes them)")
    return f"set {plan.name}: " + "; ".join(parts)


# --- aliases -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AliasChangePlan:
    """An alias to create or to change; ``revision`` is the one that the plan saw."""

    name: str
    after: AliasEntry
    before: AliasEntry | None = None
    revision: str | None = None

    def document(self) -> dict[str, Any]:
        """The change for programs."""
        before = None if self.before is None else asdict(self.before)
        return {"alias": self.name, "before": before, "after": asdict(self.after)}

    def line(self) -> str:
        """The change for people."""
        if self.before is None:
            return f"+ alias {self.name}: {_alias_text(self.after)}"
        return f"~ alias {self.name}: {_alias_text(self.before)} → {_alias_text(self.after)}"


def _alias_text(alias: AliasEntry) -> str:
    parts = [alias.target]
    if alias.shadow:
        parts.append(f"shadow {alias.shadow} at {alias.shadow_share:g}")
    if alias.canary:
        parts.append(f"canary {alias.canary} at {alias.canary_share:g}")
    return ", ".join(parts)


def plan_aliases(
    present: Mapping[str, tuple[AliasEntry, str]], wanted: Mapping[str, AliasEntry]
) -> list[AliasChangePlan]:
    """Compare aliases; those that are not wanted stay."""
    found = []
    for name in sorted(wanted):
        before, revision = present.get(name, (None, None))
        if before != wanted[name]:
            found.append(AliasChangePlan(name, wanted[name], before, revision))
    return found
