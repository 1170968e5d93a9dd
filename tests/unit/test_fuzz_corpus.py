"""Goal: nothing that a fuzzer once tried is a defect today.

Method: the seeds and the saved corpus of each target, without a fuzzer.  ``make fuzz`` searches on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.targets import TARGETS

pytestmark = pytest.mark.unit

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
CUT_STEPS = 16


@pytest.mark.parametrize("name", TARGETS)
def test_saved_inputs_are_no_defects(name: str) -> None:
    function, seeds = TARGETS[name]
    saved = sorted((CORPUS / name).glob("*")) if (CORPUS / name).is_dir() else []
    for data in [b"", *seeds(), *(path.read_bytes() for path in saved)]:
        function(data)


@pytest.mark.parametrize("name", TARGETS)
def test_cut_and_altered_seeds_are_no_defects(name: str) -> None:
    function, seeds = TARGETS[name]
    for seed in seeds():
        step = max(1, len(seed) // CUT_STEPS)
        for at in range(0, len(seed), step):
            function(seed[:at])
            function(seed[:at] + bytes([seed[at] ^ 0x81]) + seed[at + 1 :])
