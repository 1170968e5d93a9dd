"""Plans what each mutation makes of one route, before rows are allocated."""

from __future__ import annotations

from collections.abc import Mapping

from synaptoroute.core.change import Rejection, RouteRecord
from synaptoroute.core.desired_route import DesiredRoute
from synaptoroute.core.digest import row_hash
from synaptoroute.core.mutation import (
    KEEP,
    AddUtterances,
    PatchRoute,
    PutRoute,
    RemoveUtterances,
    RouteRevision,
)
from synaptoroute.core.rows import RowKind, kind_of, owner_of
from synaptoroute.core.validation import NEGATIVES_MAX, check_apart


class RoutePlans:
    """Desired routes after mutations; reads the routes and row hashes of a table."""

    def __init__(self, routes: Mapping[str, RouteRecord], row_hashes: Mapping[int, bytes]) -> None:
        self.routes = routes
        self.row_hashes = row_hashes

    def existing(self, name: str) -> RouteRecord:
        """The route of a name.

        Raises:
            Rejection: There is none.
        """
        route = self.routes.get(name)
        if route is None:
            raise Rejection("route_not_found", f"no route is named {name!r}")
        return route

    def after_put(self, put: PutRoute) -> DesiredRoute:
        """The route that a put asks for; rows with the same text and vector are kept."""
        before = self.routes.get(put.name)
        desired = DesiredRoute(
            put.name, before, put.threshold, put.metadata, put.payload, put.confidence_min
        )
        self._want(desired, RowKind.UTTERANCE, put.utterances, put.vectors)
        if put.description is not None:
            self._want(desired, RowKind.DESCRIPTION, (put.description,), (put.description_vector,))
        if put.negatives:
            self._want(desired, RowKind.NEGATIVE, put.negatives, put.negative_vectors)
        return desired

    def _want(
        self,
        desired: DesiredRoute,
        kind: RowKind,
        texts: tuple[str, ...],
        vectors: tuple[bytes, ...],
    ) -> None:
        """Add rows of one kind to a route; those that it has already are kept."""
        before = desired.before
        if before is None:
            rows = zip(texts, vectors, strict=True)
            desired.added += [(kind, text, vector) for text, vector in rows]
            return
        owner = owner_of(before.route_id, kind)
        slot_of = {text: slot for slot, each, text in before.rows() if each == owner}
        for text, vector in zip(texts, vectors, strict=True):
            slot = slot_of.get(text)
            if slot is not None and row_hash(slot, owner, text, vector) == self.row_hashes[slot]:
                desired.kept[slot] = kind, text
            else:
                desired.added.append((kind, text, vector))

    def as_it_is(self, name: str) -> DesiredRoute:
        """The route as it is, to be changed further."""
        route = self.existing(name)
        kept = {slot: (kind_of(owner), text) for slot, owner, text in route.rows()}
        return DesiredRoute(
            name,
            route,
            route.threshold,
            route.metadata,
            route.payload,
            route.confidence_min,
            kept,
        )

    def after_add(self, add: AddUtterances) -> DesiredRoute:
        """The route with more utterances; those that it has stay."""
        desired = self.as_it_is(add.name)
        route = self.existing(add.name)
        check_apart(add.utterances, route.negatives)
        present = set(route.utterances)
        rows = zip(add.utterances, add.vectors, strict=True)
        desired.added = [
            (RowKind.UTTERANCE, text, vector) for text, vector in rows if text not in present
        ]
        return desired

    def after_remove(self, remove: RemoveUtterances) -> DesiredRoute:
        """The route without some utterances."""
        desired, route = self.as_it_is(remove.name), self.existing(remove.name)
        gone = set(remove.utterances)
        missing = gone.difference(route.utterances)
        if missing:
            first = min(missing)
            raise Rejection(
                "utterance_not_found", f"the route {remove.name!r} has no utterance '{first}'"
            )
        for slot, text in zip(route.slots, route.utterances, strict=True):
            if text in gone:
                del desired.kept[slot]
        if gone.issuperset(route.utterances):
            raise Rejection(
                "invalid_route", "the last utterance cannot be removed; delete the route"
            )
        return desired

    def after_patch(self, patch: PatchRoute) -> DesiredRoute:
        """The route with other fields."""
        desired = self.as_it_is(patch.name)
        if patch.threshold is not KEEP:
            desired.threshold = patch.threshold
        if patch.metadata is not KEEP:
            desired.metadata = patch.metadata
        if patch.payload is not KEEP:
            desired.payload = patch.payload
        if patch.confidence_min is not KEEP:
            desired.confidence_min = patch.confidence_min
        if patch.description is not KEEP:
            self._drop_rows(desired, RowKind.DESCRIPTION)
            if patch.description is not None:
                texts, vectors = (patch.description,), (patch.description_vector,)
                self._want(desired, RowKind.DESCRIPTION, texts, vectors)
        if patch.negatives is not KEEP:
            self._drop_rows(desired, RowKind.NEGATIVE)
            check_apart(self.existing(patch.name).utterances, patch.negatives)
            self._want(desired, RowKind.NEGATIVE, patch.negatives, patch.negative_vectors)
        return desired

    @staticmethod
    def _drop_rows(desired: DesiredRoute, kind: RowKind) -> None:
        desired.kept = {slot: row for slot, row in desired.kept.items() if row[0] is not kind}

    def after_revision(self, revision: RouteRevision) -> DesiredRoute:
        """The route after its part of a revision."""
        name, known = revision.name, self.routes.get(revision.name)
        current = known.revision if known else None
        if revision.is_new and known is not None:
            raise Rejection("precondition_failed", f"the route {name!r} exists", current)
        if revision.revision is not None and revision.revision != current:
            raise Rejection(
                "precondition_failed", f"the route {name!r} is not at {revision.revision}", current
            )
        if revision.is_new:
            desired = DesiredRoute(name, None, None, "{}", "null", None)
            self._want(desired, RowKind.UTTERANCE, revision.utterances, revision.vectors)
        else:
            rows = AddUtterances(name, revision.utterances, revision.vectors)
            desired = self.after_add(rows)
        if revision.threshold is not KEEP:
            desired.threshold = revision.threshold
        if revision.confidence_min is not KEEP:
            desired.confidence_min = revision.confidence_min
        if revision.negatives:
            self._add_negatives(desired, revision)
        return desired

    @staticmethod
    def _add_negatives(desired: DesiredRoute, revision: RouteRevision) -> None:
        """Add the negatives that a route does not have yet."""
        before = desired.before
        utterances = (*(before.utterances if before else ()), *revision.utterances)
        present = before.negatives if before else ()
        new = [
            (RowKind.NEGATIVE, text, vector)
            for text, vector in zip(revision.negatives, revision.negative_vectors, strict=True)
            if text not in present
        ]
        if len(present) + len(new) > NEGATIVES_MAX:
            raise Rejection("invalid_route", f"a route has at most {NEGATIVES_MAX} negatives")
        check_apart(utterances, revision.negatives)
        desired.added += new
