"""What each kind of mutation looks like inside a frame.

One writer and one reader a kind: fields that become canonical JSON, and the
vectors beside them.  A kind's number is for ever: numbers are added, never
changed and never used again, because logs and databases hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Final

from synaptoroute.core.mutation import (
    AGGREGATIONS,
    KEEP,
    AddUtterances,
    Audit,
    Calibrate,
    DeleteRoute,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Keep,
    Mutation,
    OpenEpoch,
    PatchRoute,
    PutRoute,
    PutSettings,
    RemoveUtterances,
    Revision,
    Settings,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)

Fields = dict[str, Any]
Vectors = list[bytes]

COUNT_MAX: Final = (1 << 53) - 1
"""Largest integer that JSON, Lua and SQLite all keep exactly."""
DIM_MAX: Final = 65_536


def _rows(routes: Iterable[PutRoute | AddUtterances]) -> Vectors:
    """Lay out the vectors of routes, one an utterance and all of one size."""
    vectors: Vectors = []
    for route in routes:
        if len(route.vectors) != len(route.utterances):
            raise ValueError("one vector an utterance is needed")
        vectors.extend(route.vectors)
    if len({len(vector) for vector in vectors}) > 1:
        raise ValueError("vectors of different sizes")
    _split(b"".join(vectors), len(vectors))
    return vectors


def _split(vectors: bytes, count: int) -> tuple[bytes, ...]:
    """Cut the vectors' bytes into ``count`` equal rows."""
    if count == 0:
        if vectors:
            raise ValueError("vectors without utterances")
        return ()
    size_bytes, rest = divmod(len(vectors), count)
    if rest or size_bytes % 4 or not size_bytes:
        raise ValueError(f"{len(vectors)} bytes are not {count} float32 vectors")
    return tuple(vectors[i : i + size_bytes] for i in range(0, len(vectors), size_bytes))


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError("a list of texts is expected")
    return tuple(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is expected")
    return value


def _number(value: Any) -> float | None:
    if value is not None and (not isinstance(value, float) or not isfinite(value)):
        raise TypeError("a finite number with a decimal point is expected")
    return value


def _write_number(value: float | None) -> float | None:
    """One text for equal numbers: 1 and 1.0, -0.0 and 0.0."""
    return None if value is None else float(value) + 0.0


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_MAX:
        raise TypeError("a count is expected")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false is expected")
    return value


def read_revision(value: Any) -> Revision | None:
    """Read the revision of a condition; None where there is none."""
    if value is None:
        return None
    epoch, seq = value
    return Revision(_count(epoch), _count(seq))


def _route_fields(route: PutRoute) -> Fields:
    fields: Fields = {"name": route.name, "utterances": list(route.utterances)}
    if route.threshold is not None:
        fields["threshold"] = _write_number(route.threshold)
    if route.metadata != "{}":
        fields["metadata"] = route.metadata
    if route.payload != "null":
        fields["payload"] = route.payload
    return fields


def _route_of(fields: Mapping[str, Any], vectors: tuple[bytes, ...]) -> PutRoute:
    return PutRoute(
        name=_text(fields["name"]),
        utterances=_texts(fields["utterances"]),
        vectors=vectors,
        threshold=_number(fields.get("threshold")),
        metadata=_text(fields.get("metadata", "{}")),
        payload=_text(fields.get("payload", "null")),
    )


def _write_put(route: PutRoute) -> tuple[Fields, Vectors]:
    return _route_fields(route), _rows([route])


def _read_put(fields: Fields, vectors: bytes) -> PutRoute:
    return _route_of(fields, _split(vectors, len(fields["utterances"])))


def _write_add(add: AddUtterances) -> tuple[Fields, Vectors]:
    return {"name": add.name, "utterances": list(add.utterances)}, _rows([add])


def _read_add(fields: Fields, vectors: bytes) -> AddUtterances:
    texts = _texts(fields["utterances"])
    return AddUtterances(_text(fields["name"]), texts, _split(vectors, len(texts)))


def _write_patch(patch: PatchRoute) -> tuple[Fields, Vectors]:
    fields: Fields = {"name": patch.name}
    if patch.threshold is not KEEP:
        fields["threshold"] = _write_number(patch.threshold)
    if patch.metadata is not KEEP:
        fields["metadata"] = patch.metadata
    if patch.payload is not KEEP:
        fields["payload"] = patch.payload
    return fields, []


def _read_patch(fields: Fields, vectors: bytes) -> PatchRoute:
    _split(vectors, 0)
    threshold: float | Keep | None = KEEP
    if "threshold" in fields:
        threshold = _number(fields["threshold"])
    return PatchRoute(
        name=_text(fields["name"]),
        threshold=threshold,
        metadata=_text(fields["metadata"]) if "metadata" in fields else KEEP,
        payload=_text(fields["payload"]) if "payload" in fields else KEEP,
    )


def _write_settings(put: PutSettings) -> tuple[Fields, Vectors]:
    settings = put.settings
    fields: Fields = {
        "aggregation": settings.aggregation,
        "topk": settings.topk,
        "threshold": _write_number(settings.threshold),
        "capacity_slots": settings.capacity_slots,
    }
    if settings.cascade:  # left out where it is off: the bytes that older releases know
        fields["cascade"] = True
    if settings.calibration:
        fields["calibration"] = settings.calibration
    return fields, []


def _read_settings(fields: Fields, vectors: bytes) -> PutSettings:
    _split(vectors, 0)
    if fields["aggregation"] not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {fields['aggregation']!r}")
    threshold = _number(fields["threshold"])
    if threshold is None:
        raise ValueError("the default threshold is a number")
    return PutSettings(
        Settings(
            aggregation=fields["aggregation"],
            topk=_count(fields["topk"]),
            threshold=threshold,
            capacity_slots=_count(fields["capacity_slots"]),
            cascade=_flag(fields.get("cascade", False)),
            calibration=_text(fields.get("calibration", "")),
        )
    )


def _write_chunk(chunk: ImportChunk) -> tuple[Fields, Vectors]:
    fields: Fields = {
        "import_id": chunk.import_id,
        "number": chunk.number,
        "parts": [_route_fields(part) for part in chunk.parts],
    }
    return fields, _rows(chunk.parts)


def _read_chunk(fields: Fields, vectors: bytes) -> ImportChunk:
    counts = [len(part["utterances"]) for part in fields["parts"]]
    rows = iter(_split(vectors, sum(counts)))
    parts = tuple(
        _route_of(part, tuple(next(rows) for _ in range(count)))
        for part, count in zip(fields["parts"], counts, strict=True)
    )
    return ImportChunk(_text(fields["import_id"]), _count(fields["number"]), parts)


def _write_epoch(opened: OpenEpoch) -> tuple[Fields, Vectors]:
    return {
        "epoch_id": opened.epoch_id,
        "base_seq": opened.base_seq,
        "voters": list(opened.voters),
        "fingerprint": opened.fingerprint,
        "dim": opened.dim,
    }, []


def _read_epoch(fields: Fields, vectors: bytes) -> OpenEpoch:
    _split(vectors, 0)
    dim = _count(fields["dim"])
    if dim > DIM_MAX:
        raise ValueError(f"a vector has at most {DIM_MAX} dimensions")
    return OpenEpoch(
        epoch_id=_text(fields["epoch_id"]),
        base_seq=_count(fields["base_seq"]),
        voters=_texts(fields["voters"]),
        fingerprint=_text(fields["fingerprint"]),
        dim=dim,
    )


def _write_abort(abort: ImportAbort) -> tuple[Fields, Vectors]:
    return {"import_id": abort.import_id}, []


def _read_delete(fields: Fields, vectors: bytes) -> DeleteRoute:
    _split(vectors, 0)
    return DeleteRoute(_text(fields["name"]))


def _read_remove(fields: Fields, vectors: bytes) -> RemoveUtterances:
    _split(vectors, 0)
    return RemoveUtterances(_text(fields["name"]), _texts(fields["utterances"]))


def _read_begin(fields: Fields, vectors: bytes) -> ImportBegin:
    _split(vectors, 0)
    return ImportBegin(_text(fields["import_id"]), _flag(fields["replace"]))


def _read_commit(fields: Fields, vectors: bytes) -> ImportCommit:
    _split(vectors, 0)
    return ImportCommit(_text(fields["import_id"]), _count(fields["chunk_count"]))


def _read_abort(fields: Fields, vectors: bytes) -> ImportAbort:
    _split(vectors, 0)
    return ImportAbort(_text(fields["import_id"]))


def _read_audit(fields: Fields, vectors: bytes) -> Audit:
    _split(vectors, 0)
    return Audit(_text(fields["audit_id"]), _flag(fields["is_deep"]))


def _read_switch(fields: Fields, vectors: bytes) -> SwitchEncoder:
    _split(vectors, 0)
    return SwitchEncoder(_text(fields["import_id"]))


def _read_calibrate(fields: Fields, vectors: bytes) -> Calibrate:
    _split(vectors, 0)
    return Calibrate(_text(fields["calibration"]))


def _write_voter(change: VoterAdd | VoterRemove) -> tuple[Fields, Vectors]:
    return {"node_id": change.node_id}, []


def _read_voter_add(fields: Fields, vectors: bytes) -> VoterAdd:
    _split(vectors, 0)
    return VoterAdd(_text(fields["node_id"]))


def _read_voter_remove(fields: Fields, vectors: bytes) -> VoterRemove:
    _split(vectors, 0)
    return VoterRemove(_text(fields["node_id"]))


_Writer = Callable[[Any], tuple[Fields, Vectors]]
_Reader = Callable[[Fields, bytes], Mutation]

_KINDS: Final[tuple[tuple[int, type[Mutation], _Writer, _Reader], ...]] = (
    (1, PutRoute, _write_put, _read_put),
    (2, DeleteRoute, lambda m: ({"name": m.name}, []), _read_delete),
    (3, AddUtterances, _write_add, _read_add),
    (
        4,
        RemoveUtterances,
        lambda m: ({"name": m.name, "utterances": list(m.utterances)}, []),
        _read_remove,
    ),
    (5, PatchRoute, _write_patch, _read_patch),
    (6, PutSettings, _write_settings, _read_settings),
    (
        7,
        ImportBegin,
        lambda m: ({"import_id": m.import_id, "replace": m.replace}, []),
        _read_begin,
    ),
    (8, ImportChunk, _write_chunk, _read_chunk),
    (
        9,
        ImportCommit,
        lambda m: ({"import_id": m.import_id, "chunk_count": m.chunk_count}, []),
        _read_commit,
    ),
    (10, ImportAbort, _write_abort, _read_abort),
    (11, OpenEpoch, _write_epoch, _read_epoch),
    (12, VoterAdd, _write_voter, _read_voter_add),
    (13, VoterRemove, _write_voter, _read_voter_remove),
    (20, Audit, lambda m: ({"audit_id": m.audit_id, "is_deep": m.is_deep}, []), _read_audit),
    (21, SwitchEncoder, lambda m: ({"import_id": m.import_id}, []), _read_switch),
    (22, Calibrate, lambda m: ({"calibration": m.calibration}, []), _read_calibrate),
    (23, Calibrate, lambda m: ({"calibration": m.calibration}, []), _read_calibrate),
)
# Of two kinds of one type the later is written.  22 had at most 1,024 characters; a release
# that knows no more would refuse a longer one where others apply it, so those are 23.
KIND_BY_TYPE: Final[dict[type[Mutation], int]] = {kind[1]: kind[0] for kind in _KINDS}
WRITERS: Final[dict[int, _Writer]] = {kind[0]: kind[2] for kind in _KINDS}
READERS: Final[dict[int, _Reader]] = {kind[0]: kind[3] for kind in _KINDS}
