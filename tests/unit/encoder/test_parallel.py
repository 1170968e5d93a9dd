"""Batches that are encoded on several threads."""

from __future__ import annotations

import numpy as np
import pytest

from synaptoroute.encoder import Encoder, HashEncoder
from synaptoroute.encoder.parallel import ParallelEncoder
from synaptoroute.encoder.static_table import distil


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_vectors_are_those_of_one_thread(threads: int) -> None:
    encoder = HashEncoder(64)
    parallel = ParallelEncoder(encoder, threads)
    tokens = encoder.tokenize([f"text {number}" for number in range(7)])

    assert np.array_equal(encoder.encode_tokens(tokens), parallel.encode_tokens(tokens))
    assert np.array_equal(encoder.encode_tokens(tokens[:1]), parallel.encode_tokens(tokens[:1]))


def test_table_is_that_of_one_thread() -> None:
    encoder = Encoder()
    expected = distil(encoder, tokens_max=300)
    found = distil(ParallelEncoder(encoder, 3), tokens_max=300)
    encoder.close()

    assert (expected.fingerprint, expected.checksum) == (found.fingerprint, found.checksum)


def test_failure_of_one_thread_is_raised() -> None:
    class Failing:
        fingerprint = "0" * 64

        def vocabulary(self) -> object:
            raise NotImplementedError

        def encode_tokens(self, tokens: object) -> object:
            raise RuntimeError("no vectors")

    tokens = HashEncoder(64).tokenize(["one", "two"])
    with pytest.raises(RuntimeError, match="no vectors"):
        ParallelEncoder(Failing(), 2).encode_tokens(tokens)  # type: ignore[arg-type]
