"""The disaster drill with real containers, as `make drill` runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from containers import IMAGES, require_images
from needs import require
from repository import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

DRILL_SECONDS_MAX = 500


def test_destroyed_cluster_is_restored_from_its_backup() -> None:
    """The same digest on every node of an empty cluster; all nodes vote and take writes."""
    require("docker-compose")
    require_images(*IMAGES)
    images = {f"{name.upper()}_IMAGE": image for name, image in IMAGES.items()}
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/drill.py", "--routes", "20"],
        env={**os.environ, **images},
        capture_output=True,
        text=True,
        timeout=DRILL_SECONDS_MAX,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    shown = [line for line in done.stdout.splitlines() if "digest" in line]
    assert 1 == len({line.rpartition(" ")[2] for line in shown}), done.stdout
    assert 3 == len(shown), "before, in the backup, and after"
