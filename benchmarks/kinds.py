"""The results of each kind of processor, in one file a kind.

``results/KIND.json`` holds the parts that were measured on that kind, each with its own machine,
commit, command, date and load, so that a figure is never shown under a kind that it is not of.
``earlier`` holds the goals of a run whose raw figures were not kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness import ROOT

Result = dict[str, Any]

KINDS: Final = ("amx", "avx512-vnni", "avx-vnni", "avx2", "neon-dotprod", "neon", "unknown")
"""As ``synaptoroute.encoder.processor`` names them, the fastest first."""
WITH_VNNI: Final = ("amx", "avx512-vnni", "avx-vnni")
"""Kinds with instructions for products of bytes: their goals are higher."""
ALWAYS_SHOWN: Final = ("amx", "avx2")
"""Kinds that the page of goals shows even without a run."""
APART: Final = ("deploy", "outage", "chaos")
"""Results of containers and faults, in files of their own: they hang on no kind."""


@dataclass(frozen=True)
class Places:
    """Folders for results and pages.

    Attributes:
        root: Folder that stands for the repository.
    """

    root: Path = ROOT

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return self.root / "benchmarks" / "results"

    @property
    def entry(self) -> Path:
        """The page of all kinds."""
        return self.root / "BENCHMARKS.md"

    @property
    def plots(self) -> Path:
        """Folder of the plots, with a folder for each kind."""
        return self.root / "docs" / "plots"

    def page(self, kind: str) -> Path:
        """The page of one kind."""
        return self.root / "docs" / "benchmarks" / f"{kind}.md"

    def file(self, name: str) -> Path:
        """File of results."""
        return self.results / f"{name}.json"


@dataclass
class KindResults:
    """Results of one kind of processor.

    Attributes:
        kind: Name of the kind.
        parts: Results by benchmark.
        earlier: Machine, commit, date and goals of a run whose raw figures were not kept.
    """

    kind: str
    parts: dict[str, Result] = field(default_factory=dict)
    earlier: dict[str, Any] = field(default_factory=dict)

    @property
    def earlier_values(self) -> dict[str, float]:
        """Figures of the earlier run, by the name of the goal."""
        return {goal["name"]: goal["value"] for goal in self.earlier.get("goals", ())}

    def save(self, places: Places) -> None:
        """Replace the file in one step."""
        text = json.dumps(vars(self), indent=1) + "\n"
        path = places.file(self.kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)


def read_kind(places: Places, kind: str) -> KindResults:
    """Return the results of a kind; empty if it was never measured."""
    path = places.file(kind)
    return KindResults(**json.loads(path.read_text())) if path.exists() else KindResults(kind)


def read_kinds(places: Places) -> list[KindResults]:
    """Return the kinds that have results, or that are shown without."""
    names = [name for name in KINDS if places.file(name).exists() or name in ALWAYS_SHOWN]
    return [read_kind(places, name) for name in names]


def read_apart(places: Places, names: Sequence[str] = APART) -> dict[str, Result]:
    """Return the results that are of no kind."""
    files = {name: places.file(name) for name in names}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}
