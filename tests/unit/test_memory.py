"""Goal: memory is resident only while it is used.

Method: a process of its own, or many blocks of the C library's heap, freed below one that is kept.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from synaptoroute.memory import release_memory, zeroed_array

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


def test_rows_that_were_not_written_take_no_memory() -> None:
    """Also where the heap has room for them that was used before."""
    blocks = [np.ones(BLOCK_BYTES, np.uint8) for _ in range(BLOCKS)]
    kept = blocks[-1]
    del blocks
    held = resident_bytes()
    rows = zeroed_array((BLOCKS, BLOCK_BYTES // 4), np.float32)
    rows[:3] = 1

    assert resident_bytes() - held < BLOCKS * BLOCK_BYTES / 4
    assert kept.all()
    assert rows[2].all()
    assert not rows[3].any()
    assert zeroed_array((2, 3), np.int8).tolist() == [[0, 0, 0]] * 2


KEEPS = """
import os, threading
from pathlib import Path
import numpy as np
from synaptoroute.memory import bound_freed_memory
bound_freed_memory()
np.ones(20 << 20, np.uint8)
held = []
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def work():
    before = resident()
    parts = [np.ones(2 << 20, np.uint8) for _ in range(15)]
    del parts
    held.append(resident() - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(held[0])
"""


ASKED = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep less")
@pytest.mark.parametrize("asked", [{}, ASKED])
def test_thread_keeps_what_it_freed_only_where_an_operator_asks_for_it(
    asked: dict[str, str],
) -> None:
    """After a block of twenty mebibytes glibc keeps twice as many for each thread."""
    rest = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    words = [sys.executable, "-c", KEEPS]
    done = subprocess.run(words, env=rest | asked, check=True, capture_output=True, text=True)

    assert (int(done.stdout) > 10 << 20) is bool(asked)
