"""Linear algebra on one thread, for tasks that run beside other work.

OpenBLAS splits a decomposition among threads that synchronize a thousand times and spin
meanwhile.  Beside encoder workers, each synchronization waits for the scheduler: one
decomposition took 1.7 s of two cores instead of 0.04 s of one.  A numpy with another
library is left as it is.
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
def single_blas_thread() -> Iterator[None]:
    """Limit numpy's products and decompositions to one thread, in the whole process."""
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
    """Find the getter and the setter of OpenBLAS's thread count; None without OpenBLAS."""
    found = find_spec(_EXTENSION)
    if found is None or found.origin is None:
        return None
    try:
        # A symbol is also looked up in the libraries that the extension is linked with.
        library = ctypes.CDLL(found.origin)
    except OSError:
        return None
    for count, use in _NAMES:
        if hasattr(library, use) and hasattr(library, count):
            return getattr(library, count), getattr(library, use)
    return None
