"""Previews: the effect of a revision of the routes, before it is applied.

The route set is copied twice at one position: as it is, and as it would be.  Both copies answer
the same texts: those of the caller, those of the review queue, and the routes' own utterances.
An utterance is judged by copies from which it is left out, or it would find itself.  Nothing is
written, and all of it runs on other threads, behind queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.core.change import FeedbackItem, RouteRecord
from synaptoroute.core.mutation import KEEP, Keep, Revision, Settings
from synaptoroute.decision import fit_decision
from synaptoroute.encoder import TextEncoder, Tokens
from synaptoroute.errors import InvalidRoute, PreconditionFailed, RouteNotFound, TooLarge
from synaptoroute.models import Match, Route
from synaptoroute.router.queries import make_query
from synaptoroute.scoring import QuerySpec, Scratch, rank, rule_of
from synaptoroute.serving.query import match_of
from synaptoroute.tensor import Tensor

ROWS_MAX: Final = 10_000
"""Larger route sets are not copied for a preview."""
JUDGED_MAX: Final = 600
"""Utterances that are judged; of more, an even choice."""
FOLDS_MAX: Final = 12
CHANGED_SHOWN_MAX: Final = 200
_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class RouteChange:
    """Changes of one route inside a revision.

    Attributes:
        name: The route.
        utterances: Texts to add; those that it has stay as they are.
        create: Create the route; it must not exist.
        revision: The route must have this revision; None for any.
        threshold: Its own threshold from now on.
        confidence_min: Its own least confidence from now on.
        negatives: Texts to add that must not get the route.
    """

    name: str
    utterances: tuple[str, ...] = ()
    create: bool = False
    revision: Revision | None = None
    threshold: float | Keep | None = KEEP
    confidence_min: float | Keep | None = KEEP
    negatives: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts that need a vector, in order."""
        return (*self.utterances, *self.negatives)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer to a text: its route, or none."""

    route: str | None
    best: str | None  # The best route, whether it matches or not
    score: float | None
    confidence: float | None


@dataclass(frozen=True, slots=True)
class JudgedText:
    """A text before and after a revision.

    Attributes:
        kind: ``text`` of the caller, ``feedback`` or ``utterance``.
        expected: The route that it belongs to, if ``is_labelled``; None for none.
    """

    text: str
    kind: str
    is_labelled: bool
    expected: str | None
    before: Judgement
    after: Judgement

    @property
    def is_changed(self) -> bool:
        return self.before.route != self.after.route


@dataclass(frozen=True, slots=True)
class RevisionEffect:
    """The effect of a revision.

    Attributes:
        version: ``epoch.seq`` of the route set that was copied.
        texts: Texts of the caller and of the review queue, all of them.
        utterances_changed: Utterances of the routes that would go elsewhere, the first ones.
        utterances: Utterances that were judged, each without itself.
        right_before: How many of these go to their own route now.
        right_after: How many would.
        labelled: Labelled texts of the caller and of the queue.
    """

    version: str
    texts: list[JudgedText]
    utterances_changed: list[JudgedText]
    utterances: int
    right_before: int
    right_after: int
    labelled: int
    labelled_right_before: int
    labelled_right_after: int


@dataclass(slots=True)
class RouteSet:
    """A copy of a route set: records by name, and the vectors of their slots."""

    settings: Settings
    version: str
    records: dict[str, RouteRecord]
    vectors: NDArray[np.float32]  # float32[n, dim]
    decision: bytes = b""  # The numbers behind the confidence
    row_of: dict[int, int] = field(default_factory=dict)  # Place in ``vectors`` by slot

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text of the caller."""

    text: str
    is_labelled: bool = False
    route: str | None = None


def copy_routes(tensor: Tensor) -> RouteSet:
    """Copy a route set; runs between two batches.

    Raises:
        TooLarge: It has more than ``ROWS_MAX`` rows.
    """
    if tensor.slots_used > ROWS_MAX:
        raise TooLarge(f"a preview copies at most {ROWS_MAX} utterances", limit=ROWS_MAX)
    slots = sorted(slot for record in tensor.routes.values() for slot in rows_of(record))
    vectors = tensor.vectors_of(np.asarray(slots, np.int64))
    row_of = {slot: row for row, slot in enumerate(slots)}
    records = dict(tensor.routes)
    return RouteSet(
        tensor.settings, str(tensor.revision), records, vectors, tensor.decision, row_of
    )


