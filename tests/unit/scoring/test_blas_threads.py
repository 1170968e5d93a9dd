"""Numpy is limited to one thread for a while."""

from __future__ import annotations

import pytest

from synaptoroute.threads import blas_functions, single_blas_thread

pytestmark = pytest.mark.unit


def test_thread_count_is_restored_after_an_error() -> None:
    functions = blas_functions()
    if functions is None:
        pytest.skip("this numpy has no OpenBLAS")
    count_threads, _ = functions
    before = count_threads()

    @single_blas_thread()
    def fail() -> None:
        assert 1 == count_threads()
        raise ValueError("meanwhile")

    with pytest.raises(ValueError, match="meanwhile"):
        fail()
    assert before == count_threads()


def test_numpy_without_openblas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synaptoroute.threads.blas_functions", lambda: None)
    with single_blas_thread():
        entered = True

    assert entered
