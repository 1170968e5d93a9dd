"""Goal: the kind of a processor is told from what the system says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from synaptoroute.encoder import processor
from synaptoroute.encoder.processor import CPU_KINDS, CpuKind, cpu_name, flags_of, kind_of

# Cut from /proc/cpuinfo of the machines that the names say.
GENOA = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu sse4_2 avx f16c avx2 bmi2 avx512f avx512_bf16 avx512_vnni fsrm
bugs\t\t: sysret_ss_attrs srso
"""
MILAN = "cpu family\t: 25\nmodel\t\t: 1\nflags\t\t: fpu sse4_2 avx f16c avx2 bmi2 vaes fsrm\n"
SAPPHIRE_RAPIDS = (
    "flags\t\t: avx2 avx_vnni avx512f avx512_vnni amx_bf16 avx512_fp16 amx_tile amx_int8\n"
)
SKYLAKE = "flags\t\t: sse4_2 avx2 avx512f avx512dq avx512cd avx512bw avx512vl\n"
ALDER_LAKE = "flags\t\t: sse4_2 avx avx2 fma avx_vnni\n"
IVY_BRIDGE = "flags\t\t: fpu sse sse2 sse4_2 avx f16c\n"
GRAVITON2 = (
    "processor\t: 0\nBogoMIPS\t: 243.75\n"
    "Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc asimddp\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
)
RASPBERRY_PI_4 = "Features\t: fp asimd evtstrm crc32 cpuid\n"
ARM_32_BIT = "Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SAPPHIRE_RAPIDS, "amx"),
        (GENOA, "avx512-vnni"),
        (ALDER_LAKE, "avx-vnni"),
        (MILAN, "avx2"),
        (SKYLAKE, "avx2"),
        (GRAVITON2, "neon-dotprod"),
        (RASPBERRY_PI_4, "neon"),
        (ARM_32_BIT, "neon"),
        (IVY_BRIDGE, "unknown"),
        ("", "unknown"),
        ("flags\nno colon here\n", "unknown"),
    ],
)
def test_kind_is_the_best_set_of_instructions(text: str, expected: CpuKind) -> None:
    assert expected == kind_of(text)
    assert expected in CPU_KINDS


def test_kind_is_what_all_processors_have() -> None:
    assert "avx2" == kind_of(SAPPHIRE_RAPIDS + MILAN)
    assert {"avx2", "sse4_2"} <= flags_of(GENOA + SKYLAKE)


def test_flag_within_another_word_does_not_count() -> None:
    assert "unknown" == kind_of("flags\t\t: noavx2 avx2x\nmodel name\t: avx2 asimd\n")


def test_name_and_kind_are_read_from_the_file_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_bytes(GENOA.encode() + b"power management: \xff\n")
    monkeypatch.setattr(processor, "CPU_INFO", file)

    assert "avx512-vnni" == processor.kind_of_cpu.__wrapped__()
    assert "AMD EPYC" == cpu_name()


@pytest.mark.parametrize(
    ("system", "architecture", "expected"),
    [
        ("darwin", "arm64", "neon-dotprod"),
        ("darwin", "x86_64", "unknown"),
        ("win32", "AMD64", "unknown"),
    ],
)
def test_kind_where_the_system_has_no_such_file(
    system: str,
    architecture: str,
    expected: CpuKind,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "absent")
    monkeypatch.setattr(processor.sys, "platform", system)
    monkeypatch.setattr(processor.platform, "machine", lambda: architecture)

    assert expected == processor.kind_of_cpu.__wrapped__()