def rows_of(record: RouteRecord) -> tuple[int, ...]:
    """All slots of a route, of every kind."""
    return tuple(slot for slot, _, _ in record.rows())


def revised(
    routes: RouteSet, changes: Sequence[RouteChange], vectors: NDArray[np.float32]
) -> RouteSet:
    """Apply changes to a copy.

    Args:
        vectors: float32[n, dim] of all texts of the changes, in order.

    Raises:
        RouteNotFound: A route does not exist.
        PreconditionFailed: A route exists, or has another revision.
        InvalidRoute: A text would be an utterance and a negative of one route.
    """
    records, rows = dict(routes.records), iter(vectors)
    row_of = dict(routes.row_of)
    added: list[NDArray[np.float32]] = []
    next_slot = max(row_of, default=-1) + 1
    next_id = max((each.route_id for each in records.values()), default=-1) + 1
    for change in changes:
        record = records.get(change.name)
        if record is None and not change.create:
            raise RouteNotFound(f"no route is named {change.name!r}")
        if record is not None and change.create:
            raise PreconditionFailed(f"the route {change.name!r} exists")
        if change.revision is not None and (record is None or record.revision != change.revision):
            raise PreconditionFailed(f"the route {change.name!r} is not at {change.revision}")
        if record is None:
            record = RouteRecord(next_id, change.name, (), (), None, "{}", "null", Revision(0, 0))
            next_id += 1
        known = {"": record.utterances, "negative_": record.negatives}
        for kind, texts in (("", change.utterances), ("negative_", change.negatives)):
            new: dict[int, str] = {}
            for text in texts:
                row = next(rows)
                if text not in known[kind]:
                    new[next_slot] = text
                    row_of[next_slot] = len(routes.vectors) + len(added)
                    added.append(row)
                    next_slot += 1
            record = _with_rows(record, kind, new)
        if not set(record.utterances).isdisjoint(record.negatives):
            both = min(set(record.utterances).intersection(record.negatives))
            raise InvalidRoute(f"{change.name}: '{both}' is an utterance and a negative")
        if change.threshold is not KEEP:
            record = record._replace(threshold=change.threshold)
        if change.confidence_min is not KEEP:
            record = record._replace(confidence_min=change.confidence_min)
        records[change.name] = record
    grown = np.concatenate([routes.vectors, np.array(added, np.float32).reshape(-1, routes.dim)])
    return replace(routes, records=records, vectors=grown, row_of=row_of)


def _with_rows(record: RouteRecord, kind: str, new: dict[int, str]) -> RouteRecord:
    """Add rows to a route: texts by slot."""
    if kind:
        return record._replace(
            negative_slots=(*record.negative_slots, *new),
            negatives=(*record.negatives, *new.values()),
        )
    return record._replace(
        slots=(*record.slots, *new), utterances=(*record.utterances, *new.values())
    )


def tensor_of(routes: RouteSet, left_out: frozenset[int] = frozenset()) -> Tensor:
    """Make a tensor of a route set without some slots; a route without rows is left out."""
    records = []
    for record in routes.records.values():
        if not left_out.isdisjoint(record.slots):
            kept = [each for each in zip(record.slots, record.utterances, strict=True)
                    if each[0] not in left_out]  # fmt: skip
            if not kept:
                continue
            slots, texts = zip(*kept, strict=True)
            record = record._replace(slots=slots, utterances=texts)
        records.append(record)
    used = sorted(slot for record in records for slot in rows_of(record))
    tensor = Tensor(routes.dim, routes.settings)
    vectors = routes.vectors[[routes.row_of[slot] for slot in used]]
    at = np.asarray(used, np.int64)
    tensor.load(at, vectors, records, routes.settings, Revision(1, 0), decision=routes.decision)
    return tensor


