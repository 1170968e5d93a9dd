"""Free numbers: the lowest one is always next."""

from __future__ import annotations

import random

import pytest

from replicas import free_numbers
from synaptoroute.core.free_numbers import FreeNumbers

pytestmark = pytest.mark.unit


def in_use(*numbers: int) -> FreeNumbers:
    """Numbers of which these are in use."""
    made = FreeNumbers()
    made.claim_all(numbers)
    return made


def test_first_numbers_are_the_lowest() -> None:
    """From 0, if none is in use."""
    assert [0, 1, 2] == FreeNumbers().peek(3)


def test_peek_claims_nothing() -> None:
    """Two calls return the same numbers."""
    numbers = in_use(0, 2)

    assert numbers.peek(3) == numbers.peek(3) == [1, 3, 4]


def test_freed_numbers_come_before_new_ones() -> None:
    """Holes are filled, lowest first, before the high water rises."""
    numbers = in_use(*range(6))
    numbers.free(4)
    numbers.free(1)

    assert [1, 4, 6] == numbers.peek(3)


def test_high_water_falls_with_the_highest_number() -> None:
    """It depends only on the numbers in use, so a restored replica has the same."""
    numbers = in_use(0, 1, 2, 3)
    numbers.free(2)
    numbers.free(3)

    assert 2 == numbers.high_water
    assert free_numbers(in_use(0, 1)) == free_numbers(numbers)


def test_numbers_start_over_after_the_last_is_freed() -> None:
    numbers = in_use(7)
    numbers.free(7)

    assert free_numbers(FreeNumbers()) == free_numbers(numbers)


def test_claim_above_the_high_water_leaves_a_hole() -> None:
    """Skipped numbers are free and come next."""
    numbers = FreeNumbers()
    numbers.claim(3)

    assert [0, 1, 2, 4] == numbers.peek(4)


def test_number_in_use_cannot_be_claimed() -> None:
    with pytest.raises(KeyError):
        in_use(0, 1).claim(0)


@pytest.mark.parametrize("number", [-1, 1, 5])
def test_number_not_in_use_cannot_be_freed(number: int) -> None:
    """Whether it was never claimed or was freed before."""
    numbers = in_use(0, 1, 2)
    numbers.free(1)

    with pytest.raises(AssertionError, match="this is a bug"):
        numbers.free(number)


def test_claim_all_needs_unused_numbers() -> None:
    """It is for the boot: numbers in use before would be lost."""
    with pytest.raises(AssertionError, match="this is a bug"):
        in_use(0).claim_all([1])


def test_heap_does_not_grow_with_use() -> None:
    """When rows of a full tensor are rewritten, numbers are freed without a peek."""
    numbers = in_use(*range(10))
    for _ in range(5_000):
        numbers.free(4)
        numbers.claim(4)

    assert 2_000 > len(numbers._heap)


@pytest.mark.parametrize("seed", range(8))
def test_lowest_come_first_after_any_history(seed: int) -> None:
    """The structure behind them never shows."""
    draw = random.Random(seed)
    numbers, used = FreeNumbers(), set[int]()
    for _ in range(400):
        action = draw.random()
        if action < 0.45 and used:
            number = draw.choice([min(used), max(used), draw.choice(sorted(used))])
            used.remove(number)
            numbers.free(number)
        elif action < 0.5:
            number = numbers.high_water + draw.choice([0, 1, 5])
            used.add(number)
            numbers.claim(number)
        else:
            count = draw.choice([1, 3, 10, 100])
            every = range(numbers.high_water + count)
            expected = [number for number in every if number not in used][:count]
            assert expected == numbers.peek(count)
            for number in expected[: draw.choice([0, 1, count])]:
                used.add(number)
                numbers.claim(number)
    assert numbers.high_water == max(used, default=-1) + 1
