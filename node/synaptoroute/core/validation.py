"""Validation of mutations, with the same result on every node.

``models`` refuses the same things earlier.  These checks are for entries that did not
pass it: a frame with valid checksums may contain anything.  They depend on
the mutation and the dimension alone, and on nothing that differs between machines or
releases of Python, so that every node rejects the same entries.  Everything they accept can
be hashed, stored and read back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Final

from synaptoroute.core.change import Rejection
from synaptoroute.core.feedback import read_feedback_settings
from synaptoroute.core.mutation import (
    KEEP,
    AddUtterances,
    Audit,
    Calibrate,
    CalibrateDecision,
    CommitPlan,
    DeleteAlias,
    DeleteRoute,
    DeleteSet,
    EraseTexts,
    Finalize,
    ForkSet,
    ImportAbort,
    ImportBegin,
    ImportChunk,
    ImportCommit,
    Mutation,
    OpenEpoch,
    PatchRoute,
    PutAlias,
    PutFeedback,
    PutRoute,
    PutSet,
    PutSettings,
    PutTests,
    RemoveUtterances,
    ReviseRoutes,
    RouteRevision,
    Settings,
    SwitchEncoder,
    VoterAdd,
    VoterRemove,
)
from synaptoroute.core.names import is_name

IMPORT_ID_CHARACTERS_MAX: Final = 128
AUDIT_ID_BYTES_MAX: Final = 128
UTTERANCE_BYTES_MAX: Final = 8_192
JSON_BYTES_MAX: Final = 16_384
JSON_DEPTH_MAX: Final = 32
INTEGER_DIGITS_MAX: Final = 640
"""The lowest limit of int() with which an interpreter can be started."""
TOPK_MAX: Final = 100
CALIBRATION_CHARACTERS_MAX: Final = 65_536
DECISION_BYTES_MAX: Final = 131_072
NEGATIVES_MAX: Final = 128
UNMATCHED_SHARE_MIN: Final = 0.001
UNMATCHED_SHARE_MAX: Final = 0.9
IGNORE_PATTERNS_MAX: Final = 32
IGNORE_CHARACTERS_MAX: Final = 256
CAPACITY_SLOTS_MAX: Final = 4_000_000
VECTOR_ITEM_BYTES: Final = 4

_ITEM_ID = re.compile(r"[0-9a-f]{16}")
_PUBLIC_KEY = re.compile(r"([0-9a-f]{64})?")
_NODE_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_WRITE_JSON = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


def check_mutation(mutation: Mutation, dim: int) -> None:
    """Check a mutation of any origin; ``dim`` is 0 if it is not known.

    Raises:
        Rejection: It is malformed or over a limit.
    """
    match mutation:
        case PutRoute():
            _check_route(mutation, dim)
        case AddUtterances(name, utterances, vectors):
            check_name(name)
            _check_rows(utterances, vectors, dim)
        case RemoveUtterances(name, utterances):
            check_name(name)
            for text in utterances:
                check_text(text, UTTERANCE_BYTES_MAX, "an utterance")
        case PatchRoute():
            _check_patch(mutation, dim)
        case DeleteRoute(name):
            check_name(name)
        case PutSettings(settings):
            _check_settings(settings)
        case Calibrate(calibration):
            _check_calibration(calibration)
        case CalibrateDecision(payload, node):
            if node and not _NODE_ID.fullmatch(node):
                raise Rejection("invalid_request", "a node's identity is malformed")
            if len(payload) > DECISION_BYTES_MAX:
                raise Rejection(
                    "invalid_request", f"a calibration is over {DECISION_BYTES_MAX} bytes"
                )
        case ImportBegin() | ImportChunk() | ImportCommit() | ImportAbort() | SwitchEncoder():
            check_text(mutation.import_id, IMPORT_ID_CHARACTERS_MAX, "an import's identity")
            if isinstance(mutation, ImportChunk):
                for part in mutation.parts:
                    _check_route(part, dim)
        case CommitPlan():
            if mutation.import_id or mutation.chunk_count:
                check_text(mutation.import_id, IMPORT_ID_CHARACTERS_MAX, "an import's identity")
            _check_order(mutation.removed)
            for name in mutation.removed:
                check_name(name)
            if mutation.settings is not None:
                _check_settings(mutation.settings)
        case Audit(audit_id):
            check_text(audit_id, AUDIT_ID_BYTES_MAX, "an audit's identity")
        case VoterAdd(node_id) | VoterRemove(node_id):
            if not _NODE_ID.fullmatch(node_id):
                raise Rejection("invalid_request", "a voter's identity is malformed")
            if isinstance(mutation, VoterAdd) and not _PUBLIC_KEY.fullmatch(mutation.public_key):
                raise Rejection("invalid_request", "a voter's public key is malformed")
        case Finalize(level):
            if level < 2:
                raise Rejection("invalid_request", "the level of a log only rises")
        case PutFeedback():
            _check_feedback(mutation)
        case ReviseRoutes():
            _check_revision(mutation, dim)
        case PutSet() | DeleteSet() | ForkSet() | PutAlias() | DeleteAlias():
            pass  # see ``set_validation``
        case PutTests() | EraseTexts():
            pass  # as above
        case OpenEpoch():
            pass  # the replica checks its place in the chain


def _check_route(route: PutRoute, dim: int) -> None:
    check_name(route.name)
    _check_rows(route.utterances, route.vectors, dim)
    if route.threshold is not None:
        _check_threshold(route.threshold, "invalid_route")
    if route.metadata != "{}":
        check_json(route.metadata, is_object=True)
    if route.payload != "null":
        check_json(route.payload, is_object=False)
    if route.confidence_min is not None:
        _check_confidence(route.confidence_min, "invalid_route")
    if route.description is not None or route.negatives:
        more = _check_extras(route.description, route.negatives, route)
        _check_vectors((route.vectors[0], *more), dim)
        check_negatives(route)


def check_negatives(route: PutRoute) -> None:
    """Check the number of the negatives, and that none is an utterance.

    Raises:
        Rejection: They are too many, or one is.
    """
    if len(route.negatives) > NEGATIVES_MAX:
        raise Rejection("invalid_route", f"a route has at most {NEGATIVES_MAX} negatives")
    check_apart(route.utterances, route.negatives)


def check_apart(utterances: Iterable[str], negatives: Iterable[str]) -> None:
    """Refuse a text that is an utterance and a negative of one route.

    Raises:
        Rejection: One is.
    """
    both = set(utterances).intersection(negatives)
    if both:
        raise Rejection("invalid_route", f"'{min(both)}' is an utterance and a negative")


def _check_extras(
    description: str | None, negatives: tuple[str, ...], held: PutRoute | PatchRoute
) -> tuple[bytes, ...]:
    """Check a description and negatives; return their vectors."""
    if description is not None:
        check_text(description, UTTERANCE_BYTES_MAX, "a description")
    for text in negatives:
        check_text(text, UTTERANCE_BYTES_MAX, "a negative")
    if len(set(negatives)) != len(negatives):
        raise Rejection("invalid_route", "a negative occurs twice")
    if len(held.negative_vectors) != len(negatives):
        raise Rejection("invalid_vector", "one vector a negative is needed")
    described = () if description is None else (held.description_vector,)
    return (*described, *held.negative_vectors)


def _check_confidence(confidence: float, code: str) -> None:
    if not 0.0 <= confidence <= 1.0:  # also refuses NaN
        raise Rejection(code, "confidence_min is between 0 and 1")


def _check_patch(patch: PatchRoute, dim: int) -> None:
    check_name(patch.name)
    if patch.threshold is not KEEP and patch.threshold is not None:
        _check_threshold(patch.threshold, "invalid_route")
    if patch.metadata is not KEEP:
        check_json(patch.metadata, is_object=True)
    if patch.payload is not KEEP:
        check_json(patch.payload, is_object=False)
    if patch.confidence_min is not KEEP and patch.confidence_min is not None:
        _check_confidence(patch.confidence_min, "invalid_route")
    description = None if patch.description is KEEP else patch.description
    negatives = () if patch.negatives is KEEP else patch.negatives
    if len(negatives) > NEGATIVES_MAX:
        raise Rejection("invalid_route", f"a route has at most {NEGATIVES_MAX} negatives")
    if description is not None or negatives:
        _check_vectors(_check_extras(description, negatives, patch), dim)


def _check_feedback(put: PutFeedback) -> None:
    if not _ITEM_ID.fullmatch(put.item_id):
        raise Rejection("invalid_request", "the identity of an item is malformed")
    if put.text:
        check_text(put.text, UTTERANCE_BYTES_MAX, "a text")
    for name in (put.route, put.was):
        if name is not None:
            check_name(name)


def _check_revision(revision: ReviseRoutes, dim: int) -> None:
    if not all(map(_ITEM_ID.fullmatch, revision.resolved)):
        raise Rejection("invalid_request", "the identity of an item is malformed")
    _check_order(revision.resolved)
    _check_order(tuple(each.name for each in revision.routes))
    rows: list[bytes] = []
    for route in revision.routes:
        _check_route_revision(route, dim)
        rows += (*route.vectors, *route.negative_vectors)
    if revision.settings is not None:
        _check_settings(revision.settings)
    if len(set(map(len, rows))) > 1:
        raise Rejection("invalid_vector", "vectors of different sizes")


def _check_route_revision(route: RouteRevision, dim: int) -> None:
    check_name(route.name)
    if route.utterances or route.vectors or route.is_new:
        _check_rows(route.utterances, route.vectors, dim)
    if route.threshold is not KEEP and route.threshold is not None:
        _check_threshold(route.threshold, "invalid_route")
    if route.confidence_min is not KEEP and route.confidence_min is not None:
        _check_confidence(route.confidence_min, "invalid_route")
    if route.negatives or route.negative_vectors:
        _check_rows(route.negatives, route.negative_vectors, dim)


def _check_order(names: tuple[str, ...]) -> None:
    if list(names) != sorted(set(names)):
        raise Rejection("invalid_request", "the parts of a revision are sorted, each once")


def check_name(name: str) -> None:
    """Refuse what is not the name of a route."""
    if not is_name(name):
        raise Rejection("invalid_route", "the route's name is empty, too long or malformed")


def check_text(text: str, bytes_max: int, what: str) -> None:
    """Refuse a text that is empty, too long or cannot be stored."""
    if not text or "\x00" in text:
        raise Rejection("invalid_route", f"{what} is empty or contains U+0000")
    size_bytes = len(text) if text.isascii() else len(_encode(text, what))
    if size_bytes > bytes_max:
        raise Rejection("invalid_route", f"{what} is over {bytes_max} bytes")


def _encode(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Rejection("invalid_route", f"{what} is not valid Unicode") from error


def _check_rows(utterances: tuple[str, ...], vectors: tuple[bytes, ...], dim: int) -> None:
    if not utterances:
        raise Rejection("invalid_route", "a route needs utterances")
    for text in utterances:
        check_text(text, UTTERANCE_BYTES_MAX, "an utterance")
    if len(set(utterances)) != len(utterances):
        raise Rejection("invalid_route", "an utterance occurs twice")
    if len(vectors) != len(utterances):
        raise Rejection("invalid_vector", "one vector an utterance is needed")
    _check_vectors(vectors, dim)


def _check_vectors(vectors: tuple[bytes, ...], dim: int) -> None:
    expected_bytes = dim * VECTOR_ITEM_BYTES if dim else len(vectors[0])
    if expected_bytes == 0 or expected_bytes % VECTOR_ITEM_BYTES:
        raise Rejection("invalid_vector", "a vector is not a row of float32")
    if set(map(len, vectors)) != {expected_bytes}:
        raise Rejection(
            "invalid_vector", f"a vector is not float32[{expected_bytes // VECTOR_ITEM_BYTES}]"
        )


def _check_threshold(threshold: float, code: str) -> None:
    if not -1.0 <= threshold <= 1.0:  # also refuses NaN
        raise Rejection(code, "a threshold is between -1 and 1")


def _check_settings(settings: Settings) -> None:
    if settings.threshold is not None:
        _check_threshold(settings.threshold, "invalid_request")
    if settings.confidence_min is not None:
        _check_confidence(settings.confidence_min, "invalid_request")
    if not UNMATCHED_SHARE_MIN <= settings.expected_unmatched_share <= UNMATCHED_SHARE_MAX:
        raise Rejection(
            "invalid_request",
            f"expected_unmatched_share is between {UNMATCHED_SHARE_MIN} and {UNMATCHED_SHARE_MAX}",
        )
    _check_ignore(settings.ignore)
    if not 1 <= settings.topk <= TOPK_MAX:
        raise Rejection("invalid_request", f"topk is between 1 and {TOPK_MAX}")
    if not 1 <= settings.capacity_slots <= CAPACITY_SLOTS_MAX:
        raise Rejection("invalid_request", f"capacity_slots is between 1 and {CAPACITY_SLOTS_MAX}")
    if settings.calibration:
        raise Rejection("invalid_request", "a calibration is measured, not set")
    try:
        read_feedback_settings(settings.feedback)
    except (ValueError, RecursionError) as error:
        raise Rejection("invalid_request", f"feedback: {error}") from error


def _check_ignore(patterns: tuple[str, ...]) -> None:
    if len(patterns) > IGNORE_PATTERNS_MAX:
        raise Rejection("invalid_request", f"at most {IGNORE_PATTERNS_MAX} patterns are ignored")
    for pattern in patterns:
        if not pattern or "\x00" in pattern or len(pattern) > IGNORE_CHARACTERS_MAX:
            raise Rejection(
                "invalid_request",
                f"a pattern has 1 to {IGNORE_CHARACTERS_MAX} characters, without U+0000",
            )
        _encode(pattern, "a pattern")


def _check_calibration(text: str) -> None:
    if len(text) > CALIBRATION_CHARACTERS_MAX or not text.isascii():
        raise Rejection("invalid_request", "a calibration is too long or not ASCII")
    check_json(text, is_object=True, bytes_max=CALIBRATION_CHARACTERS_MAX)


def check_json(text: str, *, is_object: bool, bytes_max: int = JSON_BYTES_MAX) -> None:
    """Refuse what is not canonical JSON."""
    if text == "{}" or (text == "null" and not is_object):
        return
    what = "metadata" if is_object else "payload"
    if len(_encode(text, what)) > bytes_max:
        raise Rejection("invalid_route", f"{what} is over {bytes_max} bytes")
    try:
        is_canonical = _depth(text) <= JSON_DEPTH_MAX + 1 and text == _WRITE_JSON(
            json.loads(text, parse_int=_integer)
        )
    except (ValueError, RecursionError):
        is_canonical = False
    if not is_canonical or (is_object and not text.startswith("{")):
        raise Rejection("invalid_route", f"{what} is not canonical JSON")


def _depth(text: str) -> int:
    # Counted without recursion: the depth at which json.loads fails differs between builds.
    depth = deepest = 0
    for character in _STRING.sub("", text):
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    return deepest


def _integer(digits: str) -> int:
    # int() refuses long texts by a limit of the interpreter, which differs between nodes.
    if len(digits) > INTEGER_DIGITS_MAX:
        raise ValueError("an integer is too long")
    return int(digits)
