"""The files of this repository."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = (ROOT / "node", ROOT / "coordinator")
FUZZED = ROOT / "tests" / "fuzz" / "corpus"
ROUTES = ROOT / "examples/routes.yaml"
QUERIES = ROOT / "examples/queries.txt"


@cache
def files() -> tuple[Path, ...]:
    """Every file that is committed, or would be: what git ignores does not count."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    ).stdout
    found = (ROOT / name.decode() for name in listed.split(b"\0") if name)
    return tuple(sorted(path for path in found if path.is_file()))


def texts() -> tuple[tuple[Path, str], ...]:
    """Every such file that people wrote as UTF-8 text, with its text."""
    written = (path for path in files() if FUZZED not in path.parents)
    return tuple((path, text) for path in written if (text := _text(path)) is not None)


def python_files(*roots: Path) -> tuple[Path, ...]:
    """Python files below the roots; all of them without a root."""
    under = roots or (ROOT,)
    return tuple(
        path
        for path in files()
        if path.suffix == ".py" and any(root in path.parents for root in under)
    )


def name_of(path: Path) -> str:
    """The path as people write it."""
    return path.relative_to(ROOT).as_posix()


@cache
def _text(path: Path) -> str | None:
    raw = path.read_bytes()
    if b"\0" in raw:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
