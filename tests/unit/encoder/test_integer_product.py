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
@pytest.mark.parametrize("queries_count", [1, 3, 16, 64])
def test_product_is_exact(product: IntegerProduct, dim: int, queries_count: int) -> None:
    """For any width and number of blocks, with extreme values."""
    random = np.random.default_rng(dim)
    most = product.digit_max
    for blocks_count, width in ((1, 128), (3, 128), (2, 7)):
        blocks = random.integers(-127, 128, (blocks_count, dim, width)).astype(np.int8)
        blocks[:, :, ::3] = 127
        blocks[:, :, 1::3] = -127
        digits = random.integers(-most, most + 1, (queries_count, dim)).astype(np.int8)
        digits[::2] = most
        out = np.empty((blocks_count, queries_count, width), np.int32)
        product(digits, blocks, blocks.sum(axis=1, dtype=np.int32), out)

        np.testing.assert_array_equal(digits.astype(np.int64) @ blocks.astype(np.int64), out)


def test_product_reads_the_arrays_at_each_call(product: IntegerProduct) -> None:
    """The bound arrays may change between two calls."""
    digits = np.ones((2, 8), np.int8)
    blocks = np.ones((1, 8, 4), np.int8)
    out = np.empty((1, 2, 4), np.int32)
    product(digits, blocks, np.full((1, 4), 8, np.int32), out)
    first = out.copy()
    blocks[:] = 3
    product(digits, blocks, np.full((1, 4), 24, np.int32), out)

    assert (8, 24) == (first[0, 0, 0], out[0, 0, 0])


def test_views_of_larger_arrays_are_multiplied(product: IntegerProduct) -> None:
    """Input and output may be slices."""
    blocks = np.arange(64, dtype=np.int8).reshape(8, 4, 2)
    out = np.zeros((8, 1, 2), np.int32)
    sums = blocks.sum(axis=1, dtype=np.int32)
    product(np.ones((1, 4), np.int8), blocks[2:5], sums[2:5], out[3:6])

    assert blocks[2:5].sum(axis=1).tolist() == out[3:6, 0].tolist()
    assert not out[:3].any()
    assert not out[6:].any()
