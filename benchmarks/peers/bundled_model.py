"""Makes fastembed load the same ONNX file that this project's encoder uses.

fastembed wants a folder with ``tokenizer_config.json``; the one written here only says
what its own copy of this model says.  Every peer then builds its own encoder class,
unchanged: fastembed opens the session with its own options and default thread counts,
pads a batch to its longest text (fastembed since 0.9 replaces the fixed padding of this
tokenizer; earlier ones kept it at 128 tokens, many times the work), and caches nothing.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

import fastembed
from fastembed.common.model_description import ModelSource, PoolingType

NAME = "bundled-minilm"
DIM = 384
MAX_TOKENS = 256


def register(model_file: Path, tokenizer_file: Path) -> str:
    """Register the model with fastembed, to be loaded from disk; return its name."""
    folder = Path(tempfile.mkdtemp(prefix="bench-model-"))
    shutil.copy(model_file, folder / "model.onnx")
    shutil.copy(tokenizer_file, folder / "tokenizer.json")
    config = {"model_max_length": MAX_TOKENS, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"pad_token_id": 0}), encoding="utf-8")
    fastembed.TextEmbedding.add_custom_model(
        model=NAME,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="local/bundled"),
        dim=DIM,
        model_file="model.onnx",
    )
    os.environ["HF_HUB_OFFLINE"] = "1"
    # The peers' classes have no argument for a local folder; this gives them one.
    fastembed.TextEmbedding = functools.partial(  # type: ignore[misc,assignment]
        fastembed.TextEmbedding, specific_model_path=str(folder)
    )
    return NAME
