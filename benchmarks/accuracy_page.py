"""Writes the tables of docs/accuracy.md from the JSON of ``bench_accuracy.py`` and, where there
is one, of ``bench_small_sets.py``.

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
SMALL_SETS = RESULT.with_name("small_sets.json")
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


SMALL = {"accuracy": "right route"} | {
    key: DECISIONS[key] for key in ("answered", "refused", "ece_inside", "ece_mixed")
}


def render(text: str, figures: Mapping[str, Any]) -> str:
    """Replace the tables of ranking and decisions between the markers of a page."""
    for name, made in {"ranking": _ranking(figures), "decisions": _decisions(figures)}.items():
        text = _replaced(text, name, made)
    return text


def render_small_sets(text: str, figures: Mapping[str, Any]) -> str:
    """Replace the table of small route sets between its markers."""
    rows = [
        (_title(name), kind, each, *(f"{row[key]:.3f}".replace("0.", ".", 1) for key in SMALL))
        for name, kinds in figures.items()
        for kind, own in kinds.items()
        for each, row in own.items()
    ]
    made = table(("set", "kind", "utterances a route", *SMALL.values()), rows)
    return _replaced(text, "small sets", made)


def _replaced(text: str, name: str, made: str) -> str:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no markers {begin.strip()} and {end}")
    return before + begin + made + end + after


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


def write(result: Mapping[str, Any], page: Path = PAGE, small_sets: Path = SMALL_SETS) -> None:
    """Write the tables of a page anew."""
    text = render(page.read_text(encoding="utf-8"), result["figures"])
    if small_sets.exists():
        found = json.loads(small_sets.read_text(encoding="utf-8"))
        text = render_small_sets(text, found["figures"])
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    recorded = json.loads(RESULT.read_text(encoding="utf-8"))
    write(recorded)
    draw({"accuracy": recorded})
