"""Fits large route sets in a process of their own.

A fit is made of many short steps.  On a thread of this process each of them takes the
interpreter, and the kernel may suspend a thread of the lowest priority that holds it: on a busy
machine all queries would wait until it runs again.  A large route set is fitted for seconds, so
it is worth the start of a process; its memory goes back to the system as well.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from synaptoroute.decision.calibration import (
    DecisionCalibration,
    Kind,
    read_decision_calibration,
)
from synaptoroute.decision.fitting import fit_decision
from synaptoroute.decision.metric import Float32s, Numbers

APART_ROWS_MIN: Final = 8_192
"""A smaller set is fitted in about the time that a process takes to start."""
SECONDS_MAX: Final = 600.0
_PROGRAM: Final = "from synaptoroute.decision.fit_process import main; main()"
_NICE: Final = 19
_log = logging.getLogger(__name__)


def fit_apart(
    vectors: Float32s,
    owners: Numbers,
    aggregation: Kind,
    *,
    topk: int = 3,
    at: str = "",
    fingerprint: str = "",
    rows_min: int = APART_ROWS_MIN,
) -> DecisionCalibration | None:
    """As ``fit_decision``; a set of ``rows_min`` rows and more in a process of its own.

    Where no process can be started, or it fails, this thread fits.
    """
    options: dict[str, Any] = {"topk": topk, "at": at, "fingerprint": fingerprint}
    # Elsewhere, as in a program that was packed into one file, it is not an interpreter.
    if len(owners) >= rows_min and Path(sys.executable or "").name.startswith("python"):
        head = {"shape": vectors.shape, "aggregation": aggregation, **options}
        try:
            content = _run(json.dumps(head).encode(), vectors, owners)
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("a fit could not run in a process of its own: %s", error)
        else:
            return read_decision_calibration(content) if content else None
    return fit_decision(vectors, owners, aggregation, **options)


def _run(head: bytes, vectors: Float32s, owners: Numbers) -> bytes:
    """Send a route set to a new process; return the bytes of its numbers."""
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        process_group=0,  # a Ctrl-C is for the node, which ends it by closing the pipe
    ) as process:
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                pipe.write(head + b"\n")
                pipe.write(np.ascontiguousarray(owners, "<i8").data)
                pipe.write(np.ascontiguousarray(vectors, "<f4").data)
            process.stdin = None
            content, _ = process.communicate(timeout=SECONDS_MAX)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "fit")
    return content


def main() -> None:
    """Fit the route set on standard input; write its numbers, or nothing if it is too small."""
    with suppress(OSError):
        os.nice(_NICE)
    given, result = sys.stdin.buffer, sys.stdout.buffer
    head = json.loads(given.readline())
    rows, dim = head.pop("shape")
    aggregation = head.pop("aggregation")
    owners = np.frombuffer(_read(given, 8 * rows), "<i8").astype(np.int64)
    vectors = np.frombuffer(_read(given, 4 * rows * dim), "<f4").reshape(rows, dim)
    found = fit_decision(vectors.astype(np.float32, copy=False), owners, aggregation, **head)
    result.write(b"" if found is None else found.dump())


def _read(given: BinaryIO, size: int) -> bytes:
    content = given.read(size)
    if len(content) != size:
        raise EOFError("the other process ended")
    return content
