"""The graph of a model as ONNX Runtime runs it, and the micro-batches it runs.

All encoder workers share one session.  A run uses one thread, because the workers are the
parallelism, and does not spin, so an idle worker costs nothing.  Every row is pooled and
normalised by itself, so its bits do not depend on the other rows.

Micro-batches: a run has a fixed cost and then a cost per token, padding included
(``RunCosts``).  Texts sorted by length are split into the contiguous runs of least total
cost, by dynamic programming over the split points.  Texts of equal length then share a run
without padding, and texts of similar length only where padding is cheaper than another run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from synaptoroute.encoder.recipe import Pooling
from synaptoroute.errors import ConfigError, EncoderError, ModelCorrupt

_TEXT_INPUTS: Final = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_USUAL_OUTPUTS: Final = ("sentence_embedding", "last_hidden_state", "token_embeddings")
_FLOAT_TYPES: Final = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)"})
_LOG_ERRORS_ONLY: Final = 3
CPU: Final = "CPUExecutionProvider"
_GPU_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    # TF32 keeps ten bits of a product's operands.
    "CUDAExecutionProvider": {"use_tf32": "0"},
    "TensorrtExecutionProvider": {},
    "MIGraphXExecutionProvider": {},
    "ROCMExecutionProvider": {},
    "DmlExecutionProvider": {},
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunCosts:
    """Costs of a run of a padded graph on a kind of processor.

    Attributes:
        run_tokens: Fixed cost of a run, in tokens.
        padding_share_max: Most padding of a run, as a share of its tokens.
        tokens_max: Tokens of a run, padding included.
    """

    run_tokens: int
    padding_share_max: float
    tokens_max: int


CPU_COSTS: Final = RunCosts(8, 0.09, 512)
# Thousands of tokens cost a GPU little more than one: few runs, well filled.  Estimated, not
# measured: see docs/accuracy.md.
GPU_COSTS: Final = RunCosts(4_096, 0.5, 16_384)


def costs_of(providers: Sequence[str]) -> RunCosts:
    """Costs of a run on the first of some execution providers."""
    return GPU_COSTS if providers[0] in _GPU_OPTIONS else CPU_COSTS


class GraphSession:
    """Runs micro-batches; ``run`` may be called from any thread.

    Attributes:
        is_packed: Whether rows of unequal length share a run without padding.
    """

    is_packed = False

    def __init__(
        self,
        model_file: Path,
        providers: Sequence[str],
        output: str | None,
        constant_inputs: Mapping[str, int],
    ) -> None:
        self._session = open_session(str(model_file), model_file.name, providers)
        self._costs = costs_of(providers)
        declared = [node.name for node in self._session.get_inputs()]
        unknown = set(declared) - _TEXT_INPUTS - set(constant_inputs)
        if unknown or "input_ids" not in declared:
            raise EncoderError(
                f"{model_file.name} is not a text encoder: its inputs are {', '.join(declared)}",
                inputs=declared,
            )
        self._inputs = frozenset(declared)
        self._constants = {
            name: np.array(value, dtype=np.int64)
            for name, value in constant_inputs.items()
            if name in self._inputs
        }
        outputs = {node.name: node.type for node in self._session.get_outputs()}
        self.output = _choose_output(outputs, output)

    def width_of(self, tokens_count: int) -> int:
        """Width of ``ids`` for a longest text of so many tokens."""
        return tokens_count

    def plan(
        self, counts: Sequence[int], tokens_max: int, texts_max: int | None = None
    ) -> list[list[int]]:
        return plan(counts, tokens_max, texts_max, self._costs)

    def run(
        self, ids: NDArray[np.int64], counts: NDArray[np.int64], pooling: Pooling
    ) -> NDArray[np.float32]:
        """Encode one micro-batch.

        Args:
            ids: int64[n, length], padded on the right.
            counts: int64[n], tokens of each row that are real.

        Returns:
            float32[n, dim], unit rows.

        Raises:
            EncoderError: The runtime failed or returned unusable numbers.
        """
        feeds: dict[str, NDArray[np.int64]] = {"input_ids": ids, **self._constants}
        if "attention_mask" in self._inputs:
            feeds["attention_mask"] = (np.arange(ids.shape[1]) < counts[:, None]).astype(np.int64)
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        return normalise(_pool(run_session(self._session, self.output, feeds), counts, pooling))


def check_providers(providers: Sequence[str]) -> None:
    """Refuse execution providers that the runtime does not have."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    unknown = [name for name in providers if name not in available]
    if isinstance(providers, str) or unknown or not providers:
        raise ConfigError(
            f"providers must be among {', '.join(available)}; got {providers!r}",
            available=available,
        )


