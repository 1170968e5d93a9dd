"""The golden probe: does this machine compute the vectors it should?

Sixteen fixed texts must come out within ``COSINE_MIN`` of vectors that were
computed once with all graph optimisation off.  A broken CPU, a miscompiled
runtime or a wrong execution provider is then found at start-up, not in the
answers.  Honest machines differ by about 1e-7.

The int8 graph is held to the same vectors.  Its rounding makes of such a difference
another draw of its own noise, so nothing closer than that noise can be asked of it
(0.96 was the least seen, with perturbed normalisations); whether its products are
exact, which is what differs between CPUs, ``exactness`` asks without any noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import Precision
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


def check_probe(
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    reference_file: Path,
    cosine_min: float = COSINE_MIN,
) -> float:
    """Encode the probe and compare it with the reference.

    Args:
        encode: Texts to float32[n, dim].
        reference_file: An ``npz`` file with ``vectors`` float32[16, dim].
        cosine_min: Least cosine that passes.

    Returns:
        The least cosine found.

    Raises:
        EncoderError: A vector is too far from its reference.
        ModelCorrupt: The reference cannot be read.
    """
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
    if not cosine >= cosine_min:
        raise EncoderError(
            "this CPU or runtime is numerically broken: the encoder's probe has cosine "
            f"{cosine:.6f} to its reference, at least {cosine_min} is needed",
            cosine=cosine,
        )
    return cosine
