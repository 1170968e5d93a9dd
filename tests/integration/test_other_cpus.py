"""Goal: the bundled model routes on a CPU that is not this one.  Method: qemu emulates it.

An emulated Haswell has AVX2, but neither AVX-512 nor VNNI nor AMX: its products of bytes
add pairs in 16 bits and saturate, as those of many machines in use do.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from needs import require
from repository import SOURCE_ROOTS
from synaptoroute.config import Precision
from synaptoroute.encoder import Encoder

EMULATION_SECONDS_MAX = 240
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

COSINE_MIN = 0.99
DIGITS_WITHOUT_VNNI = 63
TEXTS = ("Where is my parcel?", "I want my money back", "Please change my address to 5 Elm Street")

PROGRAM = """
import json, sys
from synaptoroute.encoder import Encoder
from synaptoroute.encoder.integer_product import integer_product
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
precision, *texts = sys.argv[1:]
encoder = Encoder(precision=precision)
product = integer_product()
router = AdaptiveRouter(encoder)
router.add_route(Route(name="order-status", utterances=["Where is my package?"]))
router.add_route(Route(name="refund", utterances=["I would like my money back"]))
print(json.dumps({
    "fingerprint": encoder.fingerprint,
    "vectors": encoder.encode(texts).tolist(),
    "digit_max": product and product.digit_max,
    "routes": [router.query(text).route for text in texts[:2]],
}))
router.close()
encoder.close()
"""


def emulated(cpu: str, *arguments: str) -> dict[str, Any]:
    """Run the program on a CPU of that name; give what it prints."""
    if platform.machine() != "x86_64":
        pytest.skip(
            f"qemu-x86_64 runs the Python of an x86-64 machine, this is a {platform.machine()}"
        )
    words = [str(require("qemu-x86_64")), "-cpu", cpu, sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCE_ROOTS))},
        capture_output=True,
        text=True,
        check=False,
        timeout=EMULATION_SECONDS_MAX,
    )
    assert 0 == done.returncode, done.stderr[-4_000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("precision", ["int8", pytest.param("float32", marks=pytest.mark.accept)])
def test_a_cpu_without_vnni_gives_the_same_vectors_and_routes(precision: Precision) -> None:
    """Equal fingerprints promise vectors that may be shared: what this CPU gives is near."""
    found = emulated("Haswell", precision, *TEXTS)
    encoder = Encoder(precision=precision)
    here = encoder.encode(TEXTS)
    fingerprint = encoder.fingerprint
    encoder.close()

    assert fingerprint == found["fingerprint"]
    assert COSINE_MIN < (here * np.array(found["vectors"])).sum(axis=1).min()
    assert DIGITS_WITHOUT_VNNI == found["digit_max"], "the emulated CPU is not the one meant"
    assert ["order-status", "refund"] == found["routes"]
