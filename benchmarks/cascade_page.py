"""The part of BENCHMARKS.md about the cascade."""

from __future__ import annotations

from typing import Any

from tables import number, spread, table


def page_of_cascade(figures: dict[str, Any]) -> str:
    """Accuracy and throughput, with and without."""
    made = figures["table"]
    text = (
        "## The cascade\n\n"
        f"A table of {number(made['tokens'])} tokens, distilled in {number(made['seconds'])} s, "
        f"{number(made['size_mb'])} MB, loaded in {number(made['load_seconds'])} s. By the score "
        "of new databases (`adaptive`, confidence of at least .5) and by that of earlier ones "
        "(`blend`, threshold .49), mean of seeds 0 to 2: share of test texts that get the right "
        "route; *strays* are out-of-scope texts that get any; *ECE* is the calibration error of "
        "test texts alone, and together with the out-of-scope texts.\n\n"
    )
    head = (
        "utterances a route", "accuracy off", "on", "points gained", "static share",
        "agreement", "strays off", "on", "ECE off", "on", "calibrated in",
    )  # fmt: skip
    for name, result in figures["sets"].items():
        for score, by_utterances in result["by_score"].items():
            rows = [(count, *_cells(row)) for count, row in by_utterances.items()]
            title = f"{name}, {result['routes']} routes, {score}, {head[0]}"
            text += table((title, *head[1:]), rows) + "\n"
    return text + "".join(map(_throughput, figures["throughput"].values()))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['off_accuracy']:.4f}",
        f"{row['on_accuracy']:.4f}",
        spread(row["gained_points"]),
        f"{row['share']:.3f}",
        f"{row['agreement']:.4f}",
        f"{row['off_strays']:.3f}",
        f"{row['on_strays']:.3f}",
        _errors(row, "off"),
        _errors(row, "on"),
        f"{number(row['calibration_seconds'])} s",
    )


def _errors(row: dict[str, Any], name: str) -> str:
    """Calibration error inside and mixed; empty where there is no confidence."""
    if f"{name}_ece_inside" not in row:
        return ""
    return f"{row[f'{name}_ece_inside']:.4f}, {row[f'{name}_ece_mixed']:.4f}"


def _throughput(figures: dict[str, Any]) -> str:
    text = (
        f"{figures['routes']} routes of {figures['utterances_a_route']} utterances, in process, "
        "default settings, nothing cached.\n\n"
    )
    for title, key in (("1 client", "one_client"), ("64 clients", "many_clients")):
        rows = [
            (
                name,
                spread(row["queries_per_second"]),
                spread(row["p50_ms"]),
                spread(row["p99_ms"]),
                spread(row["defaults_times_faster"]),
                spread(row["defaults_p50_share"]),
            )
            for name, row in figures[key].items()
        ]
        head = (
            title,
            "queries/s",
            "p50 ms",
            "p99 ms",
            "defaults, times faster",
            "their p50, of this",
        )
        text += table(head, rows) + "\n"
    return text
