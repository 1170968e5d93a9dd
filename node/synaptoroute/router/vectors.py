"""Vectors that a caller gives, and vectors as bytes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.errors import InvalidVector

NORM_TOLERANCE: Final = 1e-3


def checked_rows(vectors: Sequence[Sequence[float]], dim: int) -> NDArray[np.float32]:
    """Check vectors that a caller gave.

    Returns:
        float32[n, dim].

    Raises:
        InvalidVector: They are not n x dim, not finite, or not of unit length.
    """
    for index, vector in enumerate(vectors):
        if not isinstance(vector, Sequence | np.ndarray):
            raise InvalidVector(f"vector {index} is not a list of numbers", index=index)
        if len(vector) != dim:
            raise InvalidVector(
                f"vector {index} has {len(vector)} values, the encoder has {dim}", index=index
            )
    try:
        with np.errstate(over="ignore"):
            rows = _float64s(vectors, dim).astype("<f4")
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidVector(f"a vector is not a list of numbers: {error}") from error
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        index = int(np.argmin(finite))
        raise InvalidVector(f"vector {index} holds a value that is not finite", index=index)
    norms = np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1))
    off = np.abs(norms - 1.0) > NORM_TOLERANCE
    if off.any():
        index = int(np.argmax(off))
        raise InvalidVector(
            f"vector {index} has length {norms[index]:.6g}, not 1 within {NORM_TOLERANCE:g}",
            index=index,
        )
    return rows


def _float64s(vectors: Sequence[Sequence[float]], dim: int) -> NDArray[np.float64]:
    # struct converts lists of floats, as JSON gives them, in a third of NumPy's time.
    if all(type(vector) is list for vector in vectors):
        pack = struct.Struct(f"{dim}d").pack
        try:
            packed = b"".join([pack(*vector) for vector in vectors])
        except (struct.error, TypeError, OverflowError):
            pass  # NumPy converts it, or raises the error that the caller reports
        else:
            return np.frombuffer(packed, np.float64).reshape(len(vectors), dim)
    return np.asarray(vectors, dtype=np.float64)


def row_bytes(rows: NDArray[np.float32]) -> tuple[bytes, ...]:
    """Split float32[n, dim] into one little-endian byte string a row."""
    return tuple(map(np.ndarray.tobytes, np.ascontiguousarray(rows, dtype="<f4")))
