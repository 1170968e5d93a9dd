"""Measures the share of encoding that is matrix products.

The matrix products of the bundled model's layers are timed by themselves, on one thread,
with the operators that the encoder uses: bytes in whole numbers, and float32 by the runtime
and by numpy.  The encoder's own run over as many tokens is timed in turn with them, all in
CPU time of the thread, which others on the machine disturb least.  Attention's small
products are not counted: they are 2 % of the operations at these lengths.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from harness import rounded, rounds
from synaptoroute.encoder import Encoder
from synaptoroute.encoder.contract import freeze_tokens
from synaptoroute.encoder.session import open_session
from synaptoroute.encoder_graph.int8_graph import LAYERS
from synaptoroute.encoder_graph.onnx_file import GraphWriter
from synaptoroute.encoder_graph.weights import RUNTIME_DOMAIN, graph_model

SHAPES = ((384, 1_152), (384, 384), (384, 1_536), (1_536, 384))
"""Depth and width of a layer's products."""
TOKENS_OF_A_TEXT = 12
TEXTS = (1, 16, 42)
CPU = ["CPUExecutionProvider"]


def int8_product(depth: int, width: int) -> bytes:
    """One product of bytes, as the int8 graph has it."""
    graph = GraphWriter()
    graph.tensor("zero", np.array(0, dtype=np.uint8))
    graph.tensor("one", np.array(1, dtype=np.float32))
    weights = np.random.default_rng(depth).integers(-128, 128, (depth, width))
    graph.tensor("weights", weights.astype(np.int8))
    graph.tensor("scales", np.ones(width, dtype=np.float32))
    names = ["rows", "weights", "one", "scales", "zero"]
    graph.node("MatMulIntegerToFloat", names, ["products"], RUNTIME_DOMAIN)
    graph.input("rows", np.uint8, ["n", depth])
    graph.output("products", np.float32, ["n", width])
    return graph_model(graph)


def float32_product(depth: int, width: int) -> bytes:
    """One product of float32."""
    graph = GraphWriter()
    weights = np.random.default_rng(depth).standard_normal((depth, width))
    graph.tensor("weights", weights.astype(np.float32))
    graph.node("MatMul", ["rows", "weights"], ["products"])
    graph.input("rows", np.float32, ["n", depth])
    graph.output("products", np.float32, ["n", width])
    return graph_model(graph)


def runtime_layer(make: Callable[[int, int], bytes], kind: type, tokens: int) -> Callable[[], None]:
    """All products of one layer, on the runtime."""
    work = []
    for depth, width in SHAPES:
        rows = np.random.default_rng(width).integers(0, 128, (tokens, depth)).astype(kind)
        work.append((open_session(make(depth, width), "product", CPU), {"rows": rows}))

    def run() -> None:
        for session, feeds in work:
            session.run(None, feeds)

    return run


def numpy_layer(tokens: int) -> Callable[[], None]:
    """The same in numpy's float32."""
    draw = np.random.default_rng(tokens)
    pairs = [
        (
            draw.standard_normal((tokens, depth), dtype=np.float32),
            draw.standard_normal((depth, width), dtype=np.float32),
        )
        for depth, width in SHAPES
    ]

    def run() -> None:
        for rows, weights in pairs:
            rows @ weights

    return run


def milliseconds(work: Callable[[], Any], repeats: int) -> float:
    """Least CPU time of this thread for one call."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return min(times) * 1_000


def measure_arithmetic(turns: int, repeats: int) -> dict[str, Any]:
    """Rates, and shares of an encoder's run, by precision and number of texts."""
    operations = 2 * sum(depth * width for depth, width in SHAPES)
    found: dict[str, Any] = {}
    for precision, make, kind in (
        ("int8", int8_product, np.uint8),
        ("float32", float32_product, np.float32),
    ):
        encoder = Encoder(precision=precision, probe=False)  # type: ignore[arg-type]
        for texts in TEXTS:
            tokens = [freeze_tokens([101, *range(2_000, 2_010), 102])] * texts
            count = texts * TOKENS_OF_A_TEXT
            layer = runtime_layer(make, kind, count)
            blas = numpy_layer(count)
            ways: dict[str, Callable[[], Any]] = {
                "encode": lambda tokens=tokens, encoder=encoder: encoder.encode_tokens(tokens),
                "products": layer,
                "numpy": blas,
            }
            each = rounds(
                {
                    name: lambda work=work: milliseconds(work, repeats)
                    for name, work in ways.items()
                },
                turns,
            )
            middle = {name: median(values) for name, values in each.items()}
            found.setdefault(precision, {})[str(texts)] = {
                "encode_ms": rounded(middle["encode"]),
                "products_ms": rounded(LAYERS * middle["products"]),
                "products_share": rounded(LAYERS * middle["products"] / middle["encode"]),
                "giga_operations_a_second": rounded(operations * count / middle["products"] / 1e6),
                "numpy_float32_giga_operations_a_second": rounded(
                    operations * count / middle["numpy"] / 1e6
                ),
            }
        encoder.close()
    return found
