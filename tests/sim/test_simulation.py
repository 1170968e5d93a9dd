"""Goal: no schedule of faults breaks what the protocol promises.  Method: seeds, ablations.

``make sim SEEDS=n`` runs any number of them; here are a few hundred, and the controls
that must fail.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.ablations import ABLATIONS
from sim.run import judge, tell
from sim.scenario import replay

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
SEEDS_AT_ONCE = 25


@pytest.mark.parametrize("first", range(0, 300, SEEDS_AT_ONCE))
def test_no_schedule_violates_anything(first: int) -> None:
    """Whatever fails and whenever: one history, nothing lost, nothing twice, one end."""
    bad = {
        seed: found for seed, found, _ in map(judge, range(first, first + SEEDS_AT_ONCE)) if found
    }

    assert {} == bad, "repeat one: make sim SEEDS=1 FROM=<seed>"


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_mechanism_that_is_missing_is_noticed(name: str) -> None:
    """A mechanism whose absence breaks nothing is not tested, or not needed."""
    seeds = range(ABLATIONS[name].seeds)

    assert any(judge(seed, name)[1] for seed in seeds)


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_is_good_and_bites(path: Path) -> None:
    """What goes wrong without one mechanism goes right with it, told step by step."""
    text = path.read_text()
    name = text.partition("# breaks without: ")[2].split()[0]
    whole, ablated = replay(text), replay(text, ABLATIONS[name].kinds)
    whole.heal()
    ablated.heal()

    assert [] == whole.violations()
    assert [] != ablated.violations()


def test_schedule_can_be_told_and_repeated() -> None:
    """The commands of a seed, replayed, end where the seed ended."""
    lines = tell(7)
    again = replay("\n".join(lines))
    again.heal()

    assert lines[2:] == again.told
    assert [] == again.violations()


def test_same_seed_is_the_same_run() -> None:
    """Nothing but the seed decides."""
    assert judge(11) == judge(11)
