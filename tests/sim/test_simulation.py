"""Goal: no schedule of faults breaks what the protocol promises.  Method: seeds, ablations.

``make sim SEEDS=n`` runs any number of seeds, and .ci/run runs 2,000 of them.  Here are a few,
and the controls that must fail.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.ablations import ABLATIONS, RARE
from sim.run import judge, tell
from sim.scenario import replay
from sim.world import World

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
SEEDS_AT_ONCE = 25


@pytest.mark.parametrize("first", range(0, 100, SEEDS_AT_ONCE))
def test_no_schedule_violates_an_invariant(first: int) -> None:
    """Whatever fails and whenever: one history, nothing lost, nothing twice, one end."""
    bad = {
        seed: found for seed, found, _ in map(judge, range(first, first + SEEDS_AT_ONCE)) if found
    }

    assert {} == bad, "repeat one: make sim SEEDS=1 FROM=<seed>"


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_removed_mechanism_is_detected(name: str) -> None:
    """A mechanism whose absence breaks nothing is not tested, or not needed."""
    seeds = range(ABLATIONS[name].seeds)

    assert any(judge(seed, name)[1] for seed in seeds)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_passes_and_fails_without_its_mechanism(path: Path) -> None:
    """What goes wrong without one mechanism goes right with it, told step by step."""
    text = path.read_text()
    name = text.partition("# breaks without: ")[2].split()[0]
    whole, ablated = replay(text), replay(text, (ABLATIONS | RARE)[name].kinds)
    whole.heal()
    ablated.heal()

    assert [] == whole.violations()
    assert [] != ablated.violations()


def test_schedule_is_replayed_from_its_commands() -> None:
    """The commands of a seed, replayed, end where the seed ended."""
    lines = tell(7)
    again = replay("\n".join(lines))
    again.heal()

    assert lines[2:] == again.told
    assert [] == again.violations()


def test_same_seed_is_the_same_run() -> None:
    """Nothing but the seed decides."""
    assert judge(11) == judge(11)


def test_forty_nodes_restart_at_once() -> None:
    """All processes die, the log is emptied meanwhile; all of them become one again."""
    world = World(3, 37)
    for number in range(1, 40):
        world.do(f"write n{number % 40} {number} put r{number % 4}")
        for node in ("n0", "n1", "n2", f"n{number}"):
            world.do(f"turn {node}")
            world.do(f"turn {node}")
    for number in range(40):
        world.do(f"crash n{number}")
    world.do("empty")
    for number in range(40):
        world.do(f"start n{number}")
    world.heal()

    assert [] == world.violations()
    assert {2} == {node.replica.position.epoch for node in world.nodes}
