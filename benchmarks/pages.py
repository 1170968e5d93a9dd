"""Renders the page of a kind of processor from the JSON of its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cascade_page import page_of_cascade, page_of_defaults
from cluster_page import page_of_cluster
from decision_page import page_of_decision
from goals import REASONS, Goal, Results
from limit_pages import page_of_embedding, page_of_lanes, page_of_million
from peer_pages import page_of_fast, page_of_packed, page_of_peers
from plots import PLOTS
from tables import number, spread, table

HEAD = """# Benchmarks: {kind}

Written by `make bench`; no figure is typed by hand. [BENCHMARKS.md](../../BENCHMARKS.md) has the
goals of all kinds of processors. Parts may be of different runs: below each part are its command,
commit, machine, load and date.
Contenders run in turn, round by round, with the same texts and the same model file; a ratio is
that of medians, in brackets its least and greatest value in one round. A high load average
means that others used the machine meanwhile: then trust the ratios, not the absolute figures.
"""
Makers = dict[str, Callable[[dict[str, Any]], str]]


def page(results: Results, goals: Sequence[Goal], kind: str = "unknown") -> str:
    """The whole page of one kind."""
    head = HEAD.format(kind=kind)
    if not results:
        return head
    return "\n".join([head, _run(results), goals_table(goals), *parts(results, _makers(), kind)])


def _makers() -> Makers:
    return {
        "defaults": page_of_defaults,
        "throughput": _throughput,
        "http": _http,
        "cascade": page_of_cascade,
        "peers": page_of_peers,
        "fast": page_of_fast,
        "packed": page_of_packed,
        "overload": _overload,
        "hot_add": _hot_add,
        "mutations": _mutations,
        "boot": _boot,
        "scoring": _scoring,
        "accuracy": _accuracy,
        "inputs": _inputs,
        "decision": page_of_decision,
        "invariance": _invariance,
        "embedding": page_of_embedding,
        "lanes": page_of_lanes,
        "million": page_of_million,
        "cluster": page_of_cluster,
    }


def parts_apart(results: Results) -> list[str]:
    """The parts about containers and faults, which are of no kind of processor."""
    return parts(results, {"deploy": _deploy, "outage": _outage, "chaos": _chaos}, "")


def parts(results: Results, makers: Makers, kind: str) -> list[str]:
    """Each part with its plots, its command and its run."""
    found = []
    for name, make in makers.items():
        if name in results:
            result = results[name]
            found.append(make(result["figures"]))
            found += [f"![{title}](../plots/{kind}/{plot}.svg)\n" for plot, (bench, title, _) in
                      PLOTS.items() if bench == name]  # fmt: skip
            found.append(f"`{result['command']}`\n{_one_run(result)}\n")
    return found


def _one_run(result: dict[str, Any]) -> str:
    """When, where and how one benchmark ran: parts of the page may be of different runs."""
    load = result["load_average"]
    note = f"; {result['note']}" if "note" in result else ""
    return (
        f"({result['date'][:10]}, commit {result['commit']}, {result['machine']['cpu']}, size "
        f"{result['size']}, load average {load['start']:g} to {load['end']:g}{note})"
    )


def _run(results: Results) -> str:
    """Machine, commits, dates, load."""
    first = next(iter(results.values()))
    machine = first["machine"]
    loads = [result["load_average"] for result in results.values()]
    rows = [
        ("machine", ", ".join(sorted({described(r) for r in results.values()}))),
        ("system", machine["system"]),
        ("versions", ", ".join(f"{name} {machine[name]}" for name in VERSIONS)),
        ("commit", ", ".join(sorted({result["commit"] for result in results.values()}))),
        ("date", f"{min(r['date'] for r in results.values())} to "
                 f"{max(r['ended'] for r in results.values())}"),
        ("size", ", ".join(sorted({result["size"] for result in results.values()}))),
        ("load average", f"{min(min(load.values()) for load in loads)} to "
                         f"{max(max(load.values()) for load in loads)}"),
    ]  # fmt: skip
    return "## The run\n\n" + table(("", ""), rows)


def described(result: dict[str, Any]) -> str:
    """Processor, cores and memory of a result."""
    machine = result["machine"]
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"


VERSIONS = ("python", "numpy", "onnxruntime", "tokenizers", "fastembed")


def goals_table(goals: Sequence[Goal]) -> str:
    """The goals with what was measured, and why some were missed."""
    rows = [(goal.name, goal.wanted, goal.shown, goal.mark) for goal in goals]
    text = "## Goals\n\n" + table(("figure", "goal", "measured", ""), rows)
    why = [f"- {goal.name}: {reason}\n" for goal in goals for reason in reasons(goal)]
    head = "\nWhat was missed, and what it is known to hang on:\n\n" if why else ""
    return text + head + "".join(why)


def reasons(goal: Goal) -> list[str]:
    """Return the known reason of a missed goal; empty for others."""
    if goal.is_met is not False:
        return []
    return [reason for start, reason in REASONS.items() if goal.name.startswith(start)]


def _throughput(figures: dict[str, Any]) -> str:
    text = (
        "## Distinct queries, in process, no cache\n\n"
        f"{figures['routes']} routes of {figures['utterances_a_route']} utterances, "
        f"{figures['texts']} different texts, {figures['rounds']} rounds of "
        f"{figures['seconds_a_round']} s each.\n\n"
    )
    for title, key in (("1 client", "one_client"), ("64 clients", "many_clients")):
        rows = [
            (
                name,
                spread(row["queries_per_second"]),
                spread(row["p50_ms"]),
                spread(row["p99_ms"]),
                spread(row["ours_times_faster"]),
                spread(row["ours_p50_share"]),
            )
            for name, row in figures[key].items()
        ]
        head = (title, "queries/s", "p50 ms", "p99 ms", "ours, times faster", "ours, share of p50")
        text += table(head, rows) + "\n"
    rows = [
        (name, number(row["rate"]), spread(row["p50_ms"]), spread(row["p99_ms"]), row["unanswered"])
        for key in ("open_loop", "open_loop_own_load")
        for name, row in figures[key].items()
    ]
    head = ("open loop", "arrivals/s", "p50 ms", "p99 ms", "unanswered")
    return text + table(head, rows)


def _http(figures: dict[str, Any]) -> str:
    states = ", ".join(f"`{name}` {state}" for name, state in figures["cascade"].items())
    text = (
        "## Over HTTP, one node process\n\n`http` has default settings, `in_process` is the "
        f"encoder alone. State of the cascade: {states}.\n\n"
    )
    for title, key in (("1 client", "one_client"), ("64 clients", "many_clients")):
        rows = [
            (
                name,
                spread(row["queries_per_second"]),
                spread(row["p50_ms"]),
                spread(row["p99_ms"]),
                spread(row["http_share_of_throughput"]),
                spread(row["http_share_of_p50"]),
                spread(row["http_alone_share_of_throughput"]),
                spread(row["http_alone_share_of_p50"]),
            )
            for name, row in figures[key].items()
        ]
        head = (title, "queries/s", "p50 ms", "p99 ms", "http, share of q/s", "share of p50",
                "http, encoder alone, share of q/s", "share of p50")  # fmt: skip
        text += table(head, rows) + "\n"
    cached = figures["cached"]
    rows = [[spread(cached[key]) for key in ("queries_per_second", "p50_ms", "p99_ms")]]
    return text + table(("cached texts, 64 clients: queries/s", "p50 ms", "p99 ms"), rows)


def _overload(figures: dict[str, Any]) -> str:
    text = (
        "## Overload\n\n"
        "The encoder answers every query, without the cascade. "
        f"Goodput counts answers within {figures['deadline_ms']} ms of the intended time of "
        f"sending; the queue holds {figures['queue_requests_max']:,} requests, so the predicted "
        "wait decides who is refused. The client shares the cores with the router: the "
        "column *client* is the CPU time that it takes by itself, for each query; *the client's "
        "cost subtracted* is the goodput by what the client leaves of the cores.\n\n"
    )
    text += _loads("in process", figures["loads"])
    if "over_http" in figures:
        text += "\n" + _loads("over HTTP, client and node in a process each", figures["over_http"])
    return text


def _loads(title: str, loads: dict[str, Any]) -> str:
    rows = [
        (
            f"{load}x",
            number(row["capacity_per_second"]),
            number(row["offered_per_second"]),
            number(row["goodput_per_second"]),
            number(row["goodput_of_capacity"]),
            number(row["refused_share"]),
            number(row["late_share"]),
            number(row["good_ms"]["p99"]),
            number(row.get("client_us_a_query")),
            number(row.get("goodput_without_client")),
        )
        for load, row in loads.items()
    ]
    head = (title, "capacity/s", "offered/s", "goodput/s", "of capacity", "refused", "late",
            "p99 ms of the good", "client, us a query",
            "of capacity, the client's cost subtracted")  # fmt: skip
    return table(head, rows)


def _hot_add(figures: dict[str, Any]) -> str:
    sizes = list(figures["milliseconds"])
    names = figures["milliseconds"][sizes[0]]
    rows = [
        (
            name,
            *(
                f"{number(figures['milliseconds'][size][name]['p50'])} / "
                f"{number(figures['milliseconds'][size][name]['p99'])}"
                for size in sizes
            ),
            number(figures["growth"][name]),
        )
        for name in names
    ]
    head = ("p50 / p99 ms", *(f"{int(size):,} utterances" for size in sizes), "growth")
    applying = [
        (
            f"{name}, apply to visible",
            *(
                f"{number(figures['apply_to_visible_ms'][size][name]['p50'])} / "
                f"{number(figures['apply_to_visible_ms'][size][name]['p99'])}"
                for size in sizes
            ),
            number(growth),
        )
        for name, growth in figures["apply_growth"].items()
    ]
    return (
        "## A new route of ten utterances, vectors given, from the call to visible\n\n"
        "This project's rows say where it keeps its database; its answer means committed and "
        "visible; *apply to visible* leaves out the call, its checks and the way back. "
        "The peers' rows are their index alone: nothing is written to a disk.\n\n"
        + table(head, rows + applying)
    )


def _mutations(figures: dict[str, Any]) -> str:
    rows = [
        ("quiet", number(figures["quiet_ms"]["p50"]), number(figures["quiet_ms"]["p99"]), ""),
        (
            f"{number(figures['mutations_per_second'])} mutations/s",
            number(figures["busy_ms"]["p50"]),
            number(figures["busy_ms"]["p99"]),
            spread(figures["busy_p50_share"]),
        ),
    ]
    return "## Queries while routes change\n\n" + table(
        ("one client", "p50 ms", "p99 ms", "p50, of quiet"), rows
    )


def _boot(figures: dict[str, Any]) -> str:
    rows = [
        ("database open, verified, tensor loaded", f"{spread(figures['boot_seconds'])} s"),
        ("the same without a checkpoint", f"{spread(figures['boot_from_rows_seconds'])} s"),
        ("encoder loaded and probed", f"{spread(figures['encoder_seconds'])} s"),
        ("imports", f"{spread(figures['imports_seconds'])} s"),
        ("resident memory", f"{spread(figures['resident_mib'])} MiB"),
        (
            f"resident memory of a router, the cascade {figures.get('cascade', 'not measured')}",
            f"{number(figures.get('resident_mib_cascade'))} MiB",
        ),
        ("resident memory, empty database", f"{number(figures['resident_mib_empty'])} MiB"),
        ("database file", f"{number(figures['database_mib'])} MiB"),
    ]
    return f"## Boot with {figures['vectors']:,} vectors\n\n" + table(("", ""), rows)


def _scoring(figures: dict[str, Any]) -> str:
    rows: list[Sequence[Any]] = [
        (f"this project, batches of {batch}", number(row["p50"]), number(row["p99"]))
        for batch, row in figures["milliseconds_a_query"].items()
    ]
    peers = figures.get("peers_milliseconds_a_query", {})
    rows += [
        (f"{name}, alone", number(row["p50"]), number(row["p99"])) for name, row in peers.items()
    ]
    head = (f"{figures['utterances']:,} utterances", "p50 ms a query", "p99 ms a query")
    return "## Scoring\n\n" + table(head, rows)


def _inputs(figures: dict[str, Any]) -> str:
    names = ("clean", "clean_repaired", "typos", "typos_repaired", "typos_of_clean")
    rows = [
        (name, *(f"{each['typos'][key]:.3f}" for key in names)) for name, each in figures.items()
    ]
    text = (
        "## Typos\n\nAccuracy of `blend`, ten utterances a route, with one random edit in each "
        "word of five letters and more; before and after the repair of words.\n\n"
    )
    return text + table(("", "clean", "repaired", "typos", "repaired", "of clean"), rows)


def _accuracy(figures: dict[str, Any]) -> str:
    text = (
        "## Accuracy\n\nShare of test texts whose best route is the right one, mean of seeds 0 to "
        "2; in brackets the spread.\n\n"
    )
    for name, result in figures.items():
        counts = list(next(iter(result["accuracy"].values())))
        rows = [
            (
                aggregation,
                *(
                    f"{row[k]['mean']:.3f} ({row[k]['spread']:.3f})" if k in row else ""
                    for k in counts
                ),
            )
            for aggregation, row in result["accuracy"].items()
        ]
        head = (f"{name}, {result['routes']} routes, utterances a route", *counts)
        text += table(head, rows) + "\n"
    text += (
        "Decisions at a confidence of .5: share of the right ones that are answered, out-of-scope "
        "texts refused, their balance, AUROC of p(none), calibration error in scope and mixed.\n\n"
    )
    measures = ("answered", "refused", "balanced", "auroc", "ece_inside", "ece_mixed")
    for name, result in figures.items():
        rows = [
            (
                f"{kind}, {k}",
                *(f"{row[each]['mean']:.3f}" if each in row else "" for each in measures),
            )
            for kind in ("adaptive", "blend")
            for k, row in result["decisions"].get(kind, {}).items()
        ]
        text += table((name, *measures), rows) + "\n"
    return text


def _invariance(figures: dict[str, Any]) -> str:
    found, padding = figures["invariance"], figures["padding"]
    rows = [
        ("texts, batches", f"{found['texts']}, {found['batches']}"),
        ("largest difference between alone and in company", f"{found['max_difference']:.3g}"),
        ("padding tokens, equal lengths", padding["equal_length_padding_tokens"]),
        ("padding share, mixed batches of 64", number(padding["mixed_padding_share"])),
        ("the same, worst batch", number(padding["mixed_padding_share_worst_batch"])),
    ]
    return "## Batch invariance and padding\n\n" + table(("", ""), rows)


def _outage(figures: dict[str, Any]) -> str:
    rows = [
        (
            f"{kind}: {loss}",
            number(found["p50_seconds"]),
            number(found["p95_seconds"]),
            f"<= {found['goal_p95_seconds']:g}",
            number(found["queries"]),
            number(found["failed_queries"]),
        )
        for kind, losses in figures["servers"].items()
        for loss, found in losses.items()
    ]
    head = ("writes closed, seconds", "p50", "p95", "goal p95", "queries", "failed")
    return (
        "## Loss of Redis\n\n"
        f"{figures['nodes']} node processes, {figures['rounds']} rounds of each loss. An outage "
        "lasts from the last write that a majority held to the next one; the time in which Redis "
        "itself is away is part of it. Queries go to every node all the while.\n\n"
        + table(head, rows)
    )


def _chaos(figures: dict[str, Any]) -> str:
    sizes = [(name, number(value)) for name, value in figures["sizes"].items()]
    faults = ", ".join(f"{name} {count}" for name, count in figures["faults"].items())
    rows = [
        ("minutes, server", f"{figures['minutes']:g}, {figures['kind']}"),
        ("faults", faults),
        *sizes,
        ("violations", len(figures["violations"])),
    ]
    return "## Mixed faults, real processes\n\n" + table(("", ""), rows)


def _deploy(figures: dict[str, Any]) -> str:
    text = "## Containers, through HAProxy\n\n"
    rows = [(f"image {name}", f"{number(mb)} MB") for name, mb in figures["image_mb"].items()]
    rows += [
        (f"build of image {name}, without a layer of an earlier one", f"{seconds} s")
        for name, seconds in figures.get("build_seconds", {}).items()
    ]
    compose = figures["compose"]
    rows.append(
        (
            f"compose up, {compose['nodes']} nodes, to a routed query",
            f"{number(compose['up_to_routed_query_seconds'])} s",
        )
    )
    rows += [
        (f"compose, {name}, to a write that a majority holds", f"{number(seconds)} s")
        for name, seconds in compose.get("back_seconds", {}).items()
    ]
    if "lost_writes" in compose:
        rows.append(("acknowledged writes lost by these", str(compose["lost_writes"])))
    rows += [
        (f"container start to ready, empty database, {name}", f"{spread(seconds)} s")
        for name, seconds in figures["start_seconds"].items()
    ]
    text += table(("", ""), rows) + "\n"
    head = ("disturbed again and again by", "rounds", "s", "requests/s", "requests", "writes",
            "failures", "p50 ms", "p99 ms", "longest ms")  # fmt: skip
    keys = ("rounds", "seconds", "requests_per_second", "requests", "writes", "failures")
    times = ("p50_ms", "p99_ms", "max_ms")
    lines = [
        (name, *(row[key] for key in keys), *(number(row[key]) for key in times))
        for name, row in figures["disturbances"].items()
    ]
    return text + table(head, lines)
