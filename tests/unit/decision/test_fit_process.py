"""A fit in a process of its own gives the numbers of one on this thread."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from synaptoroute.decision import fit_decision
from synaptoroute.decision.fit_process import fit_apart

pytestmark = pytest.mark.unit

OPTIONS = {"topk": 2, "at": "1.7", "fingerprint": "f" * 16}


def rows_of(routes: int, each: int = 6) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    owners = np.repeat(np.arange(routes), each)
    rows = draw.standard_normal((routes, 24))[owners] + draw.standard_normal((routes * each, 24))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), owners


@pytest.mark.parametrize("aggregation", ["adaptive", "topk"])
def test_numbers_are_those_of_this_thread(aggregation: str) -> None:
    """Byte for byte; equal machines fit equally."""
    rows, owners = rows_of(12)
    expected = fit_decision(rows, owners, aggregation, **OPTIONS)  # type: ignore[arg-type]
    found = fit_apart(rows, owners, aggregation, **OPTIONS, rows_min=1)  # type: ignore[arg-type]

    assert expected is not None
    assert found is not None
    assert expected.dump() == found.dump()


def test_set_that_is_too_small_has_no_numbers() -> None:
    assert fit_apart(*rows_of(2), "adaptive", rows_min=1) is None


@pytest.mark.parametrize("name", ["", "python", "python-that-fails", "packed-program"])
def test_this_thread_fits_where_no_process_can(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no interpreter to start, or the process fails; other programs are not started."""
    rows, owners = rows_of(12)
    expected = fit_decision(rows, owners, "adaptive", **OPTIONS)  # type: ignore[arg-type]
    program = tmp_path / name
    if name not in ("", "python"):
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 3\n")
        program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program) if name else "")

    found = fit_apart(rows, owners, "adaptive", **OPTIONS, rows_min=1)  # type: ignore[arg-type]

    assert expected is not None
    assert found is not None
    assert expected.dump() == found.dump()
    assert (tmp_path / "started").exists() == (name == "python-that-fails")
