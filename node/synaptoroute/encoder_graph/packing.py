"""Packs a model: authors its graph, compares it with the model's file, and keeps both.

The graph is used only if its vectors are those of the file: ``float32`` up to the last bits,
``int8`` up to what rounding costs.  Both must give a text the same bits alone and in every
batch.  Otherwise the reason is kept instead, and the file goes on to be used as it is.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import cpu_limit
from synaptoroute.decision import fit_decision
from synaptoroute.encoder.contract import Tokens
from synaptoroute.encoder.measuring import probe_texts
from synaptoroute.encoder.packed_model import (
    Exact,
    PackedCheck,
    PackedModel,
    PackedProbe,
    find_packed,
    packed_key,
    save_packed,
)
from synaptoroute.encoder.packed_session import PackedSession
from synaptoroute.encoder.prepared import cache_folder
from synaptoroute.encoder.processor import cpu_name
from synaptoroute.encoder.recipe import Recipe, verify_files
from synaptoroute.encoder.self_check import PROBE_TEXTS
from synaptoroute.encoder.session import GraphSession
from synaptoroute.encoder.text_tokenizer import TextTokenizer
from synaptoroute.encoder_graph.bert_reader import UnknownGraph, read_weights
from synaptoroute.encoder_graph.int8_graph import Int8Graph
from synaptoroute.encoder_graph.onnx_file import Graph, read_graph
from synaptoroute.encoder_graph.packed_graph import Float32Graph
from synaptoroute.encoder_graph.weights import Linear, Weights, quantise
from synaptoroute.errors import SynaptoRouteError
from synaptoroute.threads import single_blas_thread

_CPU: Final = "CPUExecutionProvider"
_ROWS_OUTPUTS: Final = ("last_hidden_state", "token_embeddings")
_RUN_TOKENS_MAX: Final = 512
_BATCH_TEXTS: Final = 64
_LONE_TEXTS: Final = 32
_ODD_BATCH: Final = 7
_EVERY: Final = 4
"""Of so many texts one is encoded again alone and in other batches."""
_LONG_TOKENS: Final = 512
_GRAPH_BYTES_MAX: Final = (1 << 31) - 1
"""More than this an ONNX file cannot hold."""
_PROBE_DIGITS: Final = 7
_PROBES: Final = ("refund", "Where is my parcel?", "今日の天気はどうですか", "Ich möchte zahlen.")
"""Compared at every load of the graph, so they are few and short."""
_INT8_MARGIN: Final = 0.03
"""What the rounding of another CPU may take of a cosine."""

_log = logging.getLogger(__name__)

Float32s = NDArray[np.float32]
Session = GraphSession | PackedSession


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits that a graph must reach; ``accuracy`` is how much it may lose of the file's."""

    cosine_min: float
    agreement_min: float
    accuracy_loss_max: float


LIMITS: Final[Mapping[Exact, _Limits]] = {
    "float32": _Limits(0.9999, 0.98, 0.01),
    "int8": _Limits(0.93, 0.8, 0.02),
}


def pack_model(
    recipe: Recipe,
    precision: Exact,
    cache_dir: Path | None = None,
    *,
    beside: Path | None = None,
    again: bool = False,
) -> PackedModel:
    """Author and check the packed graph of a model, unless that was done.

    Args:
        beside: The model's own folder, where the graph is kept if that can be written, so
            that it travels with the model; None for the cache.

    Raises:
        ModelNotFound: A file of the model is absent.
        ModelCorrupt: A file of the model is damaged.
        EncoderError: The model's own file does not work here.
    """
    sha256 = verify_files(recipe).model_sha256
    known = None if again else find_packed(recipe, sha256, precision, cache_dir)
    if known is not None:
        return known
    key = packed_key(recipe, sha256, precision)
    original = GraphSession(recipe.model_file, [_CPU], recipe.output, recipe.constant_inputs)
    cache = cache_folder(cache_dir)
    try:
        graph, heads = _author(recipe, precision, original.output)
        session = PackedSession(graph, recipe.name, [_CPU], heads, original.output)
        compared = _Comparison(recipe, original, session)
        check = compared.check()
        reason = _refusal(check, LIMITS[precision])
    except (UnknownGraph, SynaptoRouteError) as error:
        packed = PackedModel(recipe.name, key, precision, f"it cannot be packed: {error}")
        return _save(packed, None, beside, cache)
    packed = PackedModel(
        recipe.name,
        key,
        precision,
        reason,
        original.output,
        heads,
        _digest(graph),
        check,
        LIMITS[precision].cosine_min if precision == "float32" else check.cosine_min - _INT8_MARGIN,
        compared.probe(),
    )
    return _save(packed, None if reason else graph, beside, cache)


