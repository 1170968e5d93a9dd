"""Validation of given vectors, and the size of writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.core.codec import FRAME_BYTES_MAX, encode_proposal
from synaptoroute.core.mutation import AddUtterances, Mutation, Proposal, PutRoute, Revision
from synaptoroute.errors import InvalidVector
from synaptoroute.router import vectors
from synaptoroute.router.large_writes import frame_bytes_bound, is_too_large
from synaptoroute.router.vectors import checked_rows

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
def test_lists_give_the_same_rows_as_numpy(given_rows: list[list[float]]) -> None:
    """The fast path for lists gives the same bits for all numbers."""
    found = vectors._float64s(given_rows, 3)

    np.testing.assert_array_equal(np.asarray(given_rows, dtype=np.float64), found)


@pytest.mark.parametrize(
    "row", [["a", 0.0, 0.0], [None, 0.0, 1.0], [1j, 0, 0], [10**400, 0, 0], [2.0, 0, 0]]
)
def test_row_that_is_not_numbers_is_refused(row: list[float]) -> None:
    """With the error of NumPy, if the fast path cannot read a list."""
    with pytest.raises(InvalidVector):
        checked_rows([row], 3)


def test_sequences_of_every_kind_are_rows() -> None:
    """Lists, tuples and arrays give equal rows."""
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
    bound = frame_bytes_bound(mutation)

    assert bound is not None
    assert bound >= size_bytes


@pytest.mark.parametrize("bytes_max", [262_144, FRAME_BYTES_MAX])
def test_write_over_the_limit_of_an_entry_is_found(bytes_max: int) -> None:
    """A write above the bound is encoded to find out its exact size."""
    count = bytes_max // 2_048
    mutation = PutRoute("a", tuple(map(str, range(count))), (b"v" * 2_048,) * count)
    fewer = count - count // 64
    smaller = PutRoute("a", mutation.utterances[:fewer], mutation.vectors[:fewer])

    assert is_too_large(Proposal(OP_ID, mutation), bytes_max)
    assert not is_too_large(Proposal(OP_ID, smaller), bytes_max)
