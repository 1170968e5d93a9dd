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
        f"{number(made['size_mb'])} MB, loaded in {number(made['load_seconds'])} s. Accuracy with "
        "thresholds applied, mean of seeds 0 to 2: share of test texts that get the right route; "
        "*strays* are out-of-scope texts that get any.\n\n"
    )
    head = (
        "utterances a route", "accuracy off", "on", "points gained", "static share",
        "agreement", "strays off", "on", "calibrated in",
    )  # fmt: skip
    for name, result in figures["sets"].items():
        rows = [
            (
                count,
                f"{row['off_accuracy']:.4f}",
                f"{row['on_accuracy']:.4f}",
                spread(row["gained_points"]),
                f"{row['share']:.3f}",
                f"{row['agreement']:.4f}",
                number(row.get("off_strays")),
                number(row.get("on_strays")),
                f"{number(row['calibration_seconds'])} s",
            )
            for count, row in result["by_utterances"].items()
        ]
        text += table((f"{name}, {result['routes']} routes, {head[0]}", *head[1:]), rows) + "\n"
    return text + _throughput(figures["throughput"])


def _throughput(figures: dict[str, Any]) -> str:
    text = (
        f"{figures['routes']} routes of {figures['utterances_a_route']} utterances, in process, "
        "nothing cached.\n\n"
    )
    for title, key in (("1 client", "one_client"), ("64 clients", "many_clients")):
        rows = [
            (
                name,
                spread(row["queries_per_second"]),
                spread(row["p50_ms"]),
                spread(row["p99_ms"]),
                spread(row["cascade_times_faster"]),
            )
            for name, row in figures[key].items()
        ]
        head = (title, "queries/s", "p50 ms", "p99 ms", "cascade, times faster")
        text += table(head, rows) + "\n"
    return text
