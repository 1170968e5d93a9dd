"""The part of BENCHMARKS.md about a cluster."""

from __future__ import annotations

from typing import Any

from tables import number, table


def page_of_cluster(figures: dict[str, Any]) -> str:
    """Tables of ``bench_cluster.py``."""
    shown = figures["propagation"]["visible_on_all_ms"]
    steady, bulk, joining = figures["sustained"], figures["import"], figures["joining"]
    quiet, during = bulk["query_ms_quiet"], bulk["query_ms_during"]
    memory = figures["memory"]
    rows = [
        (
            f"a place in the log to visible on all, {figures['propagation']['writes']} writes",
            f"p50 {number(shown['p50'])} ms, p99 {number(shown['p99'])} ms",
        ),
        (
            f"single-route writes, {number(steady['asked_per_second'])} a second asked for, "
            f"{number(steady['seconds'])} s",
            f"{number(steady['taken_per_second'])} a second; "
            f"p50 {number(steady['write_ms']['p50'])} ms",
        ),
        (
            "lag meanwhile, p50 of the first and of the second half",
            f"{number(steady['lag_entries_first_half']['p50'])} and "
            f"{number(steady['lag_entries_second_half']['p50'])} entries",
        ),
        (
            f"import of {bulk['utterances']:,} utterances, until visible on all",
            f"{number(bulk['seconds_until_visible_on_all'])} s",
        ),
        (
            "queries of one client, quiet",
            f"p50 {number(quiet['p50'])} ms, p99 {number(quiet['p99'])} ms",
        ),
        (
            "the same during the import",
            f"p50 {number(during['p50'])} ms, p99 {number(during['p99'])} ms, "
            f"longest {number(during['max'])} ms",
        ),
        ("a fresh node, to ready at the head", f"{number(joining['fresh_seconds'])} s"),
        ("the same node restarted", f"{number(joining['restarted_seconds'])} s"),
        (
            f"Redis memory of the log's {memory['entries']:,} entries",
            f"{number(memory['redis_bytes'] / 2**20)} MiB, {number(memory['ratio'])} of its own "
            f"count; bounded at {number(memory['log_bytes_max'] / 2**20)} MiB",
        ),
    ]
    head = ("subscribers", "server us a write", "bytes a write and subscriber",
            "writes a second that fill one core")  # fmt: skip
    fan_out = [
        (
            number(each["subscribers"]),
            number(each["server_us_per_write"]),
            number(each["bytes_per_write_and_subscriber"]),
            number(each["writes_per_second_that_fill_one_core"]),
        )
        for each in figures["fan_out"]
    ]
    return (
        "## A cluster of three nodes\n\n"
        "Three routers in processes of their own on a private Valkey with an append-only file, all "
        "on this machine's cores, which no real cluster shares. Vectors are given or hashed.\n\n"
        + table(("", ""), rows)
        + "\nWhat the bus costs the server, with simulated subscribers:\n\n"
        + table(head, fan_out)
    )
