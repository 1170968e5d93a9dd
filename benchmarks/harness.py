"""Shared by all benchmarks: options, interleaved rounds, ratios, and the JSON output.

Rule 1: contenders run in turn, round by round, so that noise of the machine meets all
of them; a ratio is that of medians, with the spread of the rounds' own ratios.
Rule 2: a figure carries the machine, the commit, the command, the date and the load.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
DATA_VARIABLE = "SYNAPTOROUTE_BENCH_DATA"
COMMIT_VARIABLE = "SYNAPTOROUTE_BENCH_COMMIT"
"""The commit as it was when the report began, which then writes tracked files."""
_WRITTEN = (":!BENCHMARKS.md", ":!benchmarks/results", ":!docs/benchmarks", ":!docs/plots")
"""What a report writes: a part is of the same commit after the parts before it were written."""
_HIDDEN = ("--data", "--json", "--out", "--model")
"""Options whose folders a command does not show."""
ResultT = TypeVar("ResultT")
SizeT = TypeVar("SizeT")


@dataclass(frozen=True)
class Options:
    """The options of the command line.

    Attributes:
        data: Folder with ``clinc150.json`` and ``banking77.json``; None for generated texts.
        json_file: Where the JSON is written besides standard output.
        size: ``full``, ``standard`` (the report in half an hour), ``quick`` (figures to look at)
            or ``tiny`` (does it run at all).
        peers: Whether peers take part, where they are installed.
    """

    data: Path | None
    json_file: Path | None
    size: str
    peers: bool

    def pick(
        self, full: SizeT, quick: SizeT, tiny: SizeT, *, standard: SizeT | None = None
    ) -> SizeT:
        """Choose by size; ``standard`` is as ``quick`` where nothing else is said."""
        middle = quick if standard is None else standard
        return {"full": full, "standard": middle, "quick": quick, "tiny": tiny}[self.size]


def read_options(about: str | None) -> Options:
    """Read the command line of a benchmark."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    add_options(parser)
    return to_options(parser.parse_args())


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all benchmarks have."""
    default = os.environ.get(DATA_VARIABLE)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(default) if default else None,
        help=f"folder with clinc150.json and banking77.json (or {DATA_VARIABLE})",
    )
    parser.add_argument("--json", type=Path, help="also write the JSON to this file")
    parser.add_argument("--standard", action="store_true", help="rounds for half an hour in all")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--tiny", action="store_true", help="only show that it runs")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")


def to_options(given: argparse.Namespace) -> Options:
    """Return the options that were parsed."""
    size = next((name for name in ("tiny", "quick", "standard") if vars(given)[name]), "full")
    data = given.data
    if data is not None and data.is_file():
        data = data.parent
    return Options(data, given.json, size, not given.no_peers)


def rounds(contenders: Mapping[str, Callable[[], ResultT]], count: int) -> dict[str, list[ResultT]]:
    """Run every contender once a round; each round begins with another."""
    names = list(contenders)
    found: dict[str, list[ResultT]] = {name: [] for name in names}
    for number in range(count):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(contenders[name]())
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": rounded(median(values)),
        "low": rounded(min(values)),
        "high": rounded(max(values)),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ratio of medians, with the least and the greatest ratio of one round."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "median": rounded(median(ours) / median(theirs)),
        "low": rounded(min(each)),
        "high": rounded(max(each)),
    }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and maximum."""
    ranked = sorted(values)
    found = {f"p{share}": ranked[ceil(len(ranked) * share / 100) - 1] for share in (50, 90, 99)}
    return {name: rounded(value) for name, value in {**found, "max": ranked[-1]}.items()}


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def machine() -> dict[str, Any]:
    """Describe what this runs on."""
    # Programs that only need the figures' arithmetic start without the package.
    from synaptoroute.encoder.processor import kind_of_cpu

    return {
        "cpu": cpu_model(),
        "kind": kind_of_cpu(),
        "cores": os.cpu_count(),
        "memory_gib": rounded(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "onnxruntime", "tokenizers", "fastembed")},
    }


def cpu_model() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    name = found.get("model name", platform.processor())
    return f"{name}, family {found.get('cpu family')} model {found.get('model')}"


def commit() -> str:
    """Commit of the code, with a mark where files differ from it that are not written by a run."""
    if COMMIT_VARIABLE in os.environ:
        return os.environ[COMMIT_VARIABLE]
    name = _git("rev-parse", "--short=12", "HEAD").strip()
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_WRITTEN)
    return f"{name}-dirty" if name and changed else name or "unknown"


def _git(*words: str) -> str:
    """Output of git; empty where there is no repository."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout


def now() -> str:
    """Date and time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Bench:
    """One run of a benchmark; ``finish`` prints its figures."""

    def __init__(self, name: str, options: Options) -> None:
        self._name = name
        self._options = options
        self._began_at = now()
        self._load_before = load_average()

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Print the JSON, and write it to the file of ``--json``."""
        report = {
            "bench": self._name,
            "size": self._options.size,
            "machine": machine(),
            "commit": commit(),
            "command": command(),
            "date": self._began_at,
            "ended": now(),
            "load_average": {"start": self._load_before, "end": load_average()},
            "figures": figures,
        }
        text = json.dumps(report, indent=1)
        if self._options.json_file is not None:
            self._options.json_file.parent.mkdir(parents=True, exist_ok=True)
            self._options.json_file.write_text(text + "\n", encoding="utf-8")
        print(text)


def command() -> str:
    """Return the command line without folders of this machine."""
    words = []
    hide_next = False
    for word in sys.argv[1:]:
        words.append("FOLDER" if hide_next else word)
        hide_next = word in _HIDDEN
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT).as_posix() if ROOT in script.parents else script.name
    return " ".join(["python", shown, *words])


def load_average() -> float:
    """Return the load average of the last minute."""
    return rounded(os.getloadavg()[0])
