"""Vectors at the door, and how long a write with them can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.core.codec import FRAME_BYTES_MAX, encode_proposal
from synaptoroute.core.mutation import AddUtterances, Mutation, Proposal, PutRoute, Revision
from synaptoroute.errors import InvalidVector, TooLarge
from synaptoroute.router import writes
from synaptoroute.router.writes import check_size, checked_rows

pytestmark = pytest.mark.unit

OP_ID = b"o" * 16
TEXTS = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=40), min_size=1, max_size=6
)


@given(
    st.lists(
        st.lists(st.floats() | st.integers() | st.booleans(), min_size=3, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_lists_become_the_rows_that_numpy_makes(given_rows: list[list[float]]) -> None:
    """The short way of lists gives the bits of the long one, whatever the numbers are."""
    found = writes._float64s(given_rows, 3)

    np.testing.assert_array_equal(np.asarray(given_rows, dtype=np.float64), found)


@pytest.mark.parametrize(
    "row", [["a", 0.0, 0.0], [None, 0.0, 1.0], [1j, 0, 0], [10**400, 0, 0], [2.0, 0, 0]]
)
def test_what_is_no_row_of_numbers_is_refused(row: list[float]) -> None:
    """A list that the short way cannot read is refused as it ever was."""
    with pytest.raises(InvalidVector):
        checked_rows([row], 3)


def test_sequences_of_every_kind_are_rows() -> None:
    """Lists, tuples and arrays mean the same."""
    row = [0.6, 0.0, 0.8]
    kinds = [[row], [tuple(row)], [np.array(row)], np.array([row])]

    assert 1 == len({checked_rows(kind, 3).tobytes() for kind in kinds})


@given(TEXTS, st.text(st.characters(codec="utf-8"), max_size=60), st.booleans())
def test_frame_is_never_longer_than_its_bound(
    texts: list[str], metadata: str, is_put: bool
) -> None:
    utterances, rows = tuple(texts), (b"v" * 8,) * len(texts)
    mutation: Mutation = AddUtterances("a", utterances, rows)
    if is_put:
        mutation = PutRoute("a", utterances, rows, 0.1, metadata, metadata)
    proposal = Proposal(OP_ID, mutation, OP_ID, Revision(2**53, 2**53), if_none_match=True)
    size_bytes = len(encode_proposal(proposal))
    bound = writes._frame_bytes_bound(mutation)

    assert bound is not None
    assert bound >= size_bytes


def test_write_that_is_too_long_is_refused_at_the_door() -> None:
    """A write above the bound is encoded to find out its exact size."""
    count = FRAME_BYTES_MAX // 2_048
    mutation = PutRoute("a", tuple(map(str, range(count))), (b"v" * 2_048,) * count)

    with pytest.raises(TooLarge):
        check_size(Proposal(OP_ID, mutation))
