"""The part of BENCHMARKS.md about the fit of the confidence."""

from __future__ import annotations

from typing import Any

from tables import number, spread, table


def page_of_decision(figures: dict[str, Any]) -> str:
    """Time, memory, and what writes and queries pay."""
    text = "## The fit of the confidence\n\n"
    rows: list[tuple[object, ...]] = [
        (name, spread(row["seconds"]), spread(row["cpu_seconds"]))
        for name, row in figures["fit"].items()
    ]
    text += table(("route set", "fit, s", "CPU, s"), rows) + "\n"
    memory = figures["memory"]
    text += (
        f"A tensor of {memory['rows']:,} rows in {memory['routes']:,} routes has "
        f"{number(memory['without_mib'])} MiB resident without numbers and "
        f"{number(memory['with_mib'])} MiB with them.\n\n"
    )
    rows = []
    for title, key, busy, quiet in (
        ("a write, with fits against without", "write", "on", "off"),
        ("a query, during fits against without", "queries", "fitting", "quiet"),
    ):
        row = figures[key]
        rows += [
            (
                f"{title}, {share}",
                number(row[f"{busy}_ms"][share]),
                number(row[f"{quiet}_ms"][share]),
                spread(row[f"{share}_share"]),
            )
            for share in ("p50", "p99")
        ]
    return text + table(("", "ms", "without, ms", "ratio"), rows) + "\n"
