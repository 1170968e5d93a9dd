"""Checks at start-up that this machine computes the right vectors.

The probe: sixteen fixed texts must come out within ``COSINE_MIN`` of vectors that were
computed once with all graph optimisation off.  This finds a broken CPU, a miscompiled
runtime or a wrong execution provider.  Sound machines differ by about 1e-7.

The int8 graph is compared with the same vectors.  Its rounding turns such a difference
into other noise, so nothing closer than that noise can be required (0.96 was the least
seen, with perturbed normalisations).  What differs between CPUs is whether integer
products are exact; ``check_exactness`` tests that without any noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import Precision
from synaptoroute.encoder.packed_session import MIDDLE, STEPS
from synaptoroute.encoder.session import open_session, run_session
from synaptoroute.errors import EncoderError, ModelCorrupt

COSINE_MIN: Final = 0.9999
COSINE_MIN_BY_PRECISION: Final[Mapping[Precision, float]] = {"float32": COSINE_MIN, "int8": 0.94}
PROBE_TEXTS: Final = (
    "refund",
    "Where is my parcel?",
    "I was charged twice for one order.",
    "Please close my account and delete what you know about me.",
    "The app shows error 502 since this morning!",
    "How do I change the address on an invoice",
    "¿Puedo pagar con tarjeta en la tienda?",
    "Ich möchte mein Kennwort zurücksetzen.",
    "今日の天気はどうですか",
    "SELECT name FROM routes WHERE threshold > 0.5;",
    "3.14159 + 2.71828 = 5.85987",
    "Turn off the lights in the kitchen, then play some quiet music in the living room.",
    "🚀🚀 ship it 🚀🚀",
    "antidisestablishmentarianism",
    "my flight was cancelled and the airline will not answer the phone, what are my rights and "
    "who pays for the hotel tonight",
    "yes",
)
PRODUCT_DEPTHS: Final = (384, 1536)
"""Depths of the products in the int8 graph: the runtime has a kernel for each shape."""
_PRODUCT_ROWS: Final = (1, 2, 7, 40)
_PRODUCT_COLUMNS: Final = 48
_GRAPHS: Final = Path(__file__).parent / "data"


def check_probe(
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    reference_file: Path,
    cosine_min: float = COSINE_MIN,
) -> float:
    """Encode the probe and compare it with the reference; returns the least cosine found."""
    try:
        content = BytesIO(reference_file.read_bytes())  # numpy leaves a broken file open
        with np.load(content, allow_pickle=False) as archive:
            reference = archive["vectors"].astype(np.float64)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise ModelCorrupt(
            f"{reference_file.name} cannot be read: {error}", file=reference_file.name
        ) from error
    vectors = encode(PROBE_TEXTS).astype(np.float64)
    if vectors.shape != reference.shape:
        raise ModelCorrupt(
            f"the probe gives {vectors.shape}, its reference has {reference.shape}",
            file=reference_file.name,
        )
    cosine = float((vectors * reference).sum(axis=1).min())
    if not cosine >= cosine_min:  # also refuses NaN
        raise EncoderError(
            "this CPU or runtime is numerically broken: the encoder's probe has cosine "
            f"{cosine:.6f} to its reference, at least {cosine_min} is needed",
            cosine=cosine,
        )
    return cosine


def check_exactness() -> None:
    """Multiply extreme activations and weights, and compare with exact integers."""
    # A CPU without VNNI adds two products of bytes in 16 bits and saturates.  With
    # activations of at most 127 the sum fits; a kernel that needs more would show here.
    for depth in PRODUCT_DEPTHS:
        weights = extreme_weights(depth).astype(np.int64)
        graph = (_GRAPHS / product_file(depth)).read_bytes()
        session = open_session(graph, "product", ["CPUExecutionProvider"])
        for count, zero in product(_PRODUCT_ROWS, (0, MIDDLE)):
            rows = np.full((count, depth), STEPS, dtype=np.uint8)
            rows[1::3, ::2] = 0
            expected = (rows.astype(np.int64) - zero) @ weights
            feeds = {"rows": rows, "zero": np.array(zero, dtype=np.uint8)}
            found = run_session(session, "products", feeds)
            if not np.array_equal(expected, found):
                raise EncoderError(
                    "this CPU or runtime multiplies bytes wrongly: use precision float32",
                    depth=depth,
                    rows=count,
                )


def product_file(depth: int) -> str:
    """Name of the shipped graph of one product with ``extreme_weights``."""
    return f"product_{depth}.onnx"


def extreme_weights(depth: int) -> NDArray[np.int8]:
    """Columns of the least value, of the greatest, and of both alternating."""
    weights = np.full((depth, _PRODUCT_COLUMNS), 127, dtype=np.int8)
    weights[:, 1::3] = -128
    weights[1::2, 2::3] = -127
    return weights
