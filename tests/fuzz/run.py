"""Fuzzes one target with Atheris (libFuzzer): ``python -m fuzz.run http --seconds 60``.

The corpus that is saved beside this file, and the seeds of the target, are the start.  New
inputs go to a folder of the run; ``--save`` adds the smallest that reach new code to the corpus.
A finding is written to ``.cache/fuzz`` and repeated with ``python -m fuzz.run http FILE``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
FINDINGS = Path(__file__).parents[2] / ".cache" / "fuzz"
INPUT_BYTES_MAX = 16_384
SNAPSHOT_BYTES_MAX = 262_144
SAVED_INPUTS_MAX = 24
TIMEOUT_SECONDS = 10
MEMORY_MIB_MAX = 2_048


def fuzz(target: str, arguments: list[str]) -> None:
    """Run libFuzzer in this process; it does not return."""
    import atheris

    with atheris.instrument_imports(include=["synaptoroute"]):
        from fuzz.targets import TARGETS
    function, _ = TARGETS[target]
    atheris.Setup([sys.argv[0], *arguments], function)
    atheris.Fuzz()


def write_seeds(target: str, folder: Path) -> None:
    """Write the seeds of a target as files."""
    from fuzz.targets import TARGETS

    for number, seed in enumerate(TARGETS[target][1]()):
        (folder / f"seed-{number}").write_bytes(seed)


def run(target: str, seconds: int, save: bool, seed: int = 0) -> int:
    """Fuzz in a child process; return its exit code."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    kept = CORPUS / target
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        seeds, found = Path(folder) / "seeds", Path(folder) / "found"
        seeds.mkdir()
        found.mkdir()
        write_seeds(target, seeds)
        bytes_max = SNAPSHOT_BYTES_MAX if target == "snapshot" else INPUT_BYTES_MAX
        options = [
            f"-max_total_time={seconds}",
            f"-seed={seed}",
            f"-max_len={bytes_max}",
            f"-timeout={TIMEOUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB_MAX}",
            f"-artifact_prefix={FINDINGS}/{target}-",
            "-verbosity=0",
            "-print_final_stats=1",
        ]
        folders = [str(found), str(seeds), *([str(kept)] if kept.is_dir() else [])]
        code = _child(target, [*options, *folders])
        if save and code == 0:
            kept.mkdir(parents=True, exist_ok=True)
            # Each of them reached code that no input before it had reached.
            smallest = sorted(found.iterdir(), key=lambda path: path.stat().st_size)
            for path in smallest[:SAVED_INPUTS_MAX]:
                (kept / path.name[:16]).write_bytes(path.read_bytes())
    return code


def _child(target: str, arguments: list[str]) -> int:
    command = [sys.executable, "-m", "fuzz.run", target, "--", *arguments]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    """Read the command line."""
    if "--" in sys.argv:
        at = sys.argv.index("--")
        fuzz(sys.argv[1], sys.argv[at + 1 :])
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("file", nargs="?", type=Path, help="repeat this input once")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; 0 for a new one")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    parser.add_argument("--save", action="store_true", help="add new inputs to the corpus")
    given = parser.parse_args()
    from fuzz.targets import TARGETS

    targets = list(TARGETS) if given.target == "all" else [given.target]
    if given.file is not None:
        TARGETS[given.target][0](given.file.read_bytes())
        return 0

    def run_one(target: str) -> int:
        sys.stdout.write(f"--- {target}, {given.seconds} s\n")
        sys.stdout.flush()
        return run(target, given.seconds, given.save, given.seed)

    with ThreadPoolExecutor(given.jobs) as pool:
        codes = list(pool.map(run_one, targets))
    failed = [target for target, code in zip(targets, codes, strict=True) if code]
    if failed:
        sys.stdout.write(f"findings in {FINDINGS}: {', '.join(failed)}\n")
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
