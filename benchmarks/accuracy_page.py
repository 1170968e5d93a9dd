"""Writes the tables of docs/accuracy.md from the JSON of ``bench_accuracy.py``.

    python benchmarks/accuracy_page.py

``report.py`` does the same after a run.  Text outside the markers stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import ROOT
from plots import draw
from tables import table

PAGE = ROOT / "docs" / "accuracy.md"
RESULT = ROOT / "benchmarks" / "results" / "accuracy.json"
TITLES = {"clinc150": "CLINC150", "banking77": "Banking77"}
CONTENDERS = {
    "adaptive": "`adaptive` (default)",
    "blend": "`blend`",
    "max": "`max`",
    "mean": "`mean`",
    "centroid": "`centroid`",
    "topk": "`topk`, k = 3",
    "semantic-router": "semantic-router",
    "synaptoroute": "synaptoroute 0.4",
}
DECISIONS = {
    "answered": "right answers given",
    "refused": "out of scope, refused",
    "ece_inside": "ECE, in scope",
    "ece_mixed": "ECE, mixed",
    "auroc": "AUROC",
}


def render(text: str, figures: Mapping[str, Any]) -> str:
    """Replace the tables between the markers of a page."""
    for name, made in {"ranking": _ranking(figures), "decisions": _decisions(figures)}.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"the page has no markers {begin.strip()} and {end}")
        text = before + begin + made + end + after
    return text


def _ranking(figures: Mapping[str, Any]) -> str:
    return "\n".join(_ranking_tables(figures))


def _ranking_tables(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, result in figures.items():
        found = result["accuracy"]
        counts = sorted(found["adaptive"], key=int)
        rows = [
            (title, *(_share(found[key].get(count)) for count in counts))
            for key, title in CONTENDERS.items()
            if key in found
        ]
        head = f"{_title(name)}, {result['routes']} routes, utterances a route"
        yield table((head, *counts), rows)


def _decisions(figures: Mapping[str, Any]) -> str:
    rows = [
        (_title(name), count, *(_share(found[count].get(key)) for key in DECISIONS))
        for name, result in figures.items()
        for found in (result["decisions"]["adaptive"],)
        for count in sorted(found, key=int)
    ]
    return table(("set", "utterances a route", *DECISIONS.values()), rows)


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _share(cell: Mapping[str, float] | None) -> str:
    return "" if cell is None else f"{cell['mean']:.3f}".replace("0.", ".", 1)


def write(result: Mapping[str, Any], page: Path = PAGE) -> None:
    """Write the tables of a page anew."""
    page.write_text(render(page.read_text(encoding="utf-8"), result["figures"]), encoding="utf-8")


if __name__ == "__main__":
    recorded = json.loads(RESULT.read_text(encoding="utf-8"))
    write(recorded)
    draw({"accuracy": recorded})