def judging_tensor(routes: RouteSet, gone: frozenset[int], fingerprint: str) -> Tensor:
    """Make a tensor without some slots, whose numbers were measured without them as well.

    With the numbers of the whole route set an utterance would be judged by what it taught.
    """
    if not routes.decision:
        return tensor_of(routes, gone)
    slots: list[int] = []
    owners: list[int] = []
    for number, record in enumerate(routes.records.values()):
        kept = [slot for slot in record.example_slots if slot not in gone]
        slots += kept
        owners += [number] * len(kept)
    found = fit_decision(
        routes.vectors[[routes.row_of[slot] for slot in slots]],
        np.asarray(owners, np.int64),
        routes.settings.aggregation,
        topk=routes.settings.topk,
        at=routes.version,
        fingerprint=fingerprint,
    )
    return tensor_of(replace(routes, decision=found.dump() if found else b""), gone)


def answer(
    tensor: Tensor,
    texts: Sequence[str],
    embeddings: NDArray[np.float32],
    fingerprint: str,
    tokens: Sequence[Tokens] = (),
    *,
    limit: int = 2,
    exact: bool = True,
) -> list[Match]:
    """Answer texts by a tensor, as a node would.

    Args:
        fingerprint: Of the encoder of the vectors.
        tokens: Of the texts; without them all texts are understood.
        limit: Candidates of each answer, at least 2.
        exact: Whether the same text in a route decides, whatever the vectors say.
    """
    scratch, rule = Scratch(), rule_of(tensor, fingerprint)
    found: list[Match] = []
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        queries = [make_query(text, {"limit": limit}, is_checked=True) for text in some]
        specs = [query.spec(tensor.routes) for query in queries]
        vectors = embeddings[start : start + len(some)]
        rankings = rank(tensor, vectors, specs, scratch, rule)
        for at, (query, ranking) in enumerate(zip(queries, rankings, strict=True), start):
            slots = tensor.texts.find(query.text) if exact else ()
            same = tensor.exact_match(query.text, slots, None)
            if same is not None:
                only = [QuerySpec(1, frozenset({same[0]}))]
                (ranking,) = rank(tensor, embeddings[at : at + 1], only, scratch)
                ranking = ranking._replace(best=ranking.top[0])
            own = tokens[at] if tokens else None
            slot = None if same is None else same[1]
            found.append(match_of(query, ranking, tensor, "", "", own, slot))
    return found


def with_route(
    routes: RouteSet, name: str, route: Route | None, vectors: NDArray[np.float32]
) -> RouteSet:
    """Put a route into a copy, or delete it there.

    Args:
        route: None to delete the route ``name``.
        vectors: float32[n, dim] of the route's texts, in the order of ``texts_of``.
    """
    records, row_of = dict(routes.records), dict(routes.row_of)
    known = records.pop(name, None)
    if route is None:
        return replace(routes, records=records)
    first = max(row_of, default=-1) + 1
    slots = range(first, first + len(vectors))
    row_of.update({slot: len(routes.vectors) + at for at, slot in enumerate(slots)})
    count, described = len(route.utterances), route.description is not None
    next_id = max((each.route_id for each in routes.records.values()), default=-1) + 1
    records[name] = RouteRecord(
        next_id if known is None else known.route_id,
        name,
        tuple(slots[:count]),
        tuple(route.utterances),
        route.threshold,
        "{}",
        "null",
        Revision(0, 0),
        route.confidence_min,
        route.description,
        slots[count] if described else None,
        tuple(route.negatives),
        tuple(slots[count + described :]),
    )
    grown = np.concatenate([routes.vectors, vectors.reshape(-1, routes.dim)])
    return replace(routes, records=records, vectors=grown, row_of=row_of)


def judgement_of(match: Match) -> Judgement:
    best = match.candidates[0].route if match.candidates else match.route
    return Judgement(match.route, best, match.score, getattr(match, "confidence", None))


