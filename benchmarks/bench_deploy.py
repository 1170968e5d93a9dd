"""Measures images in real containers: sizes, starts, compose, and failures under disturbances.

    make images && python benchmarks/bench_deploy.py [--quick] [--only NAME ...]

Needs Docker and the images of ``make images``; ``--build`` builds them anew before, without the
layers of an earlier build.  Everything goes through HAProxy, at 50 requests a second, one in ten
a write with an Idempotency-Key; the full size kills, replaces and scales for two minutes each,
and gives each other disturbance half a minute.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from typing import Any

from harness import ROOT, Bench, add_options, rounded, spread, to_options

sys.path.insert(0, str(ROOT / "tests" / "support"))
from containers import IMAGES, ComposeProject, Stack
from disturbances import DISTURBANCES, NODES, disturb

PARTS = ("sizes", "starts", "compose", "disturbances")
STARTS = 5
BACK = ("node", "redis")
FAILURES_SHOWN_MAX = 10
_BUILT = re.compile(r"^synaptoroute-(\w+):\S+ +(\d+) MB +(\d+) s$", re.MULTILINE)


def build() -> dict[str, int]:
    """Build every image without a layer of an earlier build; seconds by image."""
    done = subprocess.run(
        [str(ROOT / "deploy/build-images.sh")],
        env={**os.environ, "NO_CACHE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    os.sync()  # what the build left to write would be paid for by what is measured next
    return {name: int(seconds) for name, _, seconds in _BUILT.findall(done.stdout)}


def sizes() -> dict[str, float]:
    """Size of each image on the disk, in MB of 10^6 bytes."""
    import docker

    client = docker.from_env()
    try:
        return {
            name: rounded(client.images.get(image).attrs["Size"] / 1e6)
            for name, image in IMAGES.items()
        }
    finally:
        client.close()


def compose() -> dict[str, Any]:
    """From ``docker-compose up``, ``down`` and ``up`` and kills until the cluster is there again.

    Up is a query that HAProxy routes; back is a write that a majority holds.
    """
    with ComposeProject() as project:
        up = project.up()
        names = project.written()
        back = {f"kill -9 of every {name} container": project.kill(name) for name in BACK}
        project.run("down")
        back["down and up"] = project.up() + project.wait_written()
        return {
            "nodes": NODES,
            "up_to_routed_query_seconds": rounded(up),
            "back_seconds": {name: rounded(seconds) for name, seconds in back.items()},
            "lost_writes": len(project.lost(names)),
        }


def starts(stack: Stack, count: int) -> dict[str, Any]:
    """From the call of the engine to the node's line ``ready``, with an empty database."""
    found: dict[str, list[float]] = {"alone": [], "member": []}
    for _ in range(count):
        for name, seconds in found.items():
            seconds.append(stack.start_and_stop_one(is_member=name == "member"))
    return {name: spread(seconds) for name, seconds in found.items()}


def disturbances(stack: Stack, seconds: float) -> dict[str, Any]:
    """Each disturbance, again and again, under load."""
    found = {}
    for each in DISTURBANCES:
        began = time.monotonic()
        try:
            load, rounds = disturb(stack, each, seconds * each.share)
        except BaseException:
            print(stack.logs(), file=sys.stderr)
            raise
        found[each.name] = {"rounds": rounds, **load.figures(), "first_failures": load.failures[:3]}
        took = time.monotonic() - began
        print(f"{each.name}: {len(load.failures)} failures, {took:.0f} s", file=sys.stderr)
        for failure in load.failures[:FAILURES_SHOWN_MAX]:
            print(f"  {failure}", file=sys.stderr)
    return found


def main() -> None:
    """Measure the parts that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--build", action="store_true", help="build the images anew before")
    given = parser.parse_args()
    options = to_options(given)
    bench = Bench("deploy", options)
    figures: dict[str, Any] = {}
    if given.build:
        figures["build_seconds"] = build()
    if "sizes" in given.only:
        figures["image_mb"] = sizes()
    if "compose" in given.only:
        figures["compose"] = compose()
    if {"starts", "disturbances"} & set(given.only):
        stack = Stack()
        try:
            stack.start(NODES)
            if "starts" in given.only:
                figures["start_seconds"] = starts(stack, options.pick(STARTS, 3, 1))
            if "disturbances" in given.only:
                seconds = options.pick(120.0, 20.0, 0.0)
                figures["disturbances"] = disturbances(stack, seconds)
        finally:
            stack.stop()
    bench.finish(figures)


if __name__ == "__main__":
    main()
