"""Runs the benchmarks; every figure of BENCHMARKS.md and its pages is of this JSON.

    python benchmarks/report.py --data FOLDER [--standard] [--only NAME ...] [--minutes N]

Parts run in the order of their weight (``--list``).  As soon as one has ended, its result is in
``benchmarks/results/KIND.json``, KIND being that of this machine's processor, and the pages are
written anew; other parts of the kind stay as they are, with their own runs.  With ``--resume``
parts that this commit has measured at this size are left out.  With ``--render`` nothing is
measured.  ``--out FOLDER`` writes to another folder than the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accuracy_page import write as write_accuracy
from entry_page import entry_page, judged
from harness import COMMIT_VARIABLE, ROOT, Options, add_options, commit, to_options
from kinds import APART, KindResults, Places, read_apart, read_kind, read_kinds
from pages import page
from parts import BENCHES, BY_NAME, ON_REQUEST, PARTS, Part
from peers.install import install
from plots import draw, draw_kinds
from synaptoroute.encoder.processor import kind_of_cpu

HERE = Path(__file__).parent
SECONDS_MAX = 900.0
SECONDS_MAX_ON_REQUEST = 3_600.0


def run(name: str, options: Options) -> dict[str, Any] | None:
    """Run one benchmark in its own process; None if it failed or took too long."""
    words = [sys.executable, str(HERE / f"bench_{name}.py")]
    words += ["--data", str(options.data)] if options.data is not None else []
    words += [] if options.size == "full" else [f"--{options.size}"]
    words += [] if options.peers else ["--no-peers"]
    began = time.monotonic()
    print(f"{name} ...", end="", flush=True, file=sys.stderr)
    limit = SECONDS_MAX_ON_REQUEST if name in ON_REQUEST else SECONDS_MAX
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.json"
        # A group of its own: what a benchmark has started ends with it.
        process = subprocess.Popen(
            [*words, "--json", str(file)], stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            code = process.wait(limit)
            how = f", ended with exit code {code}" if code else ""
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            code, how = -1, f", stopped after {limit:.0f} s"
        print(f" {time.monotonic() - began:.0f} s{how}", file=sys.stderr)
        return json.loads(file.read_text()) if code == 0 else None


def install_peers(parts: Sequence[Part]) -> None:
    """Install what the parts compare with; a peer that cannot be had is left out."""
    for name in dict.fromkeys(name for part in parts for name in part.peers):
        try:
            install(name)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


def keep(name: str, result: dict[str, Any], kind: KindResults, places: Places) -> None:
    """Write a result to the file of its kind, or to its own."""
    if name in APART:
        places.results.mkdir(parents=True, exist_ok=True)
        places.file(name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    else:
        kind.parts[name] = result
        kind.save(places)
    if name == "accuracy" and places.root == ROOT and result["size"] == "full":
        places.file(name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        write_accuracy(result)


def write_pages(places: Places) -> None:
    """Write the page of every kind that has results, the page of all, and the plots."""
    kinds = read_kinds(places)
    goals = judged(kinds)
    for kind in kinds:
        if kind.parts:  # the page of a run whose raw figures were not kept stays as it is
            path = places.page(kind.kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page(kind.parts, goals[kind.kind], kind.kind), encoding="utf-8")
            draw(kind.parts, places.plots / kind.kind)
    draw_kinds(goals, places.plots)
    places.entry.write_text(entry_page(kinds, read_apart(places)), encoding="utf-8")


def is_measured(name: str, kind: KindResults, options: Options) -> bool:
    """Whether this commit has measured a part at this size."""
    result = kind.parts.get(name, {})
    return (result.get("size"), result.get("commit")) == (options.size, commit())


def measure(
    names: Sequence[str], options: Options, places: Places, minutes: float, *, resumes: bool
) -> list[str]:
    """Run the parts and write after each; give those that failed."""
    kind = read_kind(places, kind_of_cpu())
    wanted = [name for name in names if not (resumes and is_measured(name, kind, options))]
    if options.peers:
        install_peers([BY_NAME[name] for name in wanted])
    failed, end = [], time.monotonic() + 60 * minutes
    for name in wanted:
        if options.size == "standard" and time.monotonic() + 60 * BY_NAME[name].minutes > end:
            print(f"{name}: left out, it takes {BY_NAME[name].minutes:g} min", file=sys.stderr)
            continue
        result = run(name, options)
        if result is None:
            failed.append(name)
            continue
        keep(name, result, kind, places)
        write_pages(places)
    return failed


def show_parts(kind: KindResults) -> None:
    """Print the parts in their order, with the minutes of each."""
    total = 0.0
    for part in PARTS:
        result = kind.parts.get(part.name)
        last = "" if result is None else f"last: {result['date'][:16]}, size {result['size']}"
        total += 0 if part.is_on_request else part.minutes
        when = "by name only" if part.is_on_request else f"{total:5.1f} in all"
        print(f"{part.name:12} {part.minutes:5.1f} min {when:14} {last}".rstrip())


def read_arguments() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=(*BENCHES, *ON_REQUEST), default=list(BENCHES))
    parser.add_argument("--minutes", type=float, default=float("inf"),
                        help="with --standard: begin no part that would end later")  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="leave out what was measured")
    parser.add_argument("--out", type=Path, default=ROOT, help="folder instead of the repository")
    parser.add_argument("--list", action="store_true", help="show the parts and their minutes")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    return parser, parser.parse_args()


def main() -> int:
    """Measure and write; return 1 if a benchmark failed."""
    parser, given = read_arguments()
    options, places = to_options(given), Places(given.out.resolve())
    if given.list:
        show_parts(read_kind(places, kind_of_cpu()))
        return 0
    places.results.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    if not given.render:
        if options.data is None and options.size != "tiny":
            parser.error("the goals are of CLINC150 and Banking77: name their folder with --data")
        if options.size == "tiny" and places.root == ROOT:
            parser.error("figures of the size tiny belong to another folder: name it with --out")
        os.environ[COMMIT_VARIABLE] = commit()  # before files of the repository change
        failed = measure(given.only, options, places, given.minutes, resumes=given.resume)
    write_pages(places)
    for goal in judged([read_kind(places, kind_of_cpu())])[kind_of_cpu()]:
        if goal.value is not None:
            print(f"{goal.verdict:8} {goal.name}: {goal.shown} (goal {goal.wanted})")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
