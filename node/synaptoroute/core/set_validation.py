"""Validation of the mutations of route sets, with the same result on every node."""

from __future__ import annotations

import re
from dataclasses import astuple
from math import isfinite
from typing import Final

from synaptoroute.core.change import Rejection
from synaptoroute.core.mutation import (
    DeleteAlias,
    DeleteSet,
    ForkSet,
    PutAlias,
    PutSet,
    PutTests,
    SetLimits,
)
from synaptoroute.core.names import is_set_name
from synaptoroute.core.validation import UTTERANCE_BYTES_MAX, check_json, check_name, check_text

NOTE_BYTES_MAX: Final = 512
LIMIT_MAX: Final = 1 << 40
ERASED_TEXTS_MAX: Final = 1_000
_TEXT_HASH: Final = re.compile(r"[0-9a-f]{64}")


def check_set_mutation(mutation: PutSet | DeleteSet | ForkSet | PutAlias | DeleteAlias) -> None:
    """Check a change of the sets themselves.

    Raises:
        Rejection: It is malformed or over a limit.
    """
    _check_set_name(mutation.name)
    match mutation:
        case PutSet(limits=limits):
            _check_limits(limits)
        case ForkSet(into=into):
            _check_set_name(into)
        case PutAlias():
            _check_alias(mutation)
        case _:
            pass


def check_tests(put: PutTests) -> None:
    """Check tests of a set.

    Raises:
        Rejection: They are malformed or over a limit.
    """
    texts = [test.text for test in put.tests]
    for text in (*texts, *put.removed):
        check_text(text, UTTERANCE_BYTES_MAX, "a test")
    if len(set(texts)) != len(texts) or not set(texts).isdisjoint(put.removed):
        raise Rejection("invalid_request", "a test occurs twice")
    if list(put.removed) != sorted(set(put.removed)) or (put.replace and put.removed):
        raise Rejection("invalid_request", "the removed tests are sorted, each once")
    for test in put.tests:
        if test.route is not None:
            check_name(test.route)


def check_hashes(hashes: tuple[str, ...]) -> None:
    """Check the hashes of texts that are to be erased.

    Raises:
        Rejection: They are malformed, or too many.
    """
    if not 1 <= len(hashes) <= ERASED_TEXTS_MAX or list(hashes) != sorted(set(hashes)):
        raise Rejection("invalid_request", f"1 to {ERASED_TEXTS_MAX} hashes, sorted, each once")
    if not all(map(_TEXT_HASH.fullmatch, hashes)):
        raise Rejection("invalid_request", "the hash of a text is malformed")


def check_note(note: str) -> None:
    """Check what a client says about its change.

    Raises:
        Rejection: It is too long or cannot be stored.
    """
    if note:
        check_text(note, NOTE_BYTES_MAX, "a note")


def _check_set_name(name: str) -> None:
    if not is_set_name(name):
        raise Rejection("invalid_request", "the set's name is empty, too long or malformed")


def _check_limits(limits: SetLimits) -> None:
    if not all(0 <= each <= LIMIT_MAX for each in astuple(limits)):
        raise Rejection("invalid_request", f"a limit is between 0 and {LIMIT_MAX}")


def _check_alias(put: PutAlias) -> None:
    for name in (put.target, put.shadow, put.canary):
        if name:
            _check_set_name(name)
    for share in (put.shadow_share, put.canary_share):
        if not isfinite(share) or not 0.0 <= share <= 1.0:
            raise Rejection("invalid_request", "a share is between 0 and 1")
    if not put.target:
        raise Rejection("invalid_request", "an alias names a set")
    # A share of nothing would be a second way to say the same.
    for name, share in ((put.shadow, put.shadow_share), (put.canary, put.canary_share)):
        if not name and share:
            raise Rejection("invalid_request", "a share needs a set")
    if put.evidence:
        check_json(put.evidence, is_object=True)
