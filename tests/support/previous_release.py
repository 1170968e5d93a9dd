"""The release before this one, run from its own sources with the packages of this one.

The sources come out of the repository's history, so a test that needs them is skipped in a
copy without it (a shallow clone, a source archive), and fails there with REQUIRE_ALL=1.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest

from environment import variables
from repository import ROOT

REVISION = "25dde48"
"""The last commit of the release before."""
LEVEL_2_REVISION = "8e6ebd6"
"""The last commit whose highest level of the log is 2."""
LEVEL_3_REVISION = "fe43637"
"""A commit whose highest level of the log is 3."""
LEVEL_4_REVISION = "cbf1e77"
"""A commit whose highest level of the log is 4."""


def unpack_previous_release(folder: Path, revision: str = REVISION) -> Path:
    """Unpack the sources of an earlier revision; return the folder of its packages."""
    archive = subprocess.run(
        ["git", "archive", "--format=tar", revision, "node", "coordinator"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        reason = f"commit {revision} is not in this copy of the repository"
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@contextmanager
def previous_release(sources: Path) -> Iterator[None]:
    """Start processes of the release before within the block."""
    packages = (str(sources / name) for name in ("node", "coordinator"))
    with variables(PYTHONPATH=os.pathsep.join(packages)):
        yield
