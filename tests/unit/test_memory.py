"""Goal: the memory of a large job goes back to the system.

Method: many blocks of the C library's heap, freed below one that is kept.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest

from synaptoroute.memory import release_memory

pytestmark = pytest.mark.unit

BLOCK_BYTES = 64 * 1_024
BLOCKS = 1_000


def resident_bytes() -> int:
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) * 1_024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_freed_memory_below_a_block_in_use_is_given_back() -> None:
    """The C library itself gives back only what is free at the end of its heap."""
    blocks = [np.ones(BLOCK_BYTES, np.uint8) for _ in range(BLOCKS)]
    kept = blocks[-1]
    held = resident_bytes()
    del blocks
    release_memory()

    assert held - resident_bytes() > BLOCKS * BLOCK_BYTES / 2
    assert kept.all()
