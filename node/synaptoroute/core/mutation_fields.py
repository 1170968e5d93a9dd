"""Fields and vectors of each kind of mutation, as frames hold them.

Each kind has one writer and one reader: fields that become canonical JSON, and the vectors beside
them.  The number of a kind is permanent, because logs and databases contain it: numbers are added,
never changed or reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from synaptoroute.core.field_values import (
    Fields,
    Kind,
    Reader,
    Vectors,
    Writer,
    equally_long,
    plain_kind,
    read_count,
    read_flag,
    read_number,
    read_revision,
    read_text,
    read_texts,
    split_rows,
    write_number,
)
from synaptoroute.core.levels import BASE_LEVEL
from synaptoroute.core.mutation import (
    AGGREGATIONS,
    DEFAULT_UNMATCHED_SHARE,
    KEEP,
    AddUtterances,
    Audit,
    Calibrate,
    CalibrateDecision,
    CommitPlan,
    DeleteRoute,
    Finalize,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Keep,
    Mutation,
    OpenEpoch,
    PatchRoute,
    PutFeedback,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    ReviseRoutes,
    RouteRevision,
    Settings,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.set_fields import SET_KINDS, read_test_list

DIM_MAX: Final = 65_536


def _rows(routes: Iterable[PutRoute | AddUtterances]) -> Vectors:
    vectors: Vectors = []
    for route in routes:
        if len(route.vectors) != len(route.utterances):
            raise ValueError("one vector an utterance is needed")
        vectors.extend(route.vectors)
        if isinstance(route, PutRoute) and (route.description is not None or route.negatives):
            vectors += _extra_vectors(route.description, route.negatives, route)
    return equally_long(vectors)


def _extra_vectors(
    description: str | None, negatives: tuple[str, ...], held: PutRoute | PatchRoute
) -> Vectors:
    """Vectors of a description and of negatives, in this order."""
    if bool(held.description_vector) != (description is not None):
        raise ValueError("a description has one vector")
    if len(held.negative_vectors) != len(negatives):
        raise ValueError("one vector a negative is needed")
    return [held.description_vector] * (description is not None) + [*held.negative_vectors]


def _route_fields(route: PutRoute) -> Fields:
    fields: Fields = {"name": route.name, "utterances": list(route.utterances)}
    if route.threshold is not None:
        fields["threshold"] = write_number(route.threshold)
    if route.metadata != "{}":
        fields["metadata"] = route.metadata
    if route.payload != "null":
        fields["payload"] = route.payload
    if route.confidence_min is not None:
        fields["confidence_min"] = write_number(route.confidence_min)
    if route.description is not None:
        fields["description"] = route.description
    if route.negatives:
        fields["negatives"] = list(route.negatives)
    return fields


def _row_counts(fields: Mapping[str, Any]) -> tuple[int, int, int]:
    """Utterances, descriptions and negatives of a route, in the order of their vectors."""
    has_description = fields.get("description") is not None
    return len(fields["utterances"]), int(has_description), len(fields.get("negatives", ()))


def _route_of(fields: Mapping[str, Any], vectors: tuple[bytes, ...]) -> PutRoute:
    description = fields.get("description")
    count, described, _ = _row_counts(fields)
    return PutRoute(
        name=read_text(fields["name"]),
        utterances=read_texts(fields["utterances"]),
        vectors=vectors[:count],
        threshold=read_number(fields.get("threshold")),
        metadata=read_text(fields.get("metadata", "{}")),
        payload=read_text(fields.get("payload", "null")),
        confidence_min=read_number(fields.get("confidence_min")),
        description=None if description is None else read_text(description),
        description_vector=vectors[count] if described else b"",
        negatives=read_texts(fields.get("negatives", [])),
        negative_vectors=vectors[count + described :],
    )


def _write_put(route: PutRoute) -> tuple[Fields, Vectors]:
    return _route_fields(route), _rows([route])


def _read_put(fields: Fields, vectors: bytes) -> PutRoute:
    return _route_of(fields, split_rows(vectors, sum(_row_counts(fields))))


def _write_add(add: AddUtterances) -> tuple[Fields, Vectors]:
    return {"name": add.name, "utterances": list(add.utterances)}, _rows([add])


def _read_add(fields: Fields, vectors: bytes) -> AddUtterances:
    texts = read_texts(fields["utterances"])
    return AddUtterances(read_text(fields["name"]), texts, split_rows(vectors, len(texts)))


def _write_patch(patch: PatchRoute) -> tuple[Fields, Vectors]:
    fields: Fields = {"name": patch.name}
    if patch.threshold is not KEEP:
        fields["threshold"] = write_number(patch.threshold)
    if patch.metadata is not KEEP:
        fields["metadata"] = patch.metadata
    if patch.payload is not KEEP:
        fields["payload"] = patch.payload
    if patch.confidence_min is not KEEP:
        fields["confidence_min"] = write_number(patch.confidence_min)
    if patch.description is not KEEP:
        fields["description"] = patch.description
    if patch.negatives is not KEEP:
        fields["negatives"] = list(patch.negatives)
    description = None if patch.description is KEEP else patch.description
    negatives = () if patch.negatives is KEEP else patch.negatives
    return fields, equally_long(_extra_vectors(description, negatives, patch))


def _read_patch(fields: Fields, vectors: bytes) -> PatchRoute:
    description: str | Keep | None = KEEP
    if "description" in fields:
        text = fields["description"]
        description = None if text is None else read_text(text)
    described = isinstance(description, str)
    negatives = read_texts(fields["negatives"]) if "negatives" in fields else KEEP
    rows = split_rows(vectors, described + len(() if negatives is KEEP else negatives))
    return PatchRoute(
        name=read_text(fields["name"]),
        threshold=_number_or_keep(fields, "threshold"),
        metadata=read_text(fields["metadata"]) if "metadata" in fields else KEEP,
        payload=read_text(fields["payload"]) if "payload" in fields else KEEP,
        confidence_min=_number_or_keep(fields, "confidence_min"),
        description=description,
        description_vector=rows[0] if described else b"",
        negatives=negatives,
        negative_vectors=rows[described:],
    )


def _number_or_keep(fields: Fields, name: str) -> float | Keep | None:
    return read_number(fields[name]) if name in fields else KEEP


def _write_settings(put: PutSettings) -> tuple[Fields, Vectors]:
    settings = put.settings
    fields: Fields = {
        "aggregation": settings.aggregation,
        "topk": settings.topk,
        "threshold": write_number(settings.threshold),
        "capacity_slots": settings.capacity_slots,
    }
    if settings.cascade != "auto":  # omitted where older releases, which do not know it, are off
        fields["cascade"] = settings.cascade
    if settings.calibration:
        fields["calibration"] = settings.calibration
    if settings.feedback:
        fields["feedback"] = settings.feedback
    if settings.confidence_min is not None:
        fields["confidence_min"] = write_number(settings.confidence_min)
    if settings.expected_unmatched_share != DEFAULT_UNMATCHED_SHARE:
        fields["expected_unmatched_share"] = write_number(settings.expected_unmatched_share)
    if settings.ignore:
        fields["ignore"] = list(settings.ignore)
    if settings.repair_words:
        fields["repair_words"] = True
    return fields, []


def _read_settings(fields: Fields, vectors: bytes) -> PutSettings:
    split_rows(vectors, 0)
    if fields["aggregation"] not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {fields['aggregation']!r}")
    share = read_number(fields.get("expected_unmatched_share", DEFAULT_UNMATCHED_SHARE))
    if share is None:
        raise ValueError("the expected share of unmatched queries is a number")
    return PutSettings(
        Settings(
            aggregation=fields["aggregation"],
            topk=read_count(fields["topk"]),
            threshold=read_number(fields["threshold"]),
            capacity_slots=read_count(fields["capacity_slots"]),
            cascade=read_flag(fields["cascade"]) if "cascade" in fields else "auto",
            calibration=read_text(fields.get("calibration", "")),
            feedback=read_text(fields.get("feedback", "")),
            confidence_min=read_number(fields.get("confidence_min")),
            expected_unmatched_share=share,
            ignore=read_texts(fields.get("ignore", [])),
            repair_words=read_flag(fields.get("repair_words", False)),
        )
    )


def _write_decision(calibrate: CalibrateDecision) -> tuple[Fields, Vectors]:
    return {"node": calibrate.node, "at_ms": calibrate.at_ms}, [calibrate.payload]


def _read_decision(fields: Fields, payload: bytes) -> CalibrateDecision:
    return CalibrateDecision(payload, read_text(fields["node"]), read_count(fields["at_ms"]))


def _write_chunk(chunk: ImportChunk) -> tuple[Fields, Vectors]:
    fields: Fields = {
        "import_id": chunk.import_id,
        "number": chunk.number,
        "parts": [_route_fields(part) for part in chunk.parts],
    }
    return fields, _rows(chunk.parts)


def _read_chunk(fields: Fields, vectors: bytes) -> ImportChunk:
    counts = [sum(_row_counts(part)) for part in fields["parts"]]
    rows = iter(split_rows(vectors, sum(counts)))
    parts = tuple(
        _route_of(part, tuple(next(rows) for _ in range(count)))
        for part, count in zip(fields["parts"], counts, strict=True)
    )
    return ImportChunk(read_text(fields["import_id"]), read_count(fields["number"]), parts)


def _optional_text(value: Any) -> str | None:
    return None if value is None else read_text(value)


_NAMES_OR_NONE: Final = {"route": _optional_text, "was": _optional_text}


def _write_revision(revision: ReviseRoutes) -> tuple[Fields, Vectors]:
    routes = [_route_revision_fields(each) for each in revision.routes]
    fields: Fields = {"resolved": list(revision.resolved), "routes": routes}
    if revision.settings is not None:
        fields["settings"] = _write_settings(PutSettings(revision.settings))[0]
    vectors: Vectors = []
    for route in revision.routes:
        counts = len(route.vectors), len(route.negative_vectors)
        if counts != (len(route.utterances), len(route.negatives)):
            raise ValueError("one vector a text is needed")
        vectors += (*route.vectors, *route.negative_vectors)
    return fields, equally_long(vectors)


def _route_revision_fields(route: RouteRevision) -> Fields:
    fields: Fields = {"name": route.name, "utterances": list(route.utterances)}
    if route.is_new:
        fields["is_new"] = True
    if route.revision is not None:
        fields["revision"] = list(route.revision)
    for name in ("threshold", "confidence_min"):
        if (limit := getattr(route, name)) is not KEEP:
            fields[name] = write_number(limit)
    if route.negatives:
        fields["negatives"] = list(route.negatives)
    return fields


def _read_revision(fields: Fields, vectors: bytes) -> ReviseRoutes:
    found = fields["routes"]
    counts = [(len(each["utterances"]), len(each.get("negatives", ()))) for each in found]
    rows = iter(split_rows(vectors, sum(map(sum, counts))))
    routes = tuple(
        RouteRevision(
            name=read_text(each["name"]),
            utterances=read_texts(each["utterances"]),
            vectors=tuple(next(rows) for _ in range(utterances)),
            is_new=read_flag(each.get("is_new", False)),
            revision=read_revision(each.get("revision")),
            threshold=_number_or_keep(each, "threshold"),
            confidence_min=_number_or_keep(each, "confidence_min"),
            negatives=read_texts(each.get("negatives", [])),
            negative_vectors=tuple(next(rows) for _ in range(negatives)),
        )
        for each, (utterances, negatives) in zip(found, counts, strict=True)
    )
    settings = _read_settings(fields["settings"], b"").settings if "settings" in fields else None
    return ReviseRoutes(routes, read_texts(fields["resolved"]), settings)


def _write_plan(plan: CommitPlan) -> tuple[Fields, Vectors]:
    fields: Fields = {
        "import_id": plan.import_id,
        "chunk_count": plan.chunk_count,
        "seen": plan.seen,
        "removed": list(plan.removed),
        "tests": [list(test) for test in plan.tests],
        "tests_removed": list(plan.tests_removed),
    }
    if plan.settings is not None:
        fields["settings"] = _write_settings(PutSettings(plan.settings))[0]
    return fields, []


def _read_plan(fields: Fields, vectors: bytes) -> CommitPlan:
    split_rows(vectors, 0)
    settings = _read_settings(fields["settings"], b"").settings if "settings" in fields else None
    return CommitPlan(
        import_id=read_text(fields["import_id"]),
        chunk_count=read_count(fields["chunk_count"]),
        seen=read_text(fields["seen"]),
        removed=read_texts(fields["removed"]),
        settings=settings,
        tests=read_test_list(fields["tests"]),
        tests_removed=read_texts(fields["tests_removed"]),
    )


def _dim(value: Any) -> int:
    dim = read_count(value)
    if dim > DIM_MAX:
        raise ValueError(f"a vector has at most {DIM_MAX} dimensions")
    return dim


PUBLIC_KEY_DIGITS: Final = 64


def _voter_keys(value: Any) -> tuple[tuple[str, str], ...]:
    for name, key in value.items():
        if not name or len(read_text(key)) != PUBLIC_KEY_DIGITS or len(bytes.fromhex(key)) != 32:
            raise ValueError("a voter has a name and a public key")
    return tuple(sorted(value.items()))


def _write_finalize(finalize: Finalize) -> tuple[Fields, Vectors]:
    return {"level": finalize.level, "voter_keys": dict(finalize.voter_keys)}, []


def _read_finalize(fields: Fields, vectors: bytes) -> Finalize:
    split_rows(vectors, 0)
    return Finalize(read_count(fields["level"]), _voter_keys(fields["voter_keys"]))


def _write_epoch(opened: OpenEpoch) -> tuple[Fields, Vectors]:
    names = ("epoch_id", "base_seq", "voters", "fingerprint", "dim")
    fields: Fields = {name: getattr(opened, name) for name in names}
    if opened.level > BASE_LEVEL:  # omitted otherwise, as in the frames of older releases
        fields["level"], fields["voter_keys"] = opened.level, dict(opened.voter_keys)
    more = {"votes": list(opened.votes), "warrant": opened.warrant}
    return {**fields, **{name: value for name, value in more.items() if value}}, []


def _read_epoch(fields: Fields, vectors: bytes) -> OpenEpoch:
    split_rows(vectors, 0)
    return OpenEpoch(
        epoch_id=read_text(fields["epoch_id"]),
        base_seq=read_count(fields["base_seq"]),
        voters=read_texts(fields["voters"]),
        fingerprint=read_text(fields["fingerprint"]),
        dim=_dim(fields["dim"]),
        level=read_count(fields.get("level", BASE_LEVEL)),
        voter_keys=_voter_keys(fields.get("voter_keys", {})),
        votes=read_texts(fields.get("votes", [])),
        warrant=read_text(fields.get("warrant", "")),
    )


def _write_voter(change: VoterAdd | VoterRemove) -> tuple[Fields, Vectors]:
    key = change.public_key if isinstance(change, VoterAdd) else ""
    more = {"public_key": key, "votes": list(change.votes)}
    return {"node_id": change.node_id, **{name: value for name, value in more.items() if value}}, []


def _read_voter_add(fields: Fields, vectors: bytes) -> VoterAdd:
    split_rows(vectors, 0)
    key, votes = fields.get("public_key", ""), fields.get("votes", [])
    return VoterAdd(read_text(fields["node_id"]), read_text(key), read_texts(votes))


def _read_voter_remove(fields: Fields, vectors: bytes) -> VoterRemove:
    split_rows(vectors, 0)
    return VoterRemove(read_text(fields["node_id"]), read_texts(fields.get("votes", [])))


_KINDS: Final[tuple[Kind, ...]] = (
    (1, PutRoute, _write_put, _read_put),
    plain_kind(2, DeleteRoute, name=read_text),
    (3, AddUtterances, _write_add, _read_add),
    plain_kind(4, RemoveUtterances, name=read_text, utterances=read_texts),
    (5, PatchRoute, _write_patch, _read_patch),
    (6, PutSettings, _write_settings, _read_settings),
    plain_kind(7, ImportBegin, import_id=read_text, replace=read_flag),
    (8, ImportChunk, _write_chunk, _read_chunk),
    plain_kind(9, ImportCommit, import_id=read_text, chunk_count=read_count),
    plain_kind(10, ImportAbort, import_id=read_text),
    (11, OpenEpoch, _write_epoch, _read_epoch),
    (12, VoterAdd, _write_voter, _read_voter_add),
    (13, VoterRemove, _write_voter, _read_voter_remove),
    plain_kind(20, Audit, audit_id=read_text, is_deep=read_flag),
    plain_kind(21, SwitchEncoder, import_id=read_text),
    plain_kind(22, Calibrate, calibration=read_text),
    plain_kind(23, Calibrate, calibration=read_text),
    (24, Finalize, _write_finalize, _read_finalize),
    (25, CalibrateDecision, _write_decision, _read_decision),
    plain_kind(
        26, PutFeedback, item_id=read_text, text=read_text, at_ms=read_count, **_NAMES_OR_NONE
    ),
    (27, ReviseRoutes, _write_revision, _read_revision),
    *SET_KINDS,
    (35, CommitPlan, _write_plan, _read_plan),
)
# If a type has two kinds, the later one is written.  Kind 22 allowed at most 1,024 characters.
# A release that knows only 22 would reject a longer calibration while other nodes apply it,
# so longer ones have the kind 23, which such a release does not understand at all.
KIND_BY_TYPE: Final[dict[type[Mutation], int]] = {kind[1]: kind[0] for kind in _KINDS}
WRITERS: Final[dict[int, Writer]] = {kind[0]: kind[2] for kind in _KINDS}
TYPE_BY_KIND: Final[dict[int, type[Mutation]]] = {kind[0]: kind[1] for kind in _KINDS}
READERS: Final[dict[int, Reader]] = {kind[0]: kind[3] for kind in _KINDS}
