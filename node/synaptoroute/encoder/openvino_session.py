"""The packed int8 graph on OpenVINO, an extra: ``synaptoroute-cluster[openvino]``.

OpenVINO lets the calls of one compiled graph and one stream wait for each other, and
more streams are threads of its own.  So each CPU of the limit has a compiled graph:
a call borrows one and computes on the thread that makes it, as lanes want it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product
from threading import BoundedSemaphore
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from synaptoroute.config import cpu_limit
from synaptoroute.encoder.bundled_weights import HEADS
from synaptoroute.encoder.openvino_graph import LEAST, STEPS, WIDTHS, openvino_graph, product_graph
from synaptoroute.encoder.packed_session import PackedSession, feeds
from synaptoroute.encoder.packing import Layout, Packing
from synaptoroute.encoder.recipe import Recipe
from synaptoroute.errors import BackendMissing, EncoderError

_SETTINGS: Final = {
    "NUM_STREAMS": 1,
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",  # bf16 is its own choice where there is AMX
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "ENABLE_CPU_PINNING": False,
}
_DEPTHS: Final = (384, 1536)
_ROWS: Final = (1, 2, 7, 40)
_COLUMNS: Final = 48


class OpenVinoSession(PackedSession):
    """Runs packed micro-batches; ``run`` may be called from any thread.

    The runtime generates code for each new shape, and prepares itself wherever a shape
    is not that of the run before: so there are few shapes, and few runs.
    """

    layout = Layout(HEADS, widths=WIDTHS, rows_step=16, texts_step=4)

    def __init__(self, recipe: Recipe, providers: Sequence[str]) -> None:
        """Rewrite the bundled model and compile it once for each CPU.

        Raises:
            BackendMissing: OpenVINO is not installed.
            ConfigError: Another model or use of it, or a provider other than the CPU's.
            EncoderError: A product of bytes is wrong on this CPU.
        """
        content = self.read_model(recipe, providers)
        if find_spec("openvino") is None:
            raise BackendMissing(
                "encoder backend openvino needs a package that is not installed: "
                "pip install 'synaptoroute-cluster[openvino]'",
                backend="openvino",
            )
        count = cpu_limit()
        self._permits = BoundedSemaphore(count)
        try:
            check_openvino_exactness()
            graph = openvino_graph(content)
            with ThreadPoolExecutor(count, thread_name_prefix="openvino-compile") as pool:
                self._free = list(pool.map(_compile, [graph] * count))
        except RuntimeError as error:  # the runtime's only type
            raise EncoderError(f"OpenVINO cannot compile the model: {error}") from error

    def hidden(self, ids: NDArray[np.int64], packed: Packing) -> NDArray[np.float64]:
        """See ``PackedSession.hidden``."""
        rows = np.zeros(len(packed.positions), dtype=np.int64)
        rows[: len(ids)] = ids
        with self._borrow() as request:
            hidden = _infer(request, list(feeds(rows, packed).values()))
            return hidden[: len(ids)].astype(np.float64)

    def padding(self, tokens_count: int, places_count: int) -> int:
        """See ``PackedSession.padding``."""
        return -tokens_count % self.layout.rows_step

    @contextmanager
    def _borrow(self) -> Iterator[Any]:
        with self._permits:
            request = self._free.pop()
            try:
                yield request
            finally:
                self._free.append(request)


def check_openvino_exactness() -> None:
    """Multiply the extremes, as ``exactness`` does for the other runtime.

    Raises:
        EncoderError: A product is wrong on this CPU.
    """
    for depth, least in product(_DEPTHS, (0, LEAST)):
        weights = np.full((depth, _COLUMNS), 127, dtype=np.int8)
        weights[:, 1::3] = -128
        weights[1::2, 2::3] = -127
        request = _compile(product_graph(weights, least))
        for count in _ROWS:
            rows = np.full((count, depth), least + STEPS, dtype=np.float32)
            rows[1::3, ::2] = least
            expected = (rows.astype(np.int64) @ weights.astype(np.int64)).astype(np.float32)
            if not np.array_equal(expected, _infer(request, [rows])):
                raise EncoderError(
                    "this CPU or runtime multiplies bytes wrongly: use encoder backend onnxruntime",
                    depth=depth,
                    rows=count,
                )


def _compile(graph: Any) -> Any:
    """Compile a graph for one thread at a time."""
    import openvino

    return openvino.Core().compile_model(graph, "CPU", dict(_SETTINGS)).create_infer_request()


def _infer(request: Any, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Run a graph; the result is overwritten by the request's next run.

    Raises:
        EncoderError: The runtime failed.
    """
    try:
        found = request.infer(dict(enumerate(inputs)), share_inputs=True, share_outputs=True)
    except RuntimeError as error:
        raise EncoderError(f"OpenVINO failed: {error}") from error
    return np.asarray(found[0], dtype=np.float32)
