"""Virtual environments with packages of other projects, for the tests that run them.

An environment is built once below ``.cache/environments`` from a lock file with hashes.
The project's own environment never holds these packages: their pins may contradict ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from needs import lacking
from repository import ROOT

LOCKS = ROOT / "tests" / "conformance" / "locks"
PROGRAMS = ROOT / "tests" / "conformance" / "programs"
UV = Path(sys.executable).with_name("uv")
ENVIRONMENTS = ROOT / ".cache" / "environments"
INSTALL_SECONDS_MAX = 3_600
"""Against a package index that hangs; beside tests an install gets next to no processor time."""
PROGRAM_SECONDS_MAX = 120


def python_of(name: str, interpreter: str | Path = sys.executable) -> Path:
    """Return the interpreter of an environment; build it if its lock file changed.

    ``interpreter`` makes the environment. Without a package index the test is skipped, or
    fails with ``REQUIRE_ALL=1``.
    """
    lock = LOCKS / f"{name}.txt"
    version = Path(interpreter).resolve().name
    folder = ENVIRONMENTS / f"{name}-{version}"
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = folder / "lock.sha256"
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        if not _install_with_uv(lock, interpreter, folder):
            _run([str(interpreter), "-m", "venv", "--clear", str(folder)], "a virtual environment")
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
            failed = f"the packages of {lock.name} (a package index)"
            _run([*pip, "install", "--quiet", *_required(lock)], failed)
        stamp.write_text(wanted)
    return python


def _required(lock: Path) -> list[str]:
    return ["--require-hashes", "--requirement", str(lock)]


def _install_with_uv(lock: Path, interpreter: str | Path, folder: Path) -> bool:
    """Install with uv, in a tenth of pip's time; False where it fails.

    It does not know an index that only pip is configured for.
    """
    if not UV.exists():
        return False
    venv = [str(UV), "venv", "--quiet", "--clear", "--python", str(interpreter), str(folder)]
    install = [str(UV), "pip", "install", "--quiet", "--no-cache", "--python", str(folder)]
    return all(
        _finished(command).returncode == 0 for command in (venv, [*install, *_required(lock)])
    )


def run_program(
    name: str,
    program: str,
    arguments: Sequence[str] = (),
    *,
    variables: Mapping[str, str] | None = None,
    seconds_max: float = PROGRAM_SECONDS_MAX,
) -> Any:
    """Run ``programs/PROGRAM`` in an environment and return the JSON that it prints last.

    A program that fails, fails the test with its output.
    """
    finished = subprocess.run(
        [str(python_of(name)), str(PROGRAMS / program), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds_max,
        env={**_variables(), **(variables or {})},
        check=False,
    )
    printed = finished.stdout.strip().splitlines()
    assert finished.returncode == 0, f"{program}: {finished.stdout}\n{finished.stderr}"
    assert printed, f"{program} printed nothing: {finished.stderr}"
    return json.loads(printed[-1])


def _variables() -> dict[str, str]:
    """This process's variables without those that point at the project's own modules."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def _finished(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS_MAX,
        env=_variables(),
        check=False,
    )


def _run(command: list[str], what: str) -> None:
    finished = _finished(command)
    if finished.returncode:
        lacking(f"{what}: {finished.stderr[-2000:]}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time build an environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_all() -> None:
    """Build every environment that has a lock file; `make environments` calls this."""
    for lock in sorted(LOCKS.glob("*.txt")):
        print(python_of(lock.stem).parents[1].relative_to(ROOT))


if __name__ == "__main__":
    build_all()
