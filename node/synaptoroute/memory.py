"""Memory: arrays in pages of their own, and freed memory back to the system.

The C library serves a large block from pages that the system zeroes when they are first touched.
After a larger block was freed it serves such a block from its heap: then all of it is resident at
once, and stays so when it is freed below a block in use.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

ScalarT = TypeVar("ScalarT", bound=np.generic)

_PAGED_BYTES_MIN: Final = 1 << 18
"""Smaller arrays come from the heap: a mapping of their own takes two system calls."""
_HUGE_BYTES_MIN: Final = 1 << 22
"""As numpy does, arrays of so many bytes ask for huge pages: a scan is up to a third faster."""
_TRIM_THRESHOLD: Final = -1  # ``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of malloc.h
_MMAP_THRESHOLD: Final = -3
_MAPPED_BYTES_MIN: Final = 2 << 20
"""With half of it a run of the encoder maps its results anew: 40 page faults a query."""
_KEPT_BYTES_MAX: Final = 8 << 20
_ASKED: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def zeroed_array(shape: tuple[int, ...], dtype: type[ScalarT] | np.dtype[Any]) -> NDArray[Any]:
    """Allocate zeros; rows of a large array take memory when they are written.

    The array owns its memory, which goes back to the system with it.
    """
    kind = np.dtype(dtype)
    size_bytes = kind.itemsize
    for length in shape:
        size_bytes *= length
    if size_bytes < _PAGED_BYTES_MIN:
        return np.zeros(shape, kind)
    # Private: a shared mapping would be seen by processes that are forked later.
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size_bytes >= _HUGE_BYTES_MIN and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.ndarray(shape, kind, buffer=pages)


def bound_freed_memory() -> None:
    """Have blocks of two mebibytes and more go back to the system as soon as they are freed.

    Of smaller ones each thread keeps eight mebibytes at most.  Without it glibc keeps up to twice
    the largest block that was ever freed, for each thread: a job of hundreds of mebibytes leaves
    tens of them behind.  What an operator asks for by the
    environment stays.  Elsewhere nothing happens.
    """
    if any(name in os.environ for name in _ASKED):
        return
    with suppress(OSError, AttributeError, TypeError):
        tune = ctypes.CDLL(None).mallopt
        tune(_MMAP_THRESHOLD, _MAPPED_BYTES_MIN)
        tune(_TRIM_THRESHOLD, _KEPT_BYTES_MAX)


def release_memory() -> None:
    """Give freed memory back to the system, after a job of hundreds of mebibytes.

    The C library keeps what a job freed for the next one, which may come in a week.  Only glibc
    can be asked; elsewhere nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
