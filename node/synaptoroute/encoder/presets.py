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
from synaptoroute.encoder import universal_encoder

MEASURED_FILE: Final = Path(__file__).parent / "data" / "measured.json"


@dataclass(frozen=True, slots=True)
class Preset:
    """An encoder under a short name.

    Attributes:
        model: Name of the model that it stands for.
        purpose: When to choose it.
        languages: Languages that the model was trained on, as BCP 47 tags.
        needs: What must be there; empty if it comes with the project.
    """

    name: str
    model: str
    purpose: str
    languages: tuple[str, ...]
    needs: str = ""


PRESETS: Final = (
    Preset("default", DEFAULT_MODEL, "English; comes with the project", ("en",)),
    Preset(
        "multilingual",
        universal_encoder.NAME,
        "routes in one language, queries in any of 16",
        tuple("ar de en es fr it ja ko nl pl pt ru th tr zh zh-TW".split()),
        "pip install 'synaptoroute[multilingual]'",
    ),
    Preset(
        "accurate",
        "BAAI/bge-base-en-v1.5",
        "English, several times the cost of the default",
        ("en",),
        "a download, once",
    ),
)
_BY_NAME: Final = {preset.name: preset for preset in PRESETS}


def resolve(model: str) -> str:
    """Return the model that a preset stands for; every other name stands for itself."""
    preset = _BY_NAME.get(model)
    return model if preset is None else preset.model


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one model.

    Attributes:
        accuracy: Share of test texts given their route, by data set, at ten utterances a route.
        lone_texts_per_second: Short texts encoded one by one on one thread.
        batch_texts_per_second: The same in batches.
        cpu: Model of the processor.
    """

    accuracy: dict[str, float]
    lone_texts_per_second: float
    batch_texts_per_second: float
    cpu: str


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
