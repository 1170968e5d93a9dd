"""How Python shares itself between the threads of a process that only serves.

A query crosses four threads, and each crossing may have to wait until a thread that
applies a large import gives the interpreter up: by default after 5 ms.  A full garbage
collection stops all of them for as long as there are objects to look at, by default
after few thousand new ones.  A library leaves such settings to its host; this process
has none, so it sets them.

Source: https://docs.python.org/3/library/sys.html#sys.setswitchinterval and
https://docs.python.org/3/library/gc.html#gc.freeze.
"""

from __future__ import annotations

import gc
import sys
from typing import Final

SWITCH_SECONDS: Final = 0.000_5
COLLECT_OBJECTS: Final = 20_000
"""New objects before the young ones are looked at."""
COLLECT_RUNS: Final = (20, 100)
"""Looks at the young before one at the middle-aged, and of those before one at all."""


def tune() -> None:
    """Share the interpreter in small turns and collect seldom; once a process."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(COLLECT_OBJECTS, *COLLECT_RUNS)


def settle() -> None:
    """Look no more at what is there now and stays: modules, the encoder, the settings."""
    gc.collect()
    gc.freeze()
