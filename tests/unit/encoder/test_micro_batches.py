"""Micro-batches: every text runs once, within the limit, with little padding."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synaptoroute.encoder.session import CPU_COSTS, GPU_COSTS, check_started, costs_of, plan
from synaptoroute.errors import ConfigError

pytestmark = pytest.mark.unit

LENGTHS = st.lists(st.integers(1, 600), max_size=80)


def price(counts: list[int], runs: list[list[int]]) -> int:
    return sum(CPU_COSTS.run_tokens + len(run) * max(counts[i] for i in run) for run in runs)


def padding_share(counts: list[int], run: list[int]) -> float:
    size = len(run) * max(counts[i] for i in run)
    return 1 - sum(counts[i] for i in run) / size


def test_empty_batch_needs_no_run() -> None:
    """The plan is empty."""
    assert [] == plan([], 512)


def test_equal_lengths_fill_runs_to_the_limit() -> None:
    """Without padding, as many as the limit allows."""
    runs = plan([10] * 100, 200)

    assert [20] * 5 == [len(run) for run in runs]


def test_text_over_the_limit_runs_alone() -> None:
    """A long text is neither refused nor mixed."""
    assert [[1], [0]] == plan([900, 5], 512)


def test_texts_max_one_runs_each_text_alone() -> None:
    """A graph that is not batch-invariant gets one text a run."""
    assert [[1], [2], [0]] == plan([7, 5, 5], 512, texts_max=1)


def test_very_different_lengths_do_not_share_a_run() -> None:
    """Padding 5 tokens to 40 costs more than another run."""
    assert [[1], [0]] == plan([40, 5], 512)


def test_similar_lengths_share_a_run_if_padding_is_cheaper() -> None:
    """One padded token costs less than a run."""
    assert [[1, 0]] == plan([20, 19], 512)


def test_large_groups_of_similar_lengths_do_not_share_a_run() -> None:
    """Padding a whole group costs more than another run."""
    runs = plan([20] * 12 + [19] * 12, 512)

    assert [set(range(12, 24)), set(range(12))] == [set(run) for run in runs]


@given(LENGTHS, st.integers(1, 700))
def test_each_text_runs_once_within_the_limit(counts: list[int], tokens_max: int) -> None:
    """Only a text alone may exceed the limit."""
    runs = plan(counts, tokens_max)

    assert list(range(len(counts))) == sorted(itertools.chain.from_iterable(runs))
    for run in runs:
        assert len(run) == 1 or len(run) * max(counts[i] for i in run) <= tokens_max
        assert padding_share(counts, run) <= CPU_COSTS.padding_share_max + 1e-9


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(30, 120))
def test_plan_is_the_cheapest_contiguous_split(counts: list[int], tokens_max: int) -> None:
    """No other valid split of the sorted texts costs less."""
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
                and padding_share(counts, run) <= CPU_COSTS.padding_share_max
            )
            for run in runs
        )
        if allowed:
            best = min(best or price(counts, runs), price(counts, runs))

    assert best == price(counts, plan(counts, tokens_max))


def test_gpu_gets_few_large_runs() -> None:
    """A run costs a GPU as much as thousands of tokens, so lengths may differ in one."""
    counts = [5 + number % 12 for number in range(512)]

    assert GPU_COSTS == costs_of(["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert CPU_COSTS == costs_of(["CPUExecutionProvider"])
    runs = plan(counts, GPU_COSTS.tokens_max, costs=GPU_COSTS)
    assert 1 == len(runs)
    assert 10 < len(plan(counts, CPU_COSTS.tokens_max))


def test_gpu_that_cannot_be_started_is_not_replaced_silently(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    with pytest.raises(ConfigError, match="cannot start CUDAExecutionProvider"):
        check_started([cuda], [cpu])
    check_started([cuda, cpu], [cpu])
    assert "cannot start CUDAExecutionProvider" in caplog.text
    caplog.clear()
    check_started([cuda], [cuda, cpu])
    assert "" == caplog.text
