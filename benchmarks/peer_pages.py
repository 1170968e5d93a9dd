"""The parts of a page about other routers, the preset ``fast`` and packed graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tables import number, spread, table


def page_of_peers(figures: dict[str, Any]) -> str:
    """Accuracy beside speed of every router that can be had."""
    text = (
        "## Other routers: accuracy beside speed\n\n"
        f"{figures['utterances_a_route']} utterances a route, the same texts and, where a router "
        "takes one, the same model file. Each has its own defaults and thresholds; a text without "
        "a route counts as wrong. MicroResolve and wordllama have no threshold here: every text "
        "gets its best route; the part about `fast` compares best routes. fastembed encodes and "
        "does not route.\n\n"
    )
    for name, found in figures["sets"].items():
        speeds = found.get("speed", {})
        names = dict.fromkeys([*found["accuracy"], *speeds.get("clients_1", {})])
        head = [f"{name}, {found['routes']} routes", "right", "out of scope, answered"]
        head += ["p50 ms, 1 client", "queries/s, 1 client", "queries/s, 64 clients"] * bool(speeds)
        rows = [
            (each, *_accuracy(found["accuracy"].get(each)), *_speeds(speeds, each))
            for each in names
        ]
        text += table(head, rows) + "\n"
    if core := figures.get("stratarouter_core_alone"):
        text += (
            "stratarouter publishes 18,000 requests a second and 8.7 ms at p99 for its index in "
            f"Rust alone, which is given a query's vector and holds one vector a route. That index "
            f"alone, without an encoder, {core['routes']} routes: "
            f"{spread(core['search_ms'])} ms a search.\n\n"
        )
    return text + "".join(f"{name}: {why}.\n\n" for name, why in figures["left_out"].items())


def _accuracy(row: Mapping[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "", ""
    stray = row.get("out_of_scope_answered")
    return f"{row['right']:.3f}", "" if stray is None else f"{stray:.3f}"


def _speeds(speeds: Mapping[str, Any], name: str) -> tuple[str, ...]:
    if not speeds:
        return ()
    one, many = speeds["clients_1"][name], speeds["clients_64"][name]
    rates = (one["queries_per_second"], many["queries_per_second"])
    return (spread(one["p50_ms"]), *map(spread, rates))


def page_of_fast(figures: dict[str, Any]) -> str:
    """The preset ``fast`` beside libraries without a transformer and the default encoder."""
    text = (
        "## The preset `fast`\n\n"
        "Ten utterances a route; every text gets its best route, one call after the other, each "
        "side in a fresh process. `ours` is the preset, `default` the bundled encoder.\n\n"
    )
    for name, found in figures.items():
        sides = {key: row for key, row in found.items() if isinstance(row, dict) and "mib" in row}
        rows = [
            (
                side,
                f"{row['accuracy']:.3f}",
                number(row["microseconds"]["p50"]),
                number(row["microseconds"]["p99"]),
                number(row["start"]["seconds"]),
                number(row["start"]["mib"]),
                number(row["mib"]),
            )
            for side, row in sides.items()
        ]
        head = (f"{name}, {found['texts']} texts", "accuracy", "us a call, p50", "p99",
                "import and opening, s", "MiB then", "MiB after all texts")  # fmt: skip
        text += table(head, rows) + "\n"
    return text


def page_of_packed(figures: dict[str, Any]) -> str:
    """Packed graphs of other models against their own files."""
    text = (
        "## Packed graphs of other models\n\n"
        "Texts a second of one thread, in CPU time: the model's own padded file, and how many "
        "times as many packed.\n\n"
    )
    if "skipped" in figures:
        return text + f"Not measured: {figures['skipped']}\n\n"
    for name, found in figures["models"].items():
        rows = [
            (
                batch,
                number(row["padded_texts_per_second"]),
                *(spread(row[each]) if each in row else "not packed"
                  for each in ("float32", "int8")),
            )
            for batch, row in found["batches"].items()
        ]  # fmt: skip
        head = (f"{name}, texts a batch", "padded, texts/s", "float32 packed", "int8 packed")
        text += table(head, rows) + "\n"
        for title, row in found.get("accuracy", {}).items():
            shares = ", ".join(f"{key} {share:.3f}" for key, share in row.items())
            text += f"Accuracy of `blend`, {title}, ten utterances: {shares}.\n\n"
        text += "".join(f"{key} is not packed: {why}\n\n" for key, why in found["reasons"].items())
    return text