def effect_of(
    encoder: TextEncoder,
    before: RouteSet,
    changes: Sequence[RouteChange],
    change_vectors: NDArray[np.float32],
    texts: Sequence[LabelledText],
    feedback: Sequence[FeedbackItem],
    read: Mapping[str, str],
) -> RevisionEffect:
    """Compare a route set with what a revision would make of it; takes seconds.

    Args:
        read: How the node reads each of the texts before it encodes them.
    """
    after = revised(before, changes, change_vectors)
    asked = [*texts, *(LabelledText(each.text, True, each.route) for each in feedback if each.text)]
    kinds = ["text"] * len(texts) + ["feedback"] * (len(asked) - len(texts))
    given = _judge_given(encoder, before, after, asked, kinds, read)
    own = judge_utterances(before, after, encoder.fingerprint)
    labelled = [each for each in given if each.is_labelled]
    return RevisionEffect(
        version=before.version,
        texts=given,
        utterances_changed=[each for each in own if each.is_changed][:CHANGED_SHOWN_MAX],
        utterances=len(own),
        right_before=sum(each.before.route == each.expected for each in own),
        right_after=sum(each.after.route == each.expected for each in own),
        labelled=len(labelled),
        labelled_right_before=sum(each.before.route == each.expected for each in labelled),
        labelled_right_after=sum(each.after.route == each.expected for each in labelled),
    )


def _judge_given(
    encoder: TextEncoder,
    before: RouteSet,
    after: RouteSet,
    asked: Sequence[LabelledText],
    kinds: Sequence[str],
    read: Mapping[str, str],
) -> list[JudgedText]:
    if not asked:
        return []
    texts = [each.text for each in asked]
    embeddings, tokens = encoded(encoder, [read.get(text, text) for text in texts])
    was = answer(tensor_of(before), texts, embeddings, encoder.fingerprint, tokens)
    then = answer(tensor_of(after), texts, embeddings, encoder.fingerprint, tokens)
    return [
        JudgedText(
            each.text, kind, each.is_labelled, each.route, judgement_of(one), judgement_of(two)
        )
        for each, kind, one, two in zip(asked, kinds, was, then, strict=True)
    ]


def encoded(encoder: TextEncoder, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[Tokens]]:
    """Encode queries: float32[n, dim], and their tokens."""
    tokens = encoder.tokenize(texts)
    parts = [
        encoder.encode_tokens(tokens[start : start + _AT_ONCE])
        for start in range(0, len(texts), _AT_ONCE)
    ]
    return np.concatenate(parts), tokens


def judge_utterances(before: RouteSet, after: RouteSet, fingerprint: str) -> list[JudgedText]:
    """Judge utterances that are in both route sets, each by copies without it.

    With the utterance, those of other routes with the same place in their route are left out.
    """
    chosen = choose_utterances(before)
    folds = folds_of(before)
    found: list[JudgedText] = []
    for fold in range(folds):
        own = [each for each in chosen if each[3] % folds == fold]
        if not own:
            continue
        slots = [slot for _, slot, _, _ in own]
        gone = left_out(before, folds, fold)
        texts = [text for _, _, text, _ in own]
        embeddings = before.vectors[[before.row_of[slot] for slot in slots]]
        one, two = (judging_tensor(each, gone, fingerprint) for each in (before, after))
        was = answer(one, texts, embeddings, fingerprint)
        then = answer(two, texts, embeddings, fingerprint)
        found += [
            JudgedText(text, "utterance", True, name, judgement_of(now), judgement_of(new))
            for (name, _, text, _), now, new in zip(own, was, then, strict=True)
        ]
    return found


def folds_of(routes: RouteSet) -> int:
    """Into how many parts utterances are divided; 0 for an empty route set."""
    return min(FOLDS_MAX, max((len(each.slots) for each in routes.records.values()), default=0))


def left_out(routes: RouteSet, folds: int, fold: int) -> frozenset[int]:
    """Slots of the utterances of a part, of routes that keep others."""
    return frozenset(
        slot
        for record in routes.records.values()
        if len(record.slots) > 1
        for place, slot in enumerate(record.slots)
        if place % folds == fold
    )


def choose_utterances(routes: RouteSet) -> list[tuple[str, int, str, int]]:
    """Choose utterances of routes that have several: name, slot, text and place."""
    able = [
        (name, slot, text, place)
        for name, record in sorted(routes.records.items())
        if len(record.slots) > 1
        for place, (slot, text) in enumerate(zip(record.slots, record.utterances, strict=True))
    ]
    if len(able) <= JUDGED_MAX:
        return able
    return [able[index * len(able) // JUDGED_MAX] for index in range(JUDGED_MAX)]
