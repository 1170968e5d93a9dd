"""Interpreter settings of a serving process."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from synaptoroute.server import process

pytestmark = pytest.mark.unit

_PROGRAM = """
import gc, sys
from synaptoroute.server import process
process.tune_interpreter()
process.freeze_objects()
print(sys.getswitchinterval(), *gc.get_threshold(), gc.get_freeze_count() > 1_000)
"""


def test_serving_process_is_tuned_and_a_library_is_not() -> None:
    """Importing the package changes no settings of the interpreter."""
    before = (sys.getswitchinterval(), gc.get_threshold(), gc.get_freeze_count())
    words = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    seconds, *numbers, is_frozen = done.stdout.split()

    assert process.SWITCH_SECONDS == pytest.approx(float(seconds))
    assert [str(process.COLLECT_OBJECTS), *map(str, process.COLLECT_RUNS)] == numbers
    assert "True" == is_frozen
    assert before == (sys.getswitchinterval(), gc.get_threshold(), gc.get_freeze_count())
