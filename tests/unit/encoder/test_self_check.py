"""Goal: a machine that computes wrongly is found at start-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from synaptoroute.encoder import Encoder, self_check
from synaptoroute.encoder.bundled import probe_file
from synaptoroute.encoder.self_check import COSINE_MIN, PROBE_TEXTS, check_probe
from synaptoroute.errors import EncoderError, ModelCorrupt

pytestmark = pytest.mark.unit


def reference() -> NDArray[np.float32]:
    with np.load(probe_file()) as archive:
        vectors: NDArray[np.float32] = archive["vectors"]
    return vectors


def test_this_machine_passes_far_above_the_limit() -> None:
    """Optimised and plain graph differ in the last bits only."""
    assert check_probe(Encoder(precision="float32", probe=False).encode, probe_file()) > 0.999999


def test_prefixes_do_not_disturb_the_probe() -> None:
    """The probe checks the numbers, not the user's settings."""
    Encoder(query_prefix="query: ", utterance_prefix="passage: ")


def test_one_wrong_vector_fails() -> None:
    """The worst text decides, not the mean."""

    def broken(texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = reference().copy()
        noise = np.random.default_rng(1).normal(0, 0.002, 384).astype(np.float32)
        vectors[7] += noise
        vectors[7] /= np.linalg.norm(vectors[7])
        return vectors

    with pytest.raises(EncoderError, match="numerically broken"):
        check_probe(broken, probe_file())


def test_not_a_number_fails() -> None:
    """A comparison with NaN must not pass for success."""

    def broken(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.full((16, 384), np.nan, dtype=np.float32)

    with pytest.raises(EncoderError):
        check_probe(broken, probe_file())


def test_reference_has_one_unit_vector_a_text() -> None:
    """Sixteen different texts, sixteen unit rows."""
    assert 16 == len(set(PROBE_TEXTS))
    assert np.allclose(1.0, np.linalg.norm(reference(), axis=1), atol=1e-6)
    assert (len(PROBE_TEXTS), 384) == reference().shape
    assert COSINE_MIN < 1


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_unreadable_reference_is_corrupt(tmp_path: Path, content: bytes) -> None:
    """Package data that was cut off is told as such."""
    (tmp_path / "probe.npz").write_bytes(content)

    with pytest.raises(ModelCorrupt):
        check_probe(lambda texts: reference(), tmp_path / "probe.npz")


def test_reference_of_another_model_is_corrupt(tmp_path: Path) -> None:
    """A reference of another width cannot be compared."""
    np.savez(tmp_path / "probe.npz", vectors=np.ones((16, 8), dtype=np.float32))

    with pytest.raises(ModelCorrupt):
        check_probe(lambda texts: reference(), tmp_path / "probe.npz")


def test_this_cpu_multiplies_exactly() -> None:
    """The extremes come out right on the machine of this test."""
    self_check.check_exactness()


def test_saturating_cpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product whose pairs saturate at 15 bits is refused, not served."""

    def saturate(session: Any, output: str, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        rows = feeds["rows"].astype(np.int64)
        parts = rows[:, :, None] * self_check.extreme_weights(rows.shape[1])[None]
        pairs = parts[:, ::2] + parts[:, 1::2]
        return np.clip(pairs, -16_384, 16_383).sum(axis=1)

    monkeypatch.setattr(self_check, "run_session", saturate)

    with pytest.raises(EncoderError, match="multiplies bytes wrongly"):
        self_check.check_exactness()
