"""Goal: the same rules on another runtime.  Method: the real bundled model on real OpenVINO."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from drawn_texts import text_of
from synaptoroute.encoder import Encoder, openvino_session
from synaptoroute.encoder.bundled import bundled_recipe
from synaptoroute.encoder.int8_graph import graph_model
from synaptoroute.encoder.onnx_wire import GraphWriter
from synaptoroute.encoder.openvino_graph import openvino_graph
from synaptoroute.encoder.openvino_session import OpenVinoSession, check_openvino_exactness
from synaptoroute.encoder.probe import PROBE_TEXTS
from synaptoroute.errors import BackendMissing, ConfigError, EncoderError, ModelCorrupt

pytestmark = pytest.mark.unit

DIFFERENCE_MAX = 1e-5
COSINE_MIN = 0.996


@pytest.fixture(scope="module")
def encoder() -> Iterator[Encoder]:
    opened = Encoder(backend="openvino")
    yield opened
    opened.close()


@pytest.mark.parametrize("words_count", [0, 1, 13, 14, 15, 70])
def test_vector_does_not_depend_on_its_company(encoder: Encoder, words_count: int) -> None:
    """Alone, and among 31 others of every length mix, at every place."""
    text = text_of(words_count, seed=words_count)
    alone = encoder.encode([text])[0]
    mixes = {
        "equal": [words_count] * 31,
        "near": [words_count + n % 2 for n in range(31)],
        "shorter": [1 + n % 11 for n in range(31)],
        "longer": [13 + n % 25 for n in range(31)],
        "spread": [1 + 2 * n for n in range(31)],
    }
    for name, counts in mixes.items():
        mates = [text_of(count, seed=n) for n, count in enumerate(counts)]
        for place in (0, 16, 31):
            together = encoder.encode([*mates[:place], text, *mates[place:]])[place]
            assert float(np.abs(together - alone).max()) < DIFFERENCE_MAX, name


def test_vectors_stay_near_those_of_float32(encoder: Encoder) -> None:
    """Rounding to 256 steps costs less than a two-hundred-and-fiftieth of the cosine."""
    exact = Encoder(precision="float32", probe=False)

    cosines = (encoder.encode(PROBE_TEXTS) * exact.encode(PROBE_TEXTS)).sum(axis=1)

    exact.close()
    assert float(np.mean(cosines)) > COSINE_MIN


def test_rows_beside_the_tokens_are_counted(encoder: Encoder) -> None:
    """A run's rows are a multiple of 16, whatever the widths of its texts; no more."""
    texts = [text_of(n, n) for n in (3, 5, 20)]
    before = encoder.stats()

    encoder.encode(texts)

    after = encoder.stats()
    tokens = sum(each.count for each in encoder.tokenize(texts))
    assert tokens == after.tokens - before.tokens
    assert -tokens % 16 == after.padding_tokens - before.padding_tokens


def test_lanes_share_the_encoder(encoder: Encoder) -> None:
    """More threads than compiled graphs get the vectors that one gets."""
    texts = [text_of(1 + n % 20, seed=n) for n in range(24)]
    expected = encoder.encode(texts)
    found: list[np.ndarray | None] = [None] * 6

    def run(index: int) -> None:
        found[index] = encoder.encode(texts)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(rows is not None and np.array_equal(expected, rows) for rows in found)


def test_fingerprints_of_the_backends_differ(encoder: Encoder) -> None:
    """Nodes of one cluster cannot mix them; ``auto`` is ONNX Runtime, whatever is installed."""
    default, named = Encoder(probe=False), Encoder(backend="onnxruntime", probe=False)

    assert default.fingerprint == named.fingerprint
    assert default.fingerprint != encoder.fingerprint
    assert ("onnxruntime", "openvino") == (default.backend, encoder.backend)
    assert "int8" == encoder.precision


def test_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for the extra without installing it learns how to."""
    monkeypatch.setattr(openvino_session, "find_spec", lambda name: None)

    with pytest.raises(BackendMissing, match=r"pip install .*openvino") as refused:
        Encoder(backend="openvino")

    assert "backend_missing" == refused.value.code


def test_only_integers_are_offered() -> None:
    """float32 on OpenVINO would be a third family of vectors, and no faster."""
    with pytest.raises(ConfigError, match="int8"):
        Encoder(backend="openvino", precision="float32")


def test_unknown_backend_is_refused() -> None:
    """A typing error is not the default."""
    with pytest.raises(ConfigError, match="backend must be"):
        Encoder(backend="torch")  # type: ignore[arg-type]


def test_other_providers_are_refused() -> None:
    """The graph is compiled for the CPU alone."""
    with pytest.raises(ConfigError, match="CPUExecutionProvider"):
        OpenVinoSession(bundled_recipe(), ["CUDAExecutionProvider"])


def test_strange_graph_is_refused() -> None:
    """A file that is not the bundled model's graph is corrupt, not a crash."""
    writer = GraphWriter()
    writer.tensor("weights", np.zeros((2, 2), dtype=np.float32))
    product = graph_model(writer)

    with pytest.raises(ModelCorrupt, match="bundled"):
        openvino_graph(product)


def test_wrong_products_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that saturates a pair of products is found before it gives an answer."""
    right = openvino_session._infer
    monkeypatch.setattr(
        openvino_session, "_infer", lambda *given: np.clip(right(*given), -32_768, 32_767)
    )

    with pytest.raises(EncoderError, match="onnxruntime"):
        check_openvino_exactness()
