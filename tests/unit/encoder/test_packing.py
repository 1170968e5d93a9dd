"""Goal: every token has one place, and a text's shape is its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.encoder.packing import WIDTH_STEP, Layout, Packing, pack, plan, width_of

pytestmark = pytest.mark.unit

LAYOUT = Layout(12)
COUNTS = st.lists(st.integers(1, 512), max_size=60)


@given(COUNTS, st.integers(1, 1_024), st.integers(1, 3))
def test_plan_names_each_text_once_in_runs_of_few_widths(
    counts: list[int], limit: int, widths_max: int
) -> None:
    """No text is lost or doubled; runs keep to both limits, and widths ascend."""
    runs = plan(counts, limit, widths_max)

    assert list(range(len(counts))) == sorted(index for run in runs for index in run)
    for run in runs:
        widths = [width_of(counts[index]) for index in run]
        assert widths == sorted(widths)
        assert len(set(widths)) <= widths_max
        assert len(run) == 1 or sum(counts[index] for index in run) <= limit


def laid_out(packed: Packing, heads: int, part: str) -> list[int]:
    """Follow each head of each row into attention and back: which rows of one head it meets."""
    places = np.concatenate([getattr(group, part).reshape(-1) for group in packed.groups])
    rows = places[packed.heads]
    assert rows.shape == (len(packed.positions), heads)
    return rows.tolist()


@given(
    st.lists(st.integers(1, 48), min_size=1, max_size=20).map(
        lambda counts: sorted(counts, key=width_of)
    ),
    st.integers(1, 4),
    st.sampled_from([(1, 1, 1), (3, 1, 1), (3, 16, 4)]),
)
def test_packing_and_unpacking_is_the_identity(
    counts: list[int], heads: int, steps: tuple[int, int, int]
) -> None:
    """A head's row laid out by text and taken back is itself, whichever part it is of."""
    widths, rows_step, texts_step = steps
    packed = pack(np.array(counts), 48, Layout(heads, widths, rows_step, texts_step))
    tokens = sum(counts)

    for part, name in enumerate(("queries", "keys", "values")):
        own = [[(row * 3 + part) * heads + head for head in range(heads)] for row in range(tokens)]
        assert own == laid_out(packed, heads, name)[:tokens]
    assert [n for count in counts for n in range(count)] == packed.positions[:tokens].tolist()
    assert 0 == len(packed.positions) % rows_step
    assert tokens == len(np.unique(packed.places))
    assert widths == len(packed.groups)
    assert packed.starts.tolist() == [sum(counts[:n]) for n in range(len(counts))]


@given(st.lists(st.integers(1, 48), min_size=1, max_size=20))
def test_a_text_sees_itself_alone(counts: list[int]) -> None:
    """Its own tokens in order, its first one beyond its end, where all is masked."""
    counts.sort(key=width_of)
    packed = pack(np.array(counts), 48, Layout(2, 3, 16, 4))
    texts = list(zip(packed.starts.tolist(), counts, strict=True))

    for group in packed.groups:
        assert 0 == len(group.mask) % 4
        width = group.mask.shape[-1]
        own = [text for text in texts if width_of(text[1]) == width and len(group.mask)]
        for index, (start, count) in enumerate(own):
            places = [start + n for n in range(count)] + [start] * (width - count)
            assert [row * 3 * 2 + 1 for row in places] == group.queries[index, 1].tolist()
            assert [1] * count + [0] * (width - count) == group.mask[index, 0, 0].tolist()
        assert group.mask[len(own) :].all()
        assert not group.queries[len(own) :, 0].any()


@pytest.mark.parametrize(("count", "width"), [(1, 16), (16, 16), (17, 32), (512, 512)])
def test_width_is_the_next_multiple(count: int, width: int) -> None:
    """Short texts of unlike length share a width."""
    assert width == width_of(count)
    assert 0 == width % WIDTH_STEP


def test_layout_of_a_short_text_alone_is_kept() -> None:
    """It is made once, equals the one made anew, and nobody can change it."""
    kept = pack(np.array([7]), 16, LAYOUT)
    among = pack(np.array([7, 3]), 16, LAYOUT)

    assert kept is pack(np.array([7]), 16, LAYOUT)
    assert kept is not pack(np.array([6]), 16, LAYOUT)
    assert np.array_equal(among.groups[0].queries[:1], kept.groups[0].queries)
    assert np.array_equal(among.heads[:7], kept.heads)
    with pytest.raises(ValueError, match="read-only"):
        kept.groups[0].queries[0] = 0


def test_nothing_to_plan() -> None:
    """No texts, no runs."""
    assert [] == plan([], 512, 1)
