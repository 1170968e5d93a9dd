"""The parts of a page about default settings and the cascade."""

from __future__ import annotations

from typing import Any

from tables import number, spread, table


def page_of_defaults(figures: dict[str, Any]) -> str:
    """Throughput with nothing switched on or off, by the shape of the route set."""
    text = (
        "## Default settings, in process, no cache\n\n"
        "Nothing is switched on: the cascade is automatic and has measured the route set. "
        "`synaptoroute-cluster` without a word behind it is the encoder alone.\n\n"
    )
    return text + "".join(map(_throughput, figures["sets"].values()))


def _throughput(figures: dict[str, Any]) -> str:
    text = (
        f"{figures['routes']} routes of {figures['utterances_a_route']} utterances, "
        f"{figures['rounds']} rounds of {figures['seconds_a_round']} s each.\n\n"
    )
    head = ("queries/s", "p50 ms", "p99 ms", "defaults, times faster", "their share of p50",
            "encoder alone, times faster")  # fmt: skip
    keys = ("queries_per_second", "p50_ms", "p99_ms", "defaults_times_faster",
            "defaults_p50_share", "alone_times_faster")  # fmt: skip
    for title, key in (("1 client", "one_client"), ("64 clients", "many_clients")):
        rows = [(name, *(spread(row[each]) for each in keys)) for name, row in figures[key].items()]
        text += table((title, *head), rows) + "\n"
    return text


def page_of_cascade(figures: dict[str, Any]) -> str:
    """Accuracy and confidence with the cascade and without, by set and score."""
    made = figures["table"]
    whence = "that ships" if made["is_shipped"] else "that was distilled for this run"
    text = (
        "## Accuracy with the cascade\n\n"
        f"The table {whence}, {number(made['tokens'])} tokens. By the score of new databases "
        "(`adaptive`, confidence of at least .5) and, where it was measured, by that of earlier "
        "ones (`blend`, threshold .49): share of test texts that get the right route, mean of the "
        "seeds. *At least* is the lower end of a 95 % interval of the points gained: texts are "
        "drawn again ten thousand times, each with its mean difference over the seeds. *Out of "
        "scope* are such texts that get any route; *ECE* is the calibration error of test texts "
        "alone, and together with the out-of-scope texts. A set without out-of-scope texts of its "
        "own takes CLINC150's.\n\n"
    )
    head = (
        "utterances a route", "seeds", "accuracy off", "on", "points gained", "at least",
        "static share", "agreement", "out of scope off", "on", "ECE off", "on", "calibrated in",
    )  # fmt: skip
    for name, result in figures["sets"].items():
        for score, by_utterances in result["by_score"].items():
            rows = [(count, *_cells(row)) for count, row in by_utterances.items()]
            title = f"{name}, {result['routes']} routes, {score}, {head[0]}"
            text += table((title, *head[1:]), rows) + "\n"
    return text


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(row["seeds"]),
        f"{row['off_accuracy']:.4f}",
        f"{row['on_accuracy']:.4f}",
        f"{row['mean_gained_points']:+.2f}",
        f"{row['lower_bound_points']:+.2f}",
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
