"""Renders BENCHMARKS.md: the goals of every kind of processor, and the way to its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goals import Goal, Results, judge, judge_apart
from kinds import KindResults
from pages import described, goals_table, parts_apart, reasons
from tables import table

HEAD = """# Benchmarks

Written by `make bench`; no figure is typed by hand. What a text costs hangs on the instructions
that a processor has for products of bytes, so each kind of processor has goals, figures and a
page of its own. A figure is shown only under the kind that it was measured on. `synaptoroute
doctor` tells the kind of a machine: `amx`, `avx512-vnni`, `avx-vnni`, `avx2`, `neon-dotprod` or
`neon`. Ratios are of one run, contender beside contender, with the same texts and model file.

    make bench DATA=FOLDER                        # every part, full size: two hours
    make bench DATA=FOLDER SIZE=standard          # every part, half an hour
    make bench DATA=FOLDER SIZE=standard WITHIN=25   # the parts by weight, in 25 minutes
    make bench DATA=FOLDER SIZE=standard ONLY=defaults,http
    make bench LIST=1                             # the parts, and the minutes of each
"""


def judged(kinds: Sequence[KindResults]) -> dict[str, list[Goal]]:
    """The goals of each kind."""
    return {each.kind: judge(each.parts, each.kind, each.earlier_values) for each in kinds}


def entry_page(kinds: Sequence[KindResults], apart: Results) -> str:
    """The whole page."""
    parts = [HEAD, _kinds(kinds), _goals(judged(kinds)), _missed(judged(kinds))]
    if any(goal.value is not None for goals in judged(kinds).values() for goal in goals):
        parts.append("![Queries a second, times those of semantic-router](docs/plots/kinds.svg)\n")
    if apart:
        parts.append("## Containers and faults\n\nThese figures are of no kind of processor.\n")
        if any(name == "deploy" for name in apart):
            parts.append(goals_table(judge_apart(apart)).replace("## Goals", "### Goals"))
        parts += parts_apart(apart)
    return "\n".join(parts)


def _kinds(kinds: Sequence[KindResults]) -> str:
    rows = [(each.kind, *_run(each), _link(each)) for each in kinds]
    head = ("kind", "machine", "measured", "commit", "size", "load average", "all its parts")
    return "## Kinds of processors\n\n" + table(head, rows)


def _link(kind: KindResults) -> str:
    if not kind.parts and not kind.earlier:
        return ""
    return f"[{kind.kind}](docs/benchmarks/{kind.kind}.md)"


def _run(kind: KindResults) -> tuple[str, str, str, str, str]:
    """Machine, dates, commits, sizes and loads."""
    if kind.parts:
        found = list(kind.parts.values())
        loads = [load for each in found for load in each["load_average"].values()]
        return (
            "; ".join(sorted({described(each) for each in found})),
            _between(*sorted(each["date"][:10] for each in found)),
            ", ".join(sorted({each["commit"] for each in found})),
            ", ".join(sorted({each["size"] for each in found})),
            f"{min(loads):g} to {max(loads):g}",
        )
    if kind.earlier:
        keys = ("machine", "date", "commit", "size", "load_average")
        machine, date, commit, size, load = (str(kind.earlier[key]) for key in keys)
        return machine, date, commit, size, load
    return "not measured", "", "", "", ""


def _between(first: str, *others: str) -> str:
    last = others[-1] if others else first
    return first if first == last else f"{first} to {last}"


def _goals(goals: dict[str, list[Goal]]) -> str:
    """A row for each figure; the goal and the figure of each kind beside one another."""
    head = ["figure"]
    for kind in goals:
        head += [f"{kind}: goal", "measured"]
    by_name: dict[str, dict[str, Goal]] = {}
    for kind, own in goals.items():
        for goal in own:
            by_name.setdefault(goal.name, {})[kind] = goal
    rows = []
    for name, found in by_name.items():
        row: list[Any] = [name]
        for kind in goals:
            goal = found.get(kind)
            row += ["", ""] if goal is None else [goal.wanted, _measured(goal)]
        rows.append(row)
    return "## Goals\n\n" + table(head, rows)


def _measured(goal: Goal) -> str:
    return f"{goal.shown}, {goal.mark}" if goal.mark else goal.shown


def _missed(goals: dict[str, list[Goal]]) -> str:
    lines = [
        f"- {kind}, {goal.name}: {goal.shown} of {goal.wanted}"
        + "".join(f"; {reason}" for reason in reasons(goal))
        + "\n"
        for kind, own in goals.items()
        for goal in own
        if goal.is_met is False
    ]
    return "What was missed, and what it is known to hang on:\n\n" + "".join(lines) if lines else ""
