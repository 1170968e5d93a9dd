"""Runs schedules on all cores: ``PYTHONPATH=tests:tests/support python -m sim.run --seeds 5000``.

A seed that violates prints the one command that repeats it.  With ``--ablations`` each
mechanism is switched off in turn, and the run fails where that breaks nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from sim.ablations import ABLATIONS
from sim.schedule import Schedule
from synaptoroute.core.codec import LEVEL

CHUNK_SEEDS = 20
SHOWN_MAX = 10
PROGRESS_SEEDS = 5_000
FOCUSES = ("", "sets", "learn", "split", "head", "encoder", "trim", "recovery", "room", "import")
FIRST = ("accepted", "acknowledged", "epochs", "failovers")
"""Counts that come first: writes with a place, those that a majority was known to hold."""
LEVELS_BEFORE = {"learn": 2, "sets": 4}
Result = tuple[int, list[str], Counter[str]]


def whole(seed: int) -> Schedule:
    """The schedule of a seed for the whole design; nine of ten have a focus."""
    focus = FOCUSES[seed % len(FOCUSES)]
    # Of the schedules with writes of a level, half begin at an earlier one.
    is_upgraded = seed // len(FOCUSES) % 2 == 1
    return Schedule(
        seed, focus=focus, level=LEVELS_BEFORE.get(focus, LEVEL) if is_upgraded else LEVEL
    )


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def judge(seed: int, ablation: str = "") -> Result:
    """Run one schedule; give its violations and counts.

    A run that an ablation breaks off shows nothing: only what the checks find counts.
    """
    given = ABLATIONS.get(ablation)
    schedule = Schedule(seed, given.kinds, given.focus, given.level) if given else whole(seed)
    try:
        world = schedule.run()
        return seed, world.violations(), world.counts
    except Exception:
        if not ablation:
            raise
        return seed, [], schedule.world.counts


def tell(seed: int) -> list[str]:
    """The commands of a schedule: a scenario that ``replay`` repeats."""
    schedule = whole(seed)
    world = schedule.run()
    head = [
        f"# seed {seed}: {', '.join(world.violations()) or 'no violation'}",
        f"world {schedule.voters} {schedule.observers} {schedule.level}",
    ]
    return [*head, *world.told]


def results(seeds: Iterable[int], work: Callable[[int], Result], jobs: int) -> Iterator[Result]:
    """Run schedules in parallel, in order."""
    if jobs == 1:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(work, seeds, chunksize=CHUNK_SEEDS)


def run_seeds(first: int, count: int, jobs: int) -> bool:
    """Run schedules; whether none of them violated anything."""
    began, bad, total = time.monotonic(), 0, Counter[str]()
    for seed, found, counts in results(range(first, first + count), judge, jobs):
        total.update(counts)
        if seed > first and (seed - first) % PROGRESS_SEEDS == 0:
            say(f"... {seed - first:,} seeds, {bad} with a violation")
        if found:
            bad += 1
            if bad <= SHOWN_MAX:
                say(f"seed {seed}: {'; '.join(found[:3])}")
                say(f"  repeat: make sim SEEDS=1 FROM={seed}")
    seconds = time.monotonic() - began
    names = [*FIRST, *sorted(set(total) - set(FIRST))]
    shown = ", ".join(f"{total[name]:,} {name}" for name in names)
    say(f"{count:,} seeds from {first:,}: {bad} with a violation; {shown}")
    say(f"{seconds:.0f} s, {count / seconds:.1f} seeds/s on {jobs} cores")
    return not bad


def run_ablation(name: str, jobs: int) -> bool:
    """Switch one mechanism off; whether that was noticed."""
    ablation = ABLATIONS[name]
    began, bad, first = time.monotonic(), 0, ""
    seeds = range(ablation.seeds)
    for seed, found, _ in results(seeds, partial(judge, ablation=name), jobs):
        if found:
            bad += 1
            first = first or f"first: seed {seed}, {found[0]}"
    seconds = time.monotonic() - began
    say(f"without {ablation.what}: {bad} of {len(seeds)} seeds violate, {seconds:.0f} s; {first}")
    return bad > 0


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many schedules")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--ablations", action="store_true", help="run the negative controls")
    parser.add_argument("--tell", action="store_true", help="print the first seed's commands")
    given = parser.parse_args()
    if given.tell:
        say("\n".join(tell(given.first)))
        return 0
    is_good = run_seeds(given.first, given.seeds, min(given.jobs, given.seeds))
    if given.ablations:
        noticed = [run_ablation(name, given.jobs) for name in ABLATIONS]
        is_good = is_good and all(noticed)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