def run_session(session: Any, output: str, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    try:
        (hidden,) = session.run([output], feeds)
    except Exception as error:  # the runtime's errors share no narrower type
        raise EncoderError(f"ONNX Runtime failed: {error}") from error
    return np.asarray(hidden)


def open_session(
    model: str | bytes,
    name: str,
    providers: Sequence[str],
    *,
    is_final: bool = False,
    shared: Mapping[str, NDArray[Any]] | None = None,
) -> Any:
    """Open an ``InferenceSession`` on the caller's thread.

    Args:
        is_final: Fuse no operators.
        shared: Tensors of the graph that it reads where they are, by name, instead of a copy; the
            session keeps them alive.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread per run: the encoder workers are the parallelism.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Fusions round differently from the operators they replace; BASIC only removes and
    # folds constants.
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = (
        levels.ORT_ENABLE_BASIC if is_final else levels.ORT_ENABLE_ALL
    )
    options.enable_mem_pattern = False  # shapes vary from run to run
    options.log_severity_level = _LOG_ERRORS_ONLY
    # A thread that spins takes the CPU from the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    held = {
        key: onnxruntime.OrtValue.ortvalue_from_numpy(each) for key, each in (shared or {}).items()
    }
    for key, value in held.items():
        options.add_initializer(key, value)
    asked = [(each, dict(_GPU_OPTIONS.get(each, {}))) for each in providers]
    try:
        opened = onnxruntime.InferenceSession(model, sess_options=options, providers=asked)
    except Exception as error:  # the runtime's errors share no narrower type
        raise ModelCorrupt(f"{name} cannot be loaded: {error}", file=name) from error
    session = cast(Any, opened)
    if isinstance(model, bytes):
        # The class keeps the content, in case it is asked to open the session elsewhere.
        session._model_bytes = None
    session.held_tensors = held, shared
    check_started(providers, session.get_providers())
    return session


def check_started(asked: Sequence[str], started: Sequence[str]) -> None:
    """Refuse a session that runs on a processor that nobody asked for.

    The runtime takes the CPU instead of a GPU that it cannot start, and says nothing.

    Raises:
        ConfigError: None of the providers that were asked for was started.
    """
    missing = [name for name in asked if name not in started]
    if not missing:
        return
    detail = f"ONNX Runtime cannot start {', '.join(missing)}; are the driver and libraries there?"
    if len(missing) == len(asked):
        raise ConfigError(detail, started=list(started))
    _log.warning("%s It runs on %s.", detail, started[0])


def _choose_output(declared: Mapping[str, str], requested: str | None) -> str:
    """Choose the output to read: the requested one, a usual name, or the first of floats."""
    floats = [name for name, kind in declared.items() if kind in _FLOAT_TYPES]
    names = _USUAL_OUTPUTS if requested is None else (requested,)
    for name in names:
        if name in floats:
            return name
    if requested is not None or not floats:
        missing = requested or "of floating-point numbers"
        raise EncoderError(
            f"the graph has no output {missing}, only {', '.join(declared)}", outputs=list(declared)
        )
    return floats[0]


def _pool(hidden: NDArray[Any], counts: NDArray[np.int64], pooling: Pooling) -> NDArray[np.float64]:
    if hidden.ndim == 2:  # the graph has pooled already
        return hidden.astype(np.float64)
    if hidden.ndim != 3 or pooling == "none":
        raise EncoderError(
            f"the graph's output has shape {hidden.shape}, which pooling {pooling!r} cannot read"
        )
    if pooling == "cls":
        return hidden[:, 0].astype(np.float64)
    if pooling == "last":
        return hidden[np.arange(len(hidden)), counts - 1].astype(np.float64)
    # Row by row: a sum over the padded batch would add in another order, and so give other
    # bits, for another width.
    sums = [
        row[:count].sum(axis=0, dtype=np.float64) for row, count in zip(hidden, counts, strict=True)
    ]
    return np.stack(sums) / counts[:, None]


def normalise(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scale rows to unit length; raises EncoderError for rows that have none."""
    norms = np.sqrt((rows * rows).sum(axis=1))
    # NaN fails both comparisons, so it is refused too.
    if not np.isfinite(norms).all() or not (norms > 0).all():
        raise EncoderError("the model returned a vector that is zero or not finite")
    unit: NDArray[np.float32] = (rows / norms[:, None]).astype(np.float32)
    return unit


# --- micro-batches ---


def plan(
    counts: Sequence[int],
    tokens_max: int,
    texts_max: int | None = None,
    costs: RunCosts = CPU_COSTS,
) -> list[list[int]]:
    """Split a batch into micro-batches.

    Args:
        counts: Tokens of each text.
        tokens_max: Tokens of one micro-batch, padding included; a longer text
            runs alone.
        texts_max: Texts of one micro-batch; None for no limit but the tokens.
        costs: Of the processor that runs them.

    Returns:
        Indexes into ``counts``, each exactly once, lengths ascending.
    """
    order = sorted(range(len(counts)), key=lambda index: (counts[index], index))
    lengths = [counts[index] for index in order]
    starts = _cheapest_starts(lengths, tokens_max, texts_max or len(lengths), costs)
    runs: list[list[int]] = []
    end = len(order)
    while end:
        runs.append(order[starts[end] : end])
        end = starts[end]
    return runs[::-1]


def _cheapest_starts(
    lengths: Sequence[int], tokens_max: int, texts_max: int, run: RunCosts
) -> list[int]:
    """For each end: where the last run of the cheapest split of the texts before it starts."""
    costs = [0] * (len(lengths) + 1)
    starts = [0] * (len(lengths) + 1)
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1]
        costs[end] = costs[end - 1] + run.run_tokens + longest
        starts[end] = end - 1
        padding = 0
        for start in range(end - 2, max(-1, end - 1 - texts_max), -1):
            padding += longest - lengths[start]
            size = (end - start) * longest
            if size > tokens_max or padding > run.padding_share_max * size:
                break
            cost = costs[start] + run.run_tokens + size
            if cost < costs[end]:
                costs[end], starts[end] = cost, start
    return starts
