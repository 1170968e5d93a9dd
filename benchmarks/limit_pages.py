"""The part of BENCHMARKS.md about hardware limits: encoding, workers, a million utterances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tables import number, spread, table


def page_of_embedding(figures: dict[str, Any]) -> str:
    rows = [
        (name, spread(cell)) for name, cell in figures["bulk_texts_per_second"].items()
    ]  # fmt: skip
    rows.append(("all lanes, times fastembed", spread(figures["all_lanes_times_fastembed"])))
    rows += [
        (
            f"fastembed, a text a call, {clients} clients",
            number(run["queries_per_second"]["median"]),
        )
        for clients, run in figures["fastembed_one_by_one"].items()
    ]
    text = "## Embedding alone, texts a second\n\n" + table(("", ""), rows)
    return text + _arithmetic(figures.get("arithmetic", {}))


def page_of_lanes(figures: dict[str, Any]) -> str:
    grid = figures["texts_per_second"]
    rows = [(f"{lanes} lanes", *(spread(cell) for cell in row.values()))
            for lanes, row in grid.items()]  # fmt: skip
    head = ("texts a second, texts a batch:", *next(iter(grid.values())))
    return f"## Lanes and batches, {figures['cpus']} CPUs\n\n" + table(head, rows)


def page_of_million(figures: dict[str, Any]) -> str:
    """Memory, latency and growth by size, and what float16 would do."""
    sizes = figures["sizes"]
    rows: list[Sequence[Any]] = [
        ("tensor, MiB", *(number(row["tensor_mib"]) for row in sizes.values()))
    ]
    for batch in next(iter(sizes.values()))["milliseconds_a_query"]:
        cells = [row["milliseconds_a_query"][batch] for row in sizes.values()]
        rows.append(
            (
                f"ms a query, batches of {batch}, p50 / p99",
                *(f"{number(cell['p50'])} / {number(cell['p99'])}" for cell in cells),
            )
        )
    for key, name in (("apply_ms", "a new route across new memory"),
                      ("query_after_ms", "the query after it")):  # fmt: skip
        cells = [row["growth"][key] for row in sizes.values()]
        rows.append(
            (
                f"{name}, ms p50 / max",
                *(f"{number(cell['p50'])} / {number(cell['max'])}" for cell in cells),
            )
        )
    for key, name in (("max_difference", "float16 rows: largest difference of a similarity"),
                      ("another_best_route_share", "float16 rows: queries with another best route"),
                      ("mib_saved", "float16 rows: MiB saved")):  # fmt: skip
        rows.append((name, *(number(row["float16"][key]) for row in sizes.values())))
    head = ("utterances", *(f"{int(size):,}" for size in sizes))
    return "## Up to a million utterances\n\n" + table(head, rows)


def _arithmetic(figures: dict[str, Any]) -> str:
    """The share of encoding that is matrix products, which no encoder can leave out."""
    keys = ("encode_ms", "products_ms", "products_share", "giga_operations_a_second",
            "numpy_float32_giga_operations_a_second")  # fmt: skip
    rows = [
        (f"{precision}, {texts} texts of 12 tokens", *(number(row[key]) for key in keys))
        for precision, sizes in figures.items()
        for texts, row in sizes.items()
    ]
    if not rows:
        return ""
    head = ("one thread, CPU time", "encode ms", "its matrix products ms", "share",
            "products' 10^9 operations/s", "numpy float32")  # fmt: skip
    return "\n" + table(head, rows)
