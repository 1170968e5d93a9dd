"""What an import would change: two sets of routes, compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RouteDiff:
    """What importing would do.

    Attributes:
        created: Names of new routes.
        changed: What changes, by name of the route.
        unchanged: Names of routes that are the same already.
        removed: Names of routes that would go.
    """

    created: tuple[str, ...] = ()
    changed: tuple[tuple[str, str], ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether importing would change nothing."""
        return not (self.created or self.changed or self.removed)


def compare(
    present: Iterable[Mapping[str, Any]], wished: Iterable[Mapping[str, Any]], *, replace: bool
) -> RouteDiff:
    """Compare routes as they are with routes as they should be.

    Args:
        present: Routes of the node.
        wished: Routes of the file.
        replace: Whether routes that are not wished would be removed.
    """
    old, new = ({route["name"]: route for route in side} for side in (present, wished))
    created, changed, unchanged = [], [], []
    for name in sorted(new):
        if name not in old:
            created.append(name)
        elif what := _changes(old[name], new[name]):
            changed.append((name, what))
        else:
            unchanged.append(name)
    removed = sorted(old.keys() - new.keys()) if replace else []
    return RouteDiff(tuple(created), tuple(changed), tuple(unchanged), tuple(removed))


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Say what differs between two versions of a route; empty for nothing."""
    parts = []
    before, after = set(old["utterances"]), set(new["utterances"])
    if before != after:
        parts.append(f"utterances +{len(after - before)} −{len(before - after)}")
    elif list(old["utterances"]) != list(new["utterances"]):
        parts.append("order of utterances")
    if old.get("threshold") != new.get("threshold"):
        parts.append(f"threshold {_shown(old)} → {_shown(new)}")
    parts += [
        key for key in ("metadata", "payload") if (old.get(key) or None) != (new.get(key) or None)
    ]
    return ", ".join(parts)


def _shown(route: Mapping[str, Any]) -> str:
    threshold = route.get("threshold")
    return "default" if threshold is None else f"{threshold:g}"