def _author(recipe: Recipe, precision: Exact, output: str) -> tuple[bytes, int]:
    """Write the graph of a model; also returns the heads of its attention."""
    if recipe.constant_inputs or recipe.pooling == "none":
        raise UnknownGraph("its graph does more than encode")
    graph = read_graph(recipe.model_file.read_bytes(), recipe.model_file.parent)
    weights = _read(graph, output)
    if len(weights.places) < recipe.positions_max:
        raise UnknownGraph(f"it has {len(weights.places)} positions of {recipe.positions_max}")
    size = sum(tensor.nbytes for tensor in graph.tensors.values())
    if size > _GRAPH_BYTES_MAX and precision == "float32":
        raise UnknownGraph(f"its {size:,} bytes of weights do not fit into one file")
    if precision == "int8":
        return Int8Graph(quantise(weights)).write(), weights.heads
    return Float32Graph(weights, recipe.pooling).write(), weights.heads


def _read(graph: Graph, output: str) -> Weights[Linear]:
    """Read from the output that is used, or from the rows that it was pooled from."""
    names = {name for node in graph.nodes for name in node.outputs}
    reasons = []
    for name in dict.fromkeys((output, *_ROWS_OUTPUTS)):
        if name in names:
            try:
                return read_weights(graph, name)
            except UnknownGraph as error:
                reasons.append(str(error))
    raise UnknownGraph(reasons[0] if reasons else f"it has no output {output}")


# --- the check ---


