"""Node.js and npm out of the wheel of the developers' lock, for packages of JavaScript."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bucket_server import node_program
from needs import lacking

SECONDS_MAX = 240


def run_node(
    words: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Node.js in a folder; ``node`` and ``npm`` mean the same programs there."""
    program = node_program()
    return subprocess.run(
        [str(program), *words],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", **(variables or {})},
    )


def run_npm(folder: Path, *words: str) -> str:
    """Run npm in a folder and return what it printed; an error fails the test."""
    npm = node_program().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = run_node([str(npm), *words, "--no-audit", "--no-fund"], folder)
    assert not done.returncode, f"npm {words[0]}: {done.stdout}\n{done.stderr}"
    return done.stdout


def install(folder: Path) -> None:
    """Install what a lock file names; without a registry the test is skipped, or fails in CI."""
    npm = node_program().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = run_node([str(npm), "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)
    if done.returncode:
        lacking(f"the packages of {folder.name}/package-lock.json: {done.stderr[-300:]}")
