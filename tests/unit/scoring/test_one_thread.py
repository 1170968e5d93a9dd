"""Goal: numpy's threads are kept back for a while, and given back."""

from __future__ import annotations

import pytest

from synaptoroute.scoring.one_thread import blas_functions, on_one_thread

pytestmark = pytest.mark.unit


def test_threads_are_given_back_also_after_an_error() -> None:
    """As many as there were."""
    functions = blas_functions()
    if functions is None:
        pytest.skip("this numpy has no OpenBLAS")
    count_threads, _ = functions
    before = count_threads()

    @on_one_thread()
    def fail() -> None:
        assert 1 == count_threads()
        raise ValueError("meanwhile")

    with pytest.raises(ValueError, match="meanwhile"):
        fail()
    assert before == count_threads()


def test_numpy_without_openblas_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set, and nothing fails."""
    monkeypatch.setattr("synaptoroute.scoring.one_thread.blas_functions", lambda: None)
    with on_one_thread():
        entered = True

    assert entered
