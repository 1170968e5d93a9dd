"""Tests of a route set: labelled queries that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from synaptoroute.core.change import Change, Outcome, Rejection
from synaptoroute.core.mutation import PutTests, Revision, SetTest
from synaptoroute.core.set_validation import check_tests

TESTS_MAX: Final = 20_000


def plan_tests(tests: Mapping[str, SetTest], put: PutTests, at: Revision) -> Change:
    """Plan tests that are added, replaced or removed.

    Raises:
        Rejection: They are malformed, or the set would have too many.
    """
    check_tests(put)
    named = {test.text for test in put.tests}
    new = [test for test in put.tests if tests.get(test.text) != test]
    gone = [tests[test.text] for test in new if test.text in tests]
    if put.replace:
        gone += [test for text, test in tests.items() if text not in named]
    else:
        gone += [tests[text] for text in put.removed if text in tests]
    if len(tests) - len(gone) + len(new) > TESTS_MAX:
        raise Rejection("limit_exceeded", f"a route set has at most {TESTS_MAX} tests")
    if not new and not gone:
        return Change(Outcome("unchanged", at))
    return Change(
        Outcome("applied", at, count=len({test.text for test in (*new, *gone)})),
        tests=tuple(sorted(new, key=_text_of)),
        tests_before=tuple(sorted(gone, key=_text_of)),
    )


def _text_of(test: SetTest) -> str:
    return test.text