class _Comparison:
    """Compares two graphs of one model on the probe texts."""

    def __init__(self, recipe: Recipe, original: GraphSession, packed: PackedSession) -> None:
        self._recipe = recipe
        self._original = original
        self._packed = packed
        self._tokenizer = TextTokenizer(recipe.tokenizer_file, recipe.max_tokens)
        texts = probe_texts()
        self._routes: dict[str, list[str]] = texts["routes"]
        spoken = [text for first, second in texts["languages"].values() for text in first + second]
        self._short = [text for utterances in self._routes.values() for text in utterances]
        self._texts = [*self._short, *texts["outside"], *spoken, *PROBE_TEXTS]

    def check(self) -> PackedCheck:
        tokens = self._tokens([*self._texts, self._long_text()])
        wanted = self._encode(self._original, tokens, _BATCH_TEXTS)
        found = self._encode(self._packed, tokens, _BATCH_TEXTS)
        accuracy_of_file, accuracy = (self._accuracy(each) for each in (wanted, found))
        # From the last on: the text of full length is among them.
        some, their = tokens[::-_EVERY], found[::-_EVERY]
        is_invariant = all(
            np.array_equal(their, self._encode(self._packed, some, size, order))
            for size, order in ((1, 1), (_ODD_BATCH, -1), (len(some), 1))
        )
        lone, batched = self._speedups()
        return PackedCheck(
            round(float((wanted * found).sum(axis=1).min()), 6),
            round(float((_nearest(wanted) == _nearest(found)).mean()), 4),
            round(accuracy, 4),
            round(accuracy_of_file, 4),
            is_invariant,
            round(batched, 2),
            round(lone, 2),
            cpu_name(),
        )

    def probe(self) -> tuple[PackedProbe, ...]:
        """Some texts as token ids, with the vectors of the model's file."""
        tokens = self._tokens(_PROBES)
        vectors = self._encode(self._original, tokens, 1)
        return tuple(
            PackedProbe(each.ids.tolist(), [round(float(x), _PROBE_DIGITS) for x in vector])
            for each, vector in zip(tokens, vectors, strict=True)
        )

    def _tokens(self, texts: Sequence[str]) -> list[Tokens]:
        # With the prefix, as they are in use.
        return self._tokenizer.tokenize(texts, self._recipe.query_prefix)[0]

    def _long_text(self) -> str:
        """A text of all positions that are used, so that the last ones are compared too."""
        joined = ". ".join(self._texts)
        return joined * (1 + _LONG_TOKENS * 8 // len(joined))

    def _encode(
        self, session: Session, tokens: Sequence[Tokens], batch: int, order: int = 1
    ) -> Float32s:
        """Encode in batches, from the first text on or from the last."""
        batches = _batches(list(tokens)[::order], batch)
        # On all CPUs: on one, this is most of the time of packing.
        with ThreadPoolExecutor(cpu_limit(), thread_name_prefix="pack") as threads:
            parts = threads.map(lambda each: self._encode_batch(session, each), batches)
            return np.concatenate(list(parts))[::order]

    def _encode_batch(self, session: Session, tokens: Sequence[Tokens]) -> Float32s:
        rows: list[tuple[int, Float32s]] = []
        for run in session.plan([each.count for each in tokens], _RUN_TOKENS_MAX):
            counts = np.array([tokens[index].count for index in run], dtype=np.int64)
            width = session.width_of(int(counts.max()))
            ids = np.full((len(run), width), self._tokenizer.pad_id, dtype=np.int64)
            for row, index in zip(ids, run, strict=True):
                row[: tokens[index].count] = tokens[index].ids
            rows += zip(run, session.run(ids, counts, self._recipe.pooling), strict=True)
        return np.stack([row for _, row in sorted(rows, key=lambda each: each[0])])

    def _accuracy(self, vectors: Float32s) -> float:
        """Share of the routes' texts that get their route, each judged without itself."""
        counts = [len(utterances) for utterances in self._routes.values()]
        owners = np.repeat(np.arange(len(counts)), counts)
        found = fit_decision(vectors[: len(owners)], owners, "blend")
        assert found is not None, "the probe is too small: this is a bug"
        return found.accuracy

    def _speedups(self) -> tuple[float, float]:
        """Texts a second of the packed graph over those of the file: alone, and in batches."""
        tokens = self._tokens(self._short)
        with single_blas_thread():
            lone = self._speedup(tokens[:_LONE_TEXTS], 1)
            return lone, self._speedup(tokens, _BATCH_TEXTS)

    def _speedup(self, tokens: Sequence[Tokens], batch: int) -> float:
        def seconds(session: Session) -> float:
            # Of this thread, so that other work of the machine does not count.
            started = time.thread_time()
            for each in _batches(tokens, batch):
                self._encode_batch(session, each)
            return max(time.thread_time() - started, 1e-9)

        return seconds(self._original) / seconds(self._packed)


def _batches(tokens: Sequence[Tokens], size: int) -> list[Sequence[Tokens]]:
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def _nearest(vectors: Float32s) -> NDArray[np.int64]:
    """Index of the nearest other text."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest: NDArray[np.int64] = scores.argmax(axis=1)
    return nearest


def _refusal(check: PackedCheck, limits: _Limits) -> str:
    """Why a graph is not used; empty if it is."""
    if not check.is_invariant:
        return "the vector of a text depends on its batch"
    if not check.cosine_min >= limits.cosine_min:
        return (
            f"cosine {check.cosine_min:.6f} to the model's own vectors, below {limits.cosine_min}"
        )
    if not check.agreement >= limits.agreement_min:
        return (
            f"{check.agreement:.3f} of the texts keep their neighbour, below {limits.agreement_min}"
        )
    if check.accuracy < check.accuracy_of_file - limits.accuracy_loss_max:
        return f"accuracy {check.accuracy:.3f} instead of {check.accuracy_of_file:.3f}"
    return ""


def _digest(graph: bytes) -> str:
    return hashlib.sha256(graph).hexdigest()


def _save(
    packed: PackedModel, graph: bytes | None, beside: Path | None, cache: Path
) -> PackedModel:
    """Keep a graph beside its model where that can be written, else in the cache."""
    if beside is not None:
        try:
            kept = save_packed(packed, graph, beside)
        except OSError:
            _log.info("%s cannot be written: the graph is kept in %s", beside, cache)
        else:
            # `model list` shows what the cache has.
            save_packed(packed, None, cache)
            return kept
    return save_packed(packed, graph, cache)
