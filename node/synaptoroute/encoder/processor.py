"""The processor of this machine: its name, and the kind that decides how fast products are.

A kind is named after the best instructions that ONNX Runtime multiplies bytes with.  Figures
of benchmarks compare only within a kind.  No vector depends on it by our choice: see ADR 0016.
"""

from __future__ import annotations

import platform
import sys
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

CpuKind = Literal["amx", "avx512-vnni", "avx-vnni", "avx2", "neon-dotprod", "neon", "unknown"]

CPU_INFO: Final = Path("/proc/cpuinfo")
_FLAGS: Final[tuple[tuple[str, CpuKind], ...]] = (
    ("amx_int8", "amx"),
    ("avx512_vnni", "avx512-vnni"),
    ("avx_vnni", "avx-vnni"),
    ("avx2", "avx2"),
    ("asimddp", "neon-dotprod"),
    ("asimd", "neon"),
    ("neon", "neon"),
)
"""Flags of Linux with the kinds that they mean, the best first."""
CPU_KINDS: Final[tuple[CpuKind, ...]] = get_args(CpuKind)


@cache
def kind_of_cpu() -> CpuKind:
    """Kind of this machine's processor; ``unknown`` where the system does not tell it."""
    text = read_cpu_info()
    if text is not None:
        return kind_of(text)
    # Every processor of Apple that runs arm64 has the products of bytes.
    is_apple = sys.platform == "darwin" and platform.machine() == "arm64"
    return "neon-dotprod" if is_apple else "unknown"


def kind_of(cpu_info: str) -> CpuKind:
    """Kind of the processor that a text in the form of ``/proc/cpuinfo`` describes."""
    flags = flags_of(cpu_info)
    for flag, kind in _FLAGS:
        if flag in flags:
            return kind
    return "unknown"


def flags_of(cpu_info: str) -> frozenset[str]:
    """Instruction sets that every processor of the text has."""
    # Efficiency cores may lack what the others have, and a thread may run on any of them.
    found = [
        frozenset(value.split())
        for name, _, value in (line.partition(":") for line in cpu_info.splitlines())
        if name.strip().lower() in ("flags", "features")
    ]
    return frozenset.intersection(*found) if found else frozenset()


def cpu_name() -> str:
    """Name of this machine's processor, as the system gives it; may be empty."""
    lines = (read_cpu_info() or "").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def read_cpu_info() -> str | None:
    """Text of ``/proc/cpuinfo``; None where there is none."""
    try:
        return CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
