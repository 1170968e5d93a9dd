"""Goal: every text runs once, within the budget, with little padding."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.encoder.session import PADDING_SHARE_MAX, RUN_COST_TOKENS, plan

pytestmark = pytest.mark.unit

LENGTHS = st.lists(st.integers(1, 600), max_size=80)


def price(counts: list[int], runs: list[list[int]]) -> int:
    return sum(RUN_COST_TOKENS + len(run) * max(counts[i] for i in run) for run in runs)


def padding_share(counts: list[int], run: list[int]) -> float:
    size = len(run) * max(counts[i] for i in run)
    return 1 - sum(counts[i] for i in run) / size


def test_nothing_needs_no_run() -> None:
    """An empty batch is planned as no work."""
    assert [] == plan([], 512)


def test_equal_lengths_fill_runs_to_the_budget() -> None:
    """Equal lengths meet without padding, as many as the budget allows."""
    runs = plan([10] * 100, 200)

    assert [20] * 5 == [len(run) for run in runs]


def test_text_over_the_budget_runs_alone() -> None:
    """A long text is neither refused nor mixed."""
    assert [[1], [0]] == plan([900, 5], 512)


def test_texts_max_one_runs_each_text_alone() -> None:
    """A graph that is not batch-invariant gets one text a run."""
    assert [[1], [2], [0]] == plan([7, 5, 5], 512, texts_max=1)


def test_far_lengths_do_not_meet() -> None:
    """Padding 5 tokens to 40 costs more than another run."""
    assert [[1], [0]] == plan([40, 5], 512)


def test_near_lengths_meet_where_padding_is_cheaper_than_a_run() -> None:
    """One padded token is cheaper than a run's fixed price."""
    assert [[1, 0]] == plan([20, 19], 512)


def test_large_groups_of_near_lengths_stay_apart() -> None:
    """Padding a whole group is dearer than one more run."""
    runs = plan([20] * 12 + [19] * 12, 512)

    assert [set(range(12, 24)), set(range(12))] == [set(run) for run in runs]


@given(LENGTHS, st.integers(1, 700))
def test_each_text_runs_once_within_the_budget(counts: list[int], tokens_max: int) -> None:
    """No text is lost or doubled; only a lone text may break the budget."""
    runs = plan(counts, tokens_max)

    assert list(range(len(counts))) == sorted(itertools.chain.from_iterable(runs))
    for run in runs:
        assert len(run) == 1 or len(run) * max(counts[i] for i in run) <= tokens_max
        assert padding_share(counts, run) <= PADDING_SHARE_MAX + 1e-9


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(30, 120))
def test_plan_is_the_cheapest_contiguous_cut(counts: list[int], tokens_max: int) -> None:
    """No other cut of the sorted texts that keeps the rules costs less."""
    order = sorted(range(len(counts)), key=lambda i: (counts[i], i))
    best = None
    for cuts in itertools.product((False, True), repeat=len(order) - 1):
        runs, run = [], [order[0]]
        for index, cut in zip(order[1:], cuts, strict=True):
            if cut:
                runs.append(run)
                run = []
            run.append(index)
        runs.append(run)
        allowed = all(
            len(run) == 1
            or (
                len(run) * max(counts[i] for i in run) <= tokens_max
                and padding_share(counts, run) <= PADDING_SHARE_MAX
            )
            for run in runs
        )
        if allowed:
            best = min(best or price(counts, runs), price(counts, runs))

    assert best == price(counts, plan(counts, tokens_max))
