"""Gives each peer a virtual environment of its own under ``.cache/peers``.

python benchmarks/peers/install.py [NAME ...]
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "peers"
NAMES = ("semantic-router", "stratarouter", "synaptoroute")


def environment(name: str) -> Path:
    """Folder of a peer's environment."""
    return CACHE / name


def is_installed(name: str) -> bool:
    """Whether the environment holds what the pins say now."""
    stamp = environment(name) / "pins.sha256"
    return stamp.exists() and stamp.read_text() == _pins_hash(name)


def install(name: str) -> None:
    """Make the environment, unless it is there already."""
    if is_installed(name):
        return
    folder = environment(name)
    print(f"installing {name} into {folder.relative_to(CACHE.parents[1])} ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    pins = str(HERE / f"{name}.txt")
    subprocess.run([*pip, "install", "--quiet", "--requirement", pins], check=True)
    (folder / "pins.sha256").write_text(_pins_hash(name))


def _pins_hash(name: str) -> str:
    return hashlib.sha256((HERE / f"{name}.txt").read_bytes()).hexdigest()


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        install(wanted)
