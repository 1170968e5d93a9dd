"""The hash of an import: the text of ``json.dumps``, which other releases hash too."""

from __future__ import annotations

import json
import random
import struct
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest

from synaptoroute.models import Route
from synaptoroute.router.import_hash import ImportHash, text_of_vectors


def dumped(value: Any) -> str:
    """The text that releases before this module wrote."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def test_numbers_of_all_sizes_are_written_as_json_dumps_writes_them() -> None:
    draw = random.Random(3)
    bits = [struct.unpack("<d", draw.randbytes(8))[0] for _ in range(2_000)]
    powers = [2.0**exponent for exponent in range(-1_074, 1_024)]
    tens = [float(f"{digits}e{exponent}") for exponent in range(-308, 308) for digits in (1, 1.5)]
    cells = [float(np.float32(draw.gauss(0, 0.05))) for _ in range(4_000)]
    edges = [0.0, -0.0, 1e-4, 9.999999999999999e-5, 1e16, 9999999999999998.0, 1.0, -1.0]

    for numbers in (bits, powers, tens, cells, edges, [-value for value in tens]):
        for start in range(0, len(numbers), 64):
            vectors = [numbers[start : start + 64]]
            assert text_of_vectors(vectors) == dumped(vectors)


@pytest.mark.parametrize(
    "vectors",
    [
        [],
        [[]],
        [[1, 2]],
        [[True, 0.5]],
        ((0.5, 1e-5),),
        [(1.0, 2.0)],
        [[np.float64(1e-5)]],
        [[None]],
    ],
)
def test_what_is_no_list_of_floats_is_written_as_before(vectors: Any) -> None:
    assert text_of_vectors(vectors) == dumped(vectors)


@pytest.mark.parametrize(
    "route",
    [
        Route(name="r", utterances=["a", "b"]),
        Route(name="r", utterances=["ä"], vectors=[[0.6, -8e-5]], metadata={"k": "v"}),
        Route(name="r", utterances=["a"], vectors=[[1.0]], negatives=["n"], confidence_min=0.5),
        Route(name="r", utterances=["a"], description="d", threshold=0.3, payload=[1, {"b": None}]),
    ],
)
def test_a_route_is_hashed_as_earlier_releases_hash_it(route: Route) -> None:
    fields = (route.name, route.utterances, route.threshold, route.metadata, route.payload)
    new = (route.confidence_min, route.description, route.negatives)
    more = () if new == (None, None, []) else new
    text = dumped((*fields, route.vectors, *more))
    expected = blake2b(b"merge\nplan" + text.encode() + b"\n", digest_size=16).digest()

    found = ImportHash(replace=False, more=b"plan")
    found.add(route)

    assert found.digest() == expected
    assert found.utterances == len(route.utterances)
