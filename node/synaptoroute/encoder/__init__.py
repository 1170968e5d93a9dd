"""Encoders: texts to vectors.

``contract`` is the interface, ``onnx_encoder`` the implementation for real models.  ONNX
Runtime, the tokenizer library and fastembed are loaded with a model, not by an import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import synaptoroute.installation  # noqa: F401  raises where another project's files are mixed in
from synaptoroute.config import DEFAULT_MODEL, Precision
from synaptoroute.encoder.catalogue import (
    ModelSummary,
    fetch_model,
    list_models,
    open_graphless,
)
from synaptoroute.encoder.contract import EncoderStats, TextEncoder, Tokens, Vocabulary
from synaptoroute.encoder.hash_encoder import NAME_PATTERN, HashEncoder
from synaptoroute.encoder.onnx_encoder import Encoder
from synaptoroute.encoder.presets import PRESETS, Preset
from synaptoroute.encoder.static_table import StaticTable, distil
from synaptoroute.encoder.table_files import (
    find_table,
    load_table,
    save_table,
    shipped_table,
    table_file,
)

__all__ = [
    "DEFAULT_MODEL",
    "PRESETS",
    "Encoder",
    "EncoderStats",
    "HashEncoder",
    "ModelSummary",
    "Preset",
    "StaticTable",
    "TextEncoder",
    "Tokens",
    "Vocabulary",
    "distil",
    "fetch_model",
    "find_table",
    "list_models",
    "load_table",
    "open_encoder",
    "save_table",
    "shipped_table",
    "table_file",
]


def open_encoder(
    model: str = DEFAULT_MODEL,
    *,
    precision: Precision = "auto",
    providers: Sequence[str] = ("CPUExecutionProvider",),
    cache_dir: Path | None = None,
) -> TextEncoder:
    """Open an encoder by the name of a preset or of a model; ``test-hash-<dim>`` is for tests.

    An encoder without a graph has no precision and accepts any.

    Raises:
        ConfigError: A provider, dimension or precision is not available.
        ModelNotFound: No such model.
        ModelCorrupt: A file is not the expected one.
        EncoderError: The download failed, or the model does not work here.
    """
    hashed = NAME_PATTERN.fullmatch(model)
    if hashed:
        return HashEncoder(int(hashed[1]))
    graphless = open_graphless(model, cache_dir)
    if graphless is not None:
        return graphless
    return Encoder(model, precision=precision, providers=providers, cache_dir=cache_dir)
