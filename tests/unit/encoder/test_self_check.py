"""The checks at start-up find a machine that computes wrong vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from synaptoroute.encoder import Encoder, self_check
from synaptoroute.encoder.recipe import probe_file
from synaptoroute.encoder.self_check import COSINE_MIN, PROBE_TEXTS, check_probe
from synaptoroute.errors import EncoderError, ModelCorrupt

pytestmark = pytest.mark.unit


def reference() -> NDArray[np.float32]:
    with np.load(probe_file()) as archive:
        vectors: NDArray[np.float32] = archive["vectors"]
    return vectors


def test_this_machine_passes_far_above_the_limit() -> None:
    """The optimised graph differs from the plain one only in the last bits."""
    assert check_probe(Encoder(precision="float32", probe=False).encode, probe_file()) > 0.999999


def test_prefixes_do_not_affect_the_probe() -> None:
    """The probe texts are encoded without prefix."""
    Encoder(query_prefix="query: ", utterance_prefix="passage: ")


def test_one_wrong_vector_fails() -> None:
    """The least cosine decides, not the mean."""

    def broken(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = reference().copy()
        noise = np.random.default_rng(1).normal(0, 0.002, 384).astype(np.float32)
        vectors[7] += noise
        vectors[7] /= np.linalg.norm(vectors[7])
        return vectors

    with pytest.raises(EncoderError, match="numerically broken"):
        check_probe(broken, probe_file())


def test_nan_fails() -> None:
    """A comparison with NaN is false."""

    def broken(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.full((16, 384), np.nan, dtype=np.float32)

    with pytest.raises(EncoderError):
        check_probe(broken, probe_file())


def test_reference_has_one_unit_vector_per_text() -> None:
    """Sixteen different texts and sixteen unit rows."""
    assert 16 == len(set(PROBE_TEXTS))
    assert np.allclose(1.0, np.linalg.norm(reference(), axis=1), atol=1e-6)
    assert (len(PROBE_TEXTS), 384) == reference().shape
    assert COSINE_MIN < 1


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_unreadable_reference_is_corrupt(tmp_path: Path, content: bytes) -> None:
    """Truncated package data is reported."""
    (tmp_path / "probe.npz").write_bytes(content)

    with pytest.raises(ModelCorrupt):
        check_probe(lambda texts: reference(), tmp_path / "probe.npz")


def test_reference_of_another_model_is_corrupt(tmp_path: Path) -> None:
    """A reference of another width cannot be compared."""
    np.savez(tmp_path / "probe.npz", vectors=np.ones((16, 8), dtype=np.float32))

    with pytest.raises(ModelCorrupt):
        check_probe(lambda texts: reference(), tmp_path / "probe.npz")


def test_this_cpu_multiplies_exactly() -> None:
    """With extreme values."""
    self_check.check_exactness()


def test_saturating_products_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here sums of pairs saturate at 15 bits."""

    def saturate(session: Any, output: str, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        rows = feeds["rows"].astype(np.int64)
        parts = rows[:, :, None] * self_check.extreme_weights(rows.shape[1])[None]
        pairs = parts[:, ::2] + parts[:, 1::2]
        sums: NDArray[np.int64] = np.clip(pairs, -16_384, 16_383).sum(axis=1)
        return sums

    monkeypatch.setattr(self_check, "run_session", saturate)

    with pytest.raises(EncoderError, match="multiplies bytes wrongly"):
        self_check.check_exactness()
