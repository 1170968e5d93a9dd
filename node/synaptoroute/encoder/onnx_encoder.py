"""The encoder for real models: a tokenizer, a graph, and micro-batches.

The rules of batch invariance and padding come from measurements on the bundled model; they
are stated in ``session`` and ``packed_session``.

``tokenizer.json`` may ask for fixed padding and its own truncation (MiniLM's pads every
text to 128 tokens, eleven times the work of a short query).  Both are replaced here;
micro-batches pad.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import DEFAULT_MODEL, Precision
from synaptoroute.encoder.catalogue import find_recipe
from synaptoroute.encoder.contract import (
    EncoderStats,
    StatsCounter,
    Tokens,
    Vocabulary,
    freeze_tokens,
)
from synaptoroute.encoder.packed_session import GRAPH_VERSION, PackedSession, offers_int8
from synaptoroute.encoder.prepared import use_prepared
from synaptoroute.encoder.recipe import Recipe, fingerprint, probe_file, verify_files
from synaptoroute.encoder.self_check import COSINE_MIN_BY_PRECISION, check_exactness, check_probe
from synaptoroute.encoder.session import GraphSession, check_providers
from synaptoroute.encoder.understanding import is_understood
from synaptoroute.errors import ConfigError, EncoderError, InvalidQuery, ModelCorrupt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MICRO_BATCH_TOKENS_MAX_DEFAULT = 512


class Encoder:
    """Text to unit vectors with a local ONNX model.

    Every method may run on any thread; all threads share one session, and each
    call computes on the thread that makes it.

    Attributes:
        prepared: What ``model prepare`` measured of it; None if it was not prepared.

    Invariants: an embedding depends on its text and the fingerprint alone.
    """

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
        micro_batch_tokens_max: int = MICRO_BATCH_TOKENS_MAX_DEFAULT,
        probe: bool = True,
    ) -> None:
        """Load a model.

        Args:
            model: The bundled model's name, a name from fastembed's catalogue
                (downloaded once), or a folder with an ONNX graph and its
                ``tokenizer.json``.
            precision: ``int8`` multiplies in integers: several times as fast, for the
                bundled model on the CPU alone; ``auto`` takes it where it is available.
            providers: ONNX Runtime execution providers, best first.
            max_tokens: Tokens kept of a text; None for the model's own choice.
            query_prefix: Text before every query; None for the model's own.
            utterance_prefix: Text before every utterance; None for the model's own.
            cache_dir: Folder of downloads, and of what was prepared; None for the defaults.
            micro_batch_tokens_max: Tokens of one run of the graph.
            probe: Compare the bundled model's vectors with its reference.

        Raises:
            ConfigError: An argument is out of range or a provider is not available.
            ModelNotFound: No such model.
            ModelCorrupt: A file is not the expected one.
            EncoderError: The download failed, or the model does not work here.
        """
        if micro_batch_tokens_max < 1:
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
        self._micro_batch_tokens_max = micro_batch_tokens_max
        self._micro_batch_texts_max = None if files.is_batch_invariant else 1
        self._tokenizer = TextTokenizer(
            recipe.tokenizer_file, recipe.max_tokens, scripts=recipe.scripts
        )
        arithmetic = _arithmetic(precision, recipe, files.model_sha256, providers)
        session = _open_graph(recipe, arithmetic, providers)
        self._session: GraphSession | PackedSession | None = session
        self.name = recipe.name
        self.max_tokens = recipe.max_tokens
        self.dim = self._measure_dim(session)
        self.precision: Precision = arithmetic
        graph = _graph_name(arithmetic)
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


def _graph_name(precision: Precision) -> str | None:
    """Name of the graph in the fingerprint; None for the model file's own."""
    return None if precision == "float32" else f"{precision}/{GRAPH_VERSION}"


def _open_graph(
    recipe: Recipe, precision: Precision, providers: Sequence[str]
) -> GraphSession | PackedSession:
    """Open the graph for a precision."""
    if precision == "int8":
        check_exactness()
        return PackedSession(recipe, providers)
    return GraphSession(recipe.model_file, providers, recipe.output, recipe.constant_inputs)


# --- the tokenizer -----------------------------------------------------------------------


_PARALLELISM: Final = "TOKENIZERS_PARALLELISM"
WHOLE_WORDS_MAX: Final = 50_000
"""The most frequent ones; a multilingual vocabulary has several times as many."""
_WORD_MARKS: Final = ("\u2581", "\u0120")
"""Begin the tokens that begin a word, of SentencePiece and of byte-level BPE."""
_MARKED_SHARE_MIN: Final = 0.1


