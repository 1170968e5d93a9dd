"""Goal: every token has one place, and a text's shape is its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.encoder.packing import WIDTH_STEP, pack, plan, width_of

pytestmark = pytest.mark.unit

COUNTS = st.lists(st.integers(1, 512), max_size=60)


@given(COUNTS, st.integers(1, 1_024))
def test_plan_names_each_text_once_in_runs_of_one_width(counts: list[int], limit: int) -> None:
    """No text is lost, doubled, or put beside another width; runs keep to the limit."""
    runs = plan(counts, limit)

    assert list(range(len(counts))) == sorted(index for run in runs for index in run)
    for run in runs:
        assert 1 == len({width_of(counts[index]) for index in run})
        assert len(run) == 1 or sum(counts[index] for index in run) <= limit


@given(st.lists(st.integers(1, 48), min_size=1, max_size=20))
def test_packing_and_unpacking_is_the_identity(counts: list[int]) -> None:
    """A row laid out by text and taken back is itself; places beyond the end are the text's own."""
    packed = pack(np.array(counts), 48)
    rows = np.arange(sum(counts))

    laid_out = rows[packed.rows]

    assert rows.tolist() == laid_out.reshape(-1)[packed.places].tolist()
    assert [n for count in counts for n in range(count)] == packed.positions.tolist()
    for text, start, count in zip(laid_out, packed.starts, counts, strict=True):
        assert text[:count].tolist() == list(range(start, start + count))
        assert {start} >= set(text[count:].tolist())


@pytest.mark.parametrize(("count", "width"), [(1, 16), (16, 16), (17, 32), (512, 512)])
def test_width_is_the_next_multiple(count: int, width: int) -> None:
    """Short texts of unlike length share a width."""
    assert width == width_of(count)
    assert 0 == width % WIDTH_STEP


def test_nothing_to_plan() -> None:
    """No texts, no runs."""
    assert [] == plan([], 512)
