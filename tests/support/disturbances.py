"""Disturbances of a cluster of containers under load, one round each.

A round leaves the cluster as it found it, so that it can be done again and again; between
its parts the load goes on for a moment.  The tests run a round of each, the benchmark as many
as fit into its time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from containers import Stack, wait_until
from repository import ROOT

sys.path.insert(0, str(ROOT / "deploy"))
from load import Load

NODES = 3
CALM_SECONDS = 2.0


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to clusters.

    Attributes:
        name: What it is called in a report.
        once: Does it, and waits until the cluster is whole again.
        has_writes: Whether writes must go through all the while.
        share: Part of the full time that the benchmark gives it.
    """

    name: str
    once: Callable[[Stack, int], None]
    has_writes: bool = True
    share: float = 1.0


def calm(seconds: float = CALM_SECONDS) -> None:
    """Wait while the load continues."""
    time.sleep(seconds)


def kill_a_node(stack: Stack, turn: int) -> None:
    """`kill -9`, and a start on the same volume; another node each time."""
    number = sorted(stack.nodes)[turn % NODES]
    stack.nodes[number].kill("SIGKILL")
    calm()
    stack.nodes[number].start()
    stack.wait_whole_or_moving(NODES)


def replace_all_nodes(stack: Stack, _: int) -> None:
    """Every container gives way to a new one on its volume, one after the other."""
    for number in sorted(stack.nodes):
        stack.remove_node(number)
        stack.add_node(number=number)
        stack.wait_whole_or_moving(NODES)
        calm()


def grow_and_shrink(stack: Stack, _: int) -> None:
    """3 -> 5 -> 2 -> 3: newcomers fetch their state, those that go finish their work."""
    first, second, third = sorted(stack.nodes)
    four, five = stack.add_node(), stack.add_node()
    stack.wait_whole_or_moving(NODES + 2)
    calm()
    for number in (five, four, third):
        stack.remove_node(number)
    assert {first, second} == set(stack.nodes)
    calm()
    stack.add_node(number=third)
    stack.wait_whole_or_moving(NODES)


def cut_a_node_off(stack: Stack, turn: int) -> None:
    """A node loses its network, and has it again under its names."""
    number = sorted(stack.nodes)[turn % NODES]
    stack.cut_off(number)
    calm()
    stack.heal(number)
    stack.wait_whole_or_moving(NODES)


def pause_a_node(stack: Stack, turn: int) -> None:
    """A frozen node accepts connections and never answers."""
    number = sorted(stack.nodes)[turn % NODES]
    stack.nodes[number].pause()
    calm()
    stack.nodes[number].unpause()
    stack.wait_whole_or_moving(NODES)


def restart_redis(stack: Stack, _: int) -> None:
    """Redis goes and comes back with its data; writes reopen by themselves."""
    stack.others["redis"].stop(timeout=10)
    calm()
    stack.others["redis"].start()
    wait_until("writes are taken again", stack.takes_writes)


def replace_redis_empty(stack: Stack, _: int) -> None:
    """Redis dies, and another one without data takes its place; the nodes fill it again."""
    stack.empty_redis()
    wait_until("writes are taken again", stack.takes_writes)


def kill_the_coordinator(stack: Stack, _: int) -> None:
    """Queries and writes do not need the coordinator."""
    stack.others["coordinator"].kill("SIGKILL")
    calm()
    stack.others["coordinator"].start()


DISTURBANCES = (
    Disturbance("kill -9 of a node", kill_a_node),
    Disturbance("rolling replacement of all nodes", replace_all_nodes),
    Disturbance("scale 3 -> 5 -> 2 -> 3", grow_and_shrink),
    Disturbance("a node without a network", cut_a_node_off, share=0.25),
    Disturbance("a node paused", pause_a_node, share=0.25),
    Disturbance("kill -9 of the coordinator", kill_the_coordinator, share=0.25),
    Disturbance("Redis stopped and started", restart_redis, has_writes=False, share=0.25),
    Disturbance(
        "Redis replaced by an empty one", replace_redis_empty, has_writes=False, share=0.25
    ),
)


def disturb(stack: Stack, disturbance: Disturbance, seconds: float) -> tuple[Load, int]:
    """Repeat a disturbance under load for this many seconds; at least once.

    Returns:
        The load, ended, and how many rounds there were.
    """
    load = Load(stack.url, has_writes=disturbance.has_writes)
    end = time.monotonic() + seconds
    rounds = 0
    with load:
        calm()
        while rounds == 0 or time.monotonic() < end:
            disturbance.once(stack, rounds)
            rounds += 1
        calm()
    stack.wait_whole(NODES)
    return load, rounds
