"""Linear algebra on the caller's thread alone, where others need the cores.

OpenBLAS shares a decomposition among threads that meet a thousand times and spin meanwhile.
Beside lanes that encode, each meeting waits for the scheduler: fitting a turn took 1.7 s of
two cores instead of 0.04 s of one.  A numpy with another library is left as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, Final

_NAMES: Final = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
)
_EXTENSION: Final = "numpy._core._multiarray_umath"


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Keep numpy's products and decompositions to one thread meanwhile, process-wide."""
    functions = blas_functions()
    if functions is None:
        yield
        return
    count_threads, use_threads = functions
    before = count_threads()
    use_threads(1)
    try:
        yield
    finally:
        use_threads(before)


@cache
def blas_functions() -> tuple[Any, Any] | None:
    """Find how numpy's OpenBLAS tells and takes its count of threads; None without one."""
    found = find_spec(_EXTENSION)
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)  # a look-up goes on to what it is linked with
    except OSError:
        return None
    for count, use in _NAMES:
        if hasattr(library, use) and hasattr(library, count):
            return getattr(library, count), getattr(library, use)
    return None
