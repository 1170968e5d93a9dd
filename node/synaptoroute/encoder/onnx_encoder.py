"""The encoder for real models: a tokenizer, a graph, and micro-batches.

The rules of batch invariance and padding come from measurements on the bundled model; they
are stated in ``session`` and ``packed_session``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import DEFAULT_MODEL, Precision
from synaptoroute.encoder.catalogue import find_recipe, open_graphless
from synaptoroute.encoder.contract import (
    EncoderStats,
    StatsCounter,
    Tokens,
    Vocabulary,
)
from synaptoroute.encoder.packed_model import PACKED_VERSION, find_packed, open_packed
from synaptoroute.encoder.packed_session import GRAPH_VERSION, PackedSession, offers_int8
from synaptoroute.encoder.prepared import use_prepared
from synaptoroute.encoder.recipe import (
    Recipe,
    VerifiedFiles,
    fingerprint,
    probe_file,
    verify_files,
)
from synaptoroute.encoder.self_check import COSINE_MIN_BY_PRECISION, check_exactness, check_probe
from synaptoroute.encoder.session import CPU, GraphSession, check_providers, costs_of
from synaptoroute.encoder.text_tokenizer import TextTokenizer
from synaptoroute.errors import ConfigError, EncoderError, ModelCorrupt, ModelNotFound

_OPTIONS_OF_EVERY_MODEL: Final = {"precision", "providers", "micro_batch_tokens_max", "probe"}
_log = logging.getLogger(__name__)


class Encoder:
    """Text to unit vectors with a local ONNX model.

    Every method may run on any thread; all threads share one session, and each
    call computes on the thread that makes it.

    Attributes:
        prepared: What ``model prepare`` measured of it; None if it was not prepared.
        why_padded: Why texts of unequal length do not share a run; empty if they do.

    Invariants: an embedding depends on its text and the fingerprint alone.
    """

    def __new__(
        cls, model: str | Path = DEFAULT_MODEL, *, cache_dir: Path | None = None, **given: Any
    ) -> Self:
        """Open the class of a model without a graph, such as ``fast``, by the same name."""
        other = open_graphless(model, cache_dir) if isinstance(model, str) else None
        if other is None:
            return super().__new__(cls)
        refused = sorted(given.keys() - _OPTIONS_OF_EVERY_MODEL)
        if refused:
            raise ConfigError(f"the model {other.name} has no option {', '.join(refused)}")
        return cast(Self, other)

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        precision: Precision = "auto",
        providers: Sequence[str] = ("CPUExecutionProvider",),
        max_tokens: int | None = None,
        query_prefix: str | None = None,
        utterance_prefix: str | None = None,
        cache_dir: Path | None = None,
        micro_batch_tokens_max: int | None = None,
        probe: bool = True,
    ) -> None:
        """Load a model.

        Args:
            model: The bundled model's name, a name from fastembed's catalogue
                (downloaded once), a preset, or a folder with an ONNX graph and its
                ``tokenizer.json``.
            precision: ``int8`` multiplies in integers: several times as fast, on the CPU
                alone, for the bundled model and for models that ``model prepare`` packed in
                this precision; ``auto`` takes it for the bundled model.
            providers: ONNX Runtime execution providers, best first.
            max_tokens: Tokens kept of a text; None for the model's own choice.
            query_prefix: Text before every query; None for the model's own.
            utterance_prefix: Text before every utterance; None for the model's own.
            cache_dir: Folder of downloads, and of what was prepared; None for the defaults.
            micro_batch_tokens_max: Tokens of one run of the graph; None for 512 on a CPU, and
                16,384 on a GPU.
            probe: Compare the bundled model's vectors with its reference.

        Raises:
            ConfigError: An argument is out of range or a provider is not available.
            ModelNotFound: No such model.
            ModelCorrupt: A file is not the expected one.
            EncoderError: The download failed, or the model does not work here.
        """
        if micro_batch_tokens_max is not None and micro_batch_tokens_max < 1:
            raise ConfigError(
                f"micro_batch_tokens_max must be at least 1, got {micro_batch_tokens_max}"
            )
        if precision not in get_args(Precision):
            raise ConfigError(f"precision must be auto, float32 or int8, got {precision!r}")
        check_providers(providers)
        recipe = find_recipe(model, cache_dir).override(max_tokens, query_prefix, utterance_prefix)
        files = verify_files(recipe)
        self._recipe = recipe
        self._stats = StatsCounter()
        self._micro_batch_tokens_max = micro_batch_tokens_max or costs_of(providers).tokens_max
        self._micro_batch_texts_max = None if files.is_batch_invariant else 1
        self._tokenizer = TextTokenizer(
            recipe.tokenizer_file, recipe.max_tokens, scripts=recipe.scripts
        )
        arithmetic = _arithmetic(precision, recipe, files.model_sha256, providers)
        session, self.why_padded = _open_graph(recipe, files, arithmetic, providers, cache_dir)
        self._session: GraphSession | PackedSession | None = session
        self.name = recipe.name
        self.max_tokens = recipe.max_tokens
        self.dim = self._measure_dim(session)
        self.precision: Precision = arithmetic
        is_bundled = offers_int8(recipe, files.model_sha256, providers)
        graph = _graph_name(arithmetic, is_bundled)
        self.fingerprint = fingerprint(recipe, files, self.dim, session.output, graph)
        self.prepared = use_prepared(self.fingerprint, recipe.tokenizer_file.parent, cache_dir)
        if self.prepared is not None and recipe.scripts is None:
            self._tokenizer.scripts = self.prepared.scripts
        if probe and recipe.name == DEFAULT_MODEL:
            check_probe(self._encode_unprefixed, probe_file(), COSINE_MIN_BY_PRECISION[arithmetic])
        self._stats = StatsCounter()  # do not count the texts of the checks above

    @property
    def is_batch_invariant(self) -> bool:
        """Whether the graph itself is; if not, texts run one by one."""
        return self._micro_batch_texts_max is None

    def vocabulary(self) -> Vocabulary:
        return self._tokenizer.vocabulary()

    def whole_words(self) -> Mapping[str, int]:
        """Words that are one token each, in lower case, with their ranks."""
        return self._tokenizer.whole_words()

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize queries, cut to ``max_tokens``."""
        return self._tokenize(texts, self._recipe.query_prefix)

    def tokenize_utterances(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokenize utterances, cut to ``max_tokens``."""
        return self._tokenize(texts, self._recipe.utterance_prefix)

    def encode_tokens(self, tokens: Sequence[Tokens]) -> NDArray[np.float32]:
        """Encode tokenized texts in micro-batches.

        Returns:
            float32[n, dim], unit rows, in the order of ``tokens``.

        Raises:
            EncoderError: Closed, or the runtime failed.
        """
        # Read once: another thread may close the encoder meanwhile.
        session = self._session
        if session is None:
            raise EncoderError(f"the encoder {self.name} is closed")
        if len(tokens) == 1:
            return self._run(session, tokens)
        vectors = np.empty((len(tokens), self.dim), dtype=np.float32)
        runs = session.plan(
            [text.count for text in tokens],
            self._micro_batch_tokens_max,
            self._micro_batch_texts_max,
        )
        # Runs are sorted by length; each writes its rows to the places of its texts.
        for run in runs:
            vectors[run] = self._run(session, [tokens[index] for index in run])
        return vectors

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode queries: float32[n, dim], unit rows."""
        return self.encode_tokens(self.tokenize(texts))

    def encode_utterances(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode utterances: float32[n, dim], unit rows."""
        return self.encode_tokens(self.tokenize_utterances(texts))

    def stats(self) -> EncoderStats:
        """Totals since the encoder was opened."""
        return self._stats.read()

    def close(self) -> None:
        """Drop the session; running calls finish."""
        self._session = None

    def _measure_dim(self, session: GraphSession | PackedSession) -> int:
        """Run two texts of different length: the width of a vector must not depend on it."""
        widths = {
            self._run(session, self._tokenizer.tokenize([text])[0]).shape[1]
            for text in ("warm", "warm up the model")
        }
        if len(widths) != 1:
            raise EncoderError(
                f"output {session.output!r} of {self.name} has no fixed width, got {widths}"
            )
        return int(widths.pop())

    def _tokenize(self, texts: Sequence[str], prefix: str) -> list[Tokens]:
        tokens, truncated_count = self._tokenizer.tokenize(texts, prefix)
        if truncated_count:
            self._stats.add(truncated_texts=truncated_count)
        return tokens

    def _encode_unprefixed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_tokens(self._tokenize(texts, ""))

    def _run(
        self, session: GraphSession | PackedSession, tokens: Sequence[Tokens]
    ) -> NDArray[np.float32]:
        """Encode one micro-batch and count its tokens."""
        counts = np.array([text.count for text in tokens], dtype=np.int64)
        width = session.width_of(int(counts.max()))
        ids = np.full((len(tokens), width), self._tokenizer.pad_id, dtype=np.int64)
        for row, text in zip(ids, tokens, strict=True):
            row[: text.count] = text.ids
        vectors = session.run(ids, counts, self._recipe.pooling)
        real = int(counts.sum())
        padding = 0 if session.is_packed else ids.size - real
        self._stats.add(texts=len(tokens), tokens=real, padding_tokens=padding)
        return vectors


def _arithmetic(
    precision: Precision, recipe: Recipe, model_sha256: str, providers: Sequence[str]
) -> Precision:
    """Resolve ``auto``."""
    # Only by model and configuration, which all nodes of a cluster share, never by what this
    # CPU can do: nodes would otherwise have encoders of different fingerprints.
    if precision != "auto":
        return precision
    return "int8" if offers_int8(recipe, model_sha256, providers) else "float32"


def _graph_name(precision: Precision, is_bundled: bool) -> str | None:
    """Name of the graph in the fingerprint; None for the model file's own numbers."""
    if precision == "float32":
        return None
    return f"{precision}/{GRAPH_VERSION}" if is_bundled else f"{precision}/packed/{PACKED_VERSION}"


def _open_graph(
    recipe: Recipe,
    files: VerifiedFiles,
    precision: Precision,
    providers: Sequence[str],
    cache_dir: Path | None,
) -> tuple[GraphSession | PackedSession, str]:
    """Open the graph for a precision; also returns why it is a padded one, if it is."""
    if precision == "int8":
        check_exactness()
        if offers_int8(recipe, files.model_sha256, providers):
            return PackedSession.of_bundled(recipe, providers), ""
        return _open_int8(recipe, files, providers, cache_dir), ""
    session, reason = _open_packed_float32(recipe, files, providers, cache_dir)
    if session is not None:
        return session, ""
    padded = GraphSession(recipe.model_file, providers, recipe.output, recipe.constant_inputs)
    return padded, reason


def _open_packed_float32(
    recipe: Recipe, files: VerifiedFiles, providers: Sequence[str], cache_dir: Path | None
) -> tuple[PackedSession | None, str]:
    """Open the packed graph, if there is one; also returns why not.

    It has the fingerprint of the model's file, so whatever is wrong with it, the file itself
    can take its place.
    """
    if list(providers) != [CPU]:
        return None, f"it runs on {', '.join(providers)}"
    packed = find_packed(recipe, files.model_sha256, "float32", cache_dir)
    if packed is None:
        return None, "not prepared"
    if not packed.is_used:
        return None, packed.reason
    try:
        return open_packed(packed, recipe, providers), ""
    except (EncoderError, ModelCorrupt, ModelNotFound) as error:
        _log.warning("%s runs its padded graph: %s", recipe.name, error.message)
        return None, error.message


def _open_int8(
    recipe: Recipe, files: VerifiedFiles, providers: Sequence[str], cache_dir: Path | None
) -> PackedSession:
    """Open the int8 graph that ``model prepare`` authored."""
    if list(providers) != [CPU]:
        raise ConfigError(f"precision int8 runs on {CPU} alone, got {', '.join(providers)}")
    packed = find_packed(recipe, files.model_sha256, "int8", cache_dir)
    if packed is None:
        raise ConfigError(
            f"{recipe.name} has no int8 graph here: run `synaptoroute model prepare "
            f"{recipe.name} --precision int8`, or use float32",
            model=recipe.name,
        )
    if not packed.is_used:
        raise ConfigError(
            f"precision int8 cannot be used for {recipe.name}: {packed.reason}; use float32",
            model=recipe.name,
        )
    return open_packed(packed, recipe, providers)
