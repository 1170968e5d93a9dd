"""The JSON of a run, with the machine, the commit, the command, the date and the load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import commit, load_average, machine, now

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Record:
    """A run that has begun."""

    def __init__(self, name: str, command: str) -> None:
        self.name, self.command = name, command
        self._began, self._load = now(), load_average()

    def write(self, path: Path, figures: Mapping[str, Any]) -> None:
        """Write what came of it."""
        document = {
            "bench": self.name,
            "size": "full",
            "machine": machine(),
            "commit": commit(),
            "command": self.command,
            "date": self._began,
            "ended": now(),
            "load_average": {"start": self._load, "end": load_average()},
            "figures": figures,
        }
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
