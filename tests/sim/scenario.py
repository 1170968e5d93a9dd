"""Scenarios: the commands of a world as a text that people read and tests repeat.

A line is a command of ``world``; ``#`` begins a remark.  The first command is
``world <voters> <observers> [level]``; a log of level 1 has no seals.
"""

from __future__ import annotations

from sim.world import Kinds, World
from synaptoroute.core.codec import LEVEL


def replay(text: str, kinds: Kinds | None = None) -> World:
    """Carry out a scenario; give the world as it stands at the end of it.

    Raises:
        ValueError: It does not begin with ``world``.
    """
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    commands = [line for line in lines if line]
    word, *sizes = commands[0].split() if commands else ("",)
    if word != "world":
        raise ValueError("a scenario begins with: world <voters> <observers>")
    level = int(sizes[2]) if len(sizes) > 2 else LEVEL
    world = World(int(sizes[0]), int(sizes[1]), kinds, level)
    for command in commands[1:]:
        world.do(command)
    return world