class TextTokenizer:
    """The tokenizer of one model; its methods may run on any thread.

    Attributes:
        scripts: Scripts that the model reads, such as ``LATIN``; None for all.
    """

    def __init__(
        self, tokenizer_file: Path, max_tokens: int, scripts: frozenset[str] | None = None
    ) -> None:
        # The encoder workers are the only parallelism.  The library reads this variable
        # when it is imported, so it is set before.
        os.environ.setdefault(_PARALLELISM, "false")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # the library raises plain Exception
            raise ModelCorrupt(
                f"{tokenizer_file.name} is not a tokenizer: {error}", file=tokenizer_file.name
            ) from error
        padding = self._tokenizer.padding or {}
        self.pad_id = int(padding.get("pad_id", 0))
        # Padding here would change the token count that batches are planned with.
        self._tokenizer.no_padding()
        truncation = self._tokenizer.truncation or {}
        self._tokenizer.enable_truncation(
            max_length=max_tokens, direction=truncation.get("direction", "right")
        )
        self.scripts = scripts
        self._special_count = len(self._tokenizer.encode("").ids)
        self._unknown_id = _unknown_id(self._tokenizer)
        self._prefix_counts: dict[str, int] = {}

        self._words: dict[str, int] | None = None

    def vocabulary(self) -> Vocabulary:
        tokenizer = self._tokenizer
        empty, one = tokenizer.encode("").ids, tokenizer.encode("a").ids
        head = 0
        while head < len(empty) and empty[head] == one[head]:
            head += 1
        special = {
            number
            for number, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        return Vocabulary(
            count=tokenizer.get_vocab_size(with_added_tokens=True),
            before=tuple(empty[:head]),
            after=tuple(empty[head:]),
            special=frozenset({*special, *empty, self.pad_id}),
        )

    def whole_words(self) -> Mapping[str, int]:
        if self._words is None:
            self._words = self._find_words()
        return self._words

    def _find_words(self) -> dict[str, int]:
        words: dict[str, int] = {}
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        first = [token[:1] for token in vocabulary]
        # Word pieces mark what continues a word, the others what begins one.
        mark = max(_WORD_MARKS, key=first.count)
        if first.count(mark) < _MARKED_SHARE_MIN * len(first):
            mark = ""
        for token, _ in sorted(vocabulary.items(), key=itemgetter(1)):
            word = token.removeprefix(mark).lower()
            if token.startswith(mark) and word.isalpha() and (word.isascii() or mark != "\u0120"):
                words.setdefault(word, len(words))
            if len(words) == WHOLE_WORDS_MAX:
                break
        return words

    def tokenize(self, texts: Sequence[str], prefix: str = "") -> tuple[list[Tokens], int]:
        """Tokenize texts; also returns how many of them were truncated."""
        prefixed = [prefix + text for text in texts] if prefix else list(texts)
        try:
            encodings = self._tokenizer.encode_batch_fast(prefixed)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidQuery("a text to encode must be a string of valid Unicode") from error
        extra = self._special_count + (self._count_prefix(prefix) if prefix else 0)
        tokens, truncated_count = [], 0
        for text, encoding in zip(texts, encodings, strict=True):
            ids, is_truncated = encoding.ids, bool(encoding.overflowing)
            unknown = 0 if self._unknown_id is None else ids.count(self._unknown_id)
            known = len(ids) - extra - unknown
            is_known = known > 0
            if unknown or not text.isascii():
                is_known = is_understood(text, known, unknown, self.scripts)
            tokens.append(freeze_tokens(ids, is_understood=is_known, is_truncated=is_truncated))
            truncated_count += is_truncated
        return tokens, truncated_count

    def _count_prefix(self, prefix: str) -> int:
        """Count the tokens of a prefix; an encoder has two at most."""
        count = self._prefix_counts.get(prefix)
        if count is None:
            count = len(self._tokenizer.encode(prefix).ids) - self._special_count
            self._prefix_counts[prefix] = count
        return count


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """Find the id that stands for unknown pieces; None for a vocabulary that knows all bytes."""
    name = getattr(tokenizer.model, "unk_token", None)
    if name is None:
        # The library hides the name for some kinds of models, so the text of a piece that no
        # vocabulary has tells it.
        model = json.loads(tokenizer.to_str())["model"]
        number = model.get("unk_id")
        return None if number is None or model.get("byte_fallback") else int(number)
    found: int | None = tokenizer.token_to_id(name)
    return found
