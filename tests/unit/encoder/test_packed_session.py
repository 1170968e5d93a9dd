"""Packing: every token has one place, and the layout of a text depends on the text alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.encoder.packed_session import WIDTH_STEP, PackedSession, pack, width_of

pytestmark = pytest.mark.unit

COUNTS = st.lists(st.integers(1, 512), max_size=60)


@given(COUNTS, st.integers(1, 1_024))
def test_plan_names_each_text_once_in_runs_of_one_width(counts: list[int], limit: int) -> None:
    """Runs keep to the limit."""
    runs = PackedSession.plan(counts, limit)

    assert list(range(len(counts))) == sorted(index for run in runs for index in run)
    for run in runs:
        assert 1 == len({width_of(counts[index]) for index in run})
        assert len(run) == 1 or sum(counts[index] for index in run) <= limit


@given(st.lists(st.integers(1, 48), min_size=1, max_size=20), st.integers(1, 4))
def test_unpacking_reverses_packing(counts: list[int], heads: int) -> None:
    """For the rows of every head, of queries, keys and values."""
    packed = pack(np.array(counts), 48, heads)
    rows = np.arange(sum(counts))
    by_head = np.stack([rows * 100 + head for head in range(heads)], axis=1)

    for part, places in enumerate((packed.queries, packed.keys, packed.values)):
        product = np.concatenate([by_head + (n == part) * 10_000 for n in range(3)], axis=1)
        laid_out = product.reshape(-1)[places]

        assert (by_head + 10_000).tolist() == laid_out.reshape(-1)[packed.heads].tolist()
        for text, start, count in zip(laid_out, packed.starts, counts, strict=True):
            own = by_head[start : start + count] + 10_000
            assert own.T.tolist() == text[:, :count].tolist()
            assert np.array_equal(
                np.broadcast_to(own[0][:, None], text[:, count:].shape), text[:, count:]
            )
    assert [n for count in counts for n in range(count)] == packed.positions.tolist()
    assert counts == packed.mask.sum(axis=-1).reshape(-1).tolist()
    assert len(rows) == len(np.unique(packed.places))


@pytest.mark.parametrize(("count", "width"), [(1, 16), (16, 16), (17, 32), (512, 512)])
def test_width_is_the_next_multiple(count: int, width: int) -> None:
    """Short texts of different length share a width."""
    assert width == width_of(count)
    assert 0 == width % WIDTH_STEP


def test_layout_of_one_short_text_is_cached() -> None:
    """It equals a new one and is read-only."""
    kept = pack(np.array([7]), 16, 12)
    among = pack(np.array([7, 3]), 16, 12)

    assert kept is pack(np.array([7]), 16, 12)
    assert kept is not pack(np.array([6]), 16, 12)
    assert np.array_equal(among.queries[:1], kept.queries)
    assert np.array_equal(among.heads[:7], kept.heads)
    with pytest.raises(ValueError, match="read-only"):
        kept.queries[0] = 0


def test_empty_batch_has_no_runs() -> None:
    """The plan is empty."""
    assert [] == PackedSession.plan([], 512)
