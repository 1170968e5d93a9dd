"""The table of costs in ARCHITECTURE.md against a trace of real requests."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from repository import ROOT

pytestmark = pytest.mark.tidy

TOLERANCE = 0.10
# How often threads take turns depends on the scheduler; two more or less are the same path.
SWITCHES_TOLERANCE = 2
TRACES_MAX = 3
"""On a busy machine what a node does by itself falls into a request; not into each of three."""


def load_tracer() -> ModuleType:
    """Import the tracer from benchmarks/."""
    spec = importlib.util.spec_from_file_location("trace_path", ROOT / "benchmarks/trace_path.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


TRACER = load_tracer()


def test_table_of_costs_has_a_row_for_every_traced_request() -> None:
    """The rows are those that `make docs` writes."""
    assert list(TRACER.KINDS) == list(TRACER.read_costs())


@pytest.mark.parametrize("kind", TRACER.KINDS)
def test_request_costs_what_the_table_says(kind: str) -> None:
    """Calls and files stay within 10 %; `make docs` rewrites the table."""
    expected = TRACER.read_costs()[kind]
    wanted = {
        "calls": pytest.approx(expected["calls"], rel=TOLERANCE),
        "files": pytest.approx(expected["files"], rel=TOLERANCE),
        "threads": expected["threads"],
        "switches": pytest.approx(expected["switches"], rel=TOLERANCE, abs=SWITCHES_TOLERANCE),
    }
    for _ in range(TRACES_MAX):
        found = TRACER.trace(kind)
        counts = {name: found[name] for name in wanted}
        if counts == wanted:
            break

    assert counts == wanted, "run `make docs`"
