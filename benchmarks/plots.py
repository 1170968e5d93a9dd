"""The plots of docs/plots: drawn from a run's JSON, equal bytes for equal figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from goals import Goal
from harness import ROOT

FOLDER = ROOT / "docs" / "plots"
Results = dict[str, dict[str, Any]]
Plot = Callable[[dict[str, Any], Any], None]
_STYLE = {
    "svg.hashsalt": "synaptoroute",
    "svg.fonttype": "none",
    "figure.figsize": (6.4, 3.6),
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(results: Results, folder: Path = FOLDER) -> list[Path]:
    """Write every plot that the results have figures for."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    written = []
    with mpl.rc_context(_STYLE):
        for name, (bench, title, plot) in PLOTS.items():
            if bench not in results:
                continue
            figure, axes = pyplot.subplots()
            plot(results[bench]["figures"], axes)
            axes.set_title(title)
            axes.legend(frameon=False, fontsize="small")
            figure.tight_layout()
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.svg"
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
            written.append(path)
    return written


def _latency(figures: dict[str, Any], axes: Any) -> None:
    rows = list(figures["loads"].values())
    offered = [row["offered_per_second"] for row in rows]
    for name in ("p50", "p99"):
        values = [row["good_ms"][name] for row in rows]
        axes.plot(offered, values, marker="o", label=f"{name}, answered in time")
    axes.axhline(figures["deadline_ms"], linestyle="--", color="grey", label="deadline")
    axes.set(xlabel="queries offered a second", ylabel="ms since it was due", ylim=(0, None))


def _goodput(figures: dict[str, Any], axes: Any) -> None:
    loads = [float(load) for load in figures["loads"]]
    rows = list(figures["loads"].values())
    axes.plot(loads, [row["goodput_of_capacity"] for row in rows], marker="o", label="goodput")
    axes.plot(loads, [min(load, 1.0) for load in loads], linestyle="--", color="grey",
              label="all that is possible")  # fmt: skip
    axes.plot(loads, [row["late_share"] for row in rows], marker="s", label="share too late")
    axes.set(xlabel="load, times capacity", ylabel="of capacity", ylim=(0, None))


def _utterances(figures: dict[str, Any], axes: Any) -> None:
    sizes = {int(size): row for size, row in figures["sizes"].items()}
    for batch in next(iter(sizes.values()))["milliseconds_a_query"]:
        values = [row["milliseconds_a_query"][batch]["p50"] for row in sizes.values()]
        label = "alone" if batch == "1" else f"in batches of {batch}"
        axes.plot(list(sizes), values, marker="o", label=label)
    axes.set(xlabel="utterances", ylabel="ms a query, scoring", xscale="log", yscale="log")


def _lanes(figures: dict[str, Any], axes: Any) -> None:
    for lanes, row in figures["texts_per_second"].items():
        values = [cell["median"] for cell in row.values()]
        axes.plot([int(batch) for batch in row], values, marker="o", label=f"{lanes} lanes")
    axes.set(xlabel="texts a batch", ylabel="texts encoded a second", xscale="log", ylim=(0, None))


def _reliability(name: str) -> Plot:
    """Plot how often answers of a confidence are right, for the default and ten utterances."""

    def plot(figures: dict[str, Any], axes: Any) -> None:
        row = figures.get(name, {}).get("decisions", {}).get("adaptive", {}).get("10", {})
        axes.plot([0, 1], [0, 1], linestyle="--", color="grey", label="as sure as right")
        for key, label in (("inside", "in scope"), ("mixed", "with out-of-scope texts")):
            points = [point for point in row.get(f"reliability_{key}", ()) if point["texts"] >= 10]
            axes.plot([point["confidence"] for point in points],
                      [point["accuracy"] for point in points], marker="o", label=label)  # fmt: skip
        axes.set(xlabel="confidence", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1))

    return plot


KINDS_PLOT = "kinds"
_BARS = {
    "encoder alone, queries a second at 64 clients": "encoder alone, 150 x 10",
    "defaults, 150 routes of 10, queries a second": "defaults, 150 x 10",
    "defaults, 150 routes of 50, queries a second": "defaults, 150 x 50",
}
"""Beginnings of the goals' names, with what the plot calls them."""


def draw_kinds(goals: Mapping[str, Sequence[Goal]], folder: Path = FOLDER) -> Path | None:
    """Draw throughput against semantic-router by kind; None where nothing was measured."""
    import matplotlib as mpl

    values = {
        kind: [(title, goal.value) for start, title in _BARS.items() for goal in own
               if goal.name.startswith(start) and goal.value is not None]
        for kind, own in goals.items()
    }  # fmt: skip
    values = {kind: own for kind, own in values.items() if own}
    if not values:
        return None
    mpl.use("svg")
    from matplotlib import pyplot

    with mpl.rc_context(_STYLE):
        figure, axes = pyplot.subplots()
        titles = list(_BARS.values())
        for place, (kind, own) in enumerate(values.items()):
            at = [titles.index(title) + place * 0.8 / len(values) for title, _ in own]
            bars = axes.bar(at, [value for _, value in own], 0.75 / len(values), label=kind)
            axes.bar_label(bars, fmt="%.3gx", fontsize="small")
        axes.set_xticks([n + 0.4 - 0.4 / len(values) for n in range(len(titles))], titles)
        axes.set_title("Queries a second at 64 clients, times those of semantic-router")
        axes.title.set_fontsize("medium")
        axes.legend(frameon=False, fontsize="small")
        figure.tight_layout()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{KINDS_PLOT}.svg"
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return path


PLOTS: dict[str, tuple[str, str, Plot]] = {
    "latency": ("overload", "Latency against load, open loop", _latency),
    "goodput": ("overload", "Goodput under overload", _goodput),
    "utterances": ("million", "Scoring against the number of utterances", _utterances),
    "lanes": ("lanes", "Encoding: lanes and batch size", _lanes),
    "reliability-clinc150": ("accuracy", "Confidence, CLINC150", _reliability("clinc150")),
    "reliability-banking77": ("accuracy", "Confidence, Banking77", _reliability("banking77")),
}
"""By name: whose figures, the title, what draws."""
