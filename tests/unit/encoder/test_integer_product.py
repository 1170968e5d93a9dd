"""Products of bytes, compared with the same products in 64 bits."""

from __future__ import annotations

import numpy as np
import pytest

from synaptoroute.encoder.integer_product import IntegerProduct, integer_product

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def product() -> IntegerProduct:
    found = integer_product()
    assert found is not None, "the runtime's integer product is wrong on this machine"
    return found


@pytest.mark.parametrize("dim", [1, 5, 31, 384, 1_024])
@pytest.mark.parametrize("columns_count", [1, 3, 16, 64])
def test_product_is_exact(product: IntegerProduct, dim: int, columns_count: int) -> None:
    """For any width and number of rows, with extreme values."""
    random = np.random.default_rng(dim)
    most = product.digit_max
    for rows_count in (1, 16, 131):
        rows = random.integers(0, 256, (rows_count, dim)).astype(np.uint8)
        rows[::3] = 255
        columns = random.integers(-most, most + 1, (dim, columns_count)).astype(np.int8)
        columns[:, ::2] = most
        out = np.empty((rows_count, columns_count), np.int32)
        product(rows, columns, out)

        np.testing.assert_array_equal((rows.astype(np.int64) - 128) @ columns.astype(np.int64), out)


def test_product_reads_the_arrays_at_each_call(product: IntegerProduct) -> None:
    """The bound arrays may change between two calls."""
    rows = np.full((4, 8), 129, np.uint8)
    columns = np.ones((8, 2), np.int8)
    out = np.empty((4, 2), np.int32)
    product(rows, columns, out)
    first = out.copy()
    rows[:] = 131
    product(rows, columns, out)

    assert (8, 24) == (first[0, 0], out[0, 0])


def test_views_of_larger_arrays_are_multiplied(product: IntegerProduct) -> None:
    """Input and output may be slices."""
    rows = np.arange(64, dtype=np.uint8).reshape(8, 8)
    out = np.zeros((8, 1), np.int32)
    product(rows[2:5], np.ones((8, 1), np.int8), out[3:6])

    assert (rows[2:5].astype(np.int64) - 128).sum(axis=1).tolist() == out[3:6, 0].tolist()
    assert [0] * 5 == [*out[:3, 0].tolist(), *out[6:, 0].tolist()]
