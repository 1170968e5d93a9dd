"""Two thousand overlapping writes under queries, and then the power goes.

A child process serves; 64 writers create, change and delete the same few routes while
64 readers query.  It says what it acknowledged, and is killed.  Then the file is read.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from synaptoroute.core.codec import decode_proposal
from synaptoroute.core.digest import row_hash
from synaptoroute.core.replica import Replica
from synaptoroute.encoder import HashEncoder
from synaptoroute.storage import SQLiteStorage, Stored

pytestmark = pytest.mark.system

WRITES = 2_000
CLIENTS = 64
NODE = """
import asyncio, json, random, sys
from routers import route
from synaptoroute.config import EngineConfig
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import Overloaded, RouteError
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

path, writes, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
left = writes
errors, overloaded, queries = [], 0, 0

def say(**facts):
    print(json.dumps(facts), flush=True)

async def write_once(router, draw, number):
    name = f"r{draw.randrange(40)}"
    match draw.randrange(6):
        case 0 | 1:
            words = [f"{name} words {number} {n}" for n in range(draw.randrange(1, 6))]
            return await router.aput_route(route(name, *words))
        case 2:
            return await router.apatch_route(name, threshold=draw.random())
        case 3:
            return await router.adelete_route(name)
        case 4:
            return await router.aadd_utterances(name, [f"{name} more {number}", f"{name} stable"])
        case _:
            return await router.aremove_utterances(name, [f"{name} stable"])

async def writer(router, seed):
    global left, overloaded
    draw = random.Random(seed)
    while left > 0:
        left -= 1
        number = left
        try:
            result = await write_once(router, draw, number)
            say(op_id=result.op_id, version=result.version)
        except Overloaded:
            overloaded += 1
            await asyncio.sleep(0.01)
        except RouteError as error:
            say(op_id=error.fields["op_id"], version=error.fields["version"])
        except Exception as error:
            errors.append(repr(error))

async def reader(router, seed, stop):
    global overloaded, queries
    draw = random.Random(seed)
    while not stop.is_set():
        try:
            match = await router.aquery(f"r{draw.randrange(40)} words {draw.randrange(writes)}")
            assert match.version
            queries += 1
        except Overloaded:
            overloaded += 1
            await asyncio.sleep(0.01)
        except Exception as error:
            errors.append(repr(error))

async def main():
    router = AdaptiveRouter(HashEncoder(), SQLiteStorage(path), config=EngineConfig(lanes=2))
    await router.start()
    stop = asyncio.Event()
    reading = [asyncio.create_task(reader(router, -seed, stop)) for seed in range(clients)]
    await asyncio.gather(*(writer(router, seed) for seed in range(clients)))
    stop.set()
    await asyncio.gather(*reading)
    await router.fits.fit_now()  # else the router does it at any moment, which is an entry
    checked = await router.achecksum()
    say(errors=errors, overloaded=overloaded, queries=queries, **checked)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def serve_until_killed(path: Path, kill_after_writes: int) -> list[dict[str, object]]:
    """Run the child until it made the writes or its summary, kill it, and return its output."""
    tests = Path(__file__).parents[1] / "support"
    arguments = [str(path), str(WRITES), str(CLIENTS)]
    process = subprocess.Popen(
        [sys.executable, "-c", NODE, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tests,
        env={"PYTHONPATH": str(tests)},
    )
    said: list[str] = []
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            said.append(line)
            if "errors" in line or len(said) == kill_after_writes:
                process.send_signal(signal.SIGKILL)
    process.wait()
    assert -signal.SIGKILL == process.returncode
    return [json.loads(line) for line in said if line.endswith("\n")]


def recomputed_digest(stored: Stored) -> str:
    """Compute the digest from the bytes of the rows in SQLite."""
    vectors = {
        slot: row.tobytes() for slot, row in zip(stored.slots.tolist(), stored.vectors, strict=True)
    }
    hashes = {
        slot: row_hash(slot, route.route_id, text, vectors[slot])
        for route in stored.snapshot.routes
        for slot, text in zip(route.slots, route.utterances, strict=True)
    }
    assert hashes == dict(stored.snapshot.row_hashes)
    return Replica(stored.snapshot, dim=HashEncoder().dim).digest


def read_back(path: Path) -> tuple[Stored, dict[str, str]]:
    """Return the state on disk, and the version of every logged write by op_id."""
    encoder = HashEncoder()
    storage = SQLiteStorage(path)
    with closing(storage):
        stored = storage.open(fingerprint=encoder.fingerprint, dim=encoder.dim)
        rows = storage.read_log(0, entries_max=WRITES * 2, bytes_max=1 << 30)
    versions = {decode_proposal(row.frame).op_id.hex(): f"{row.epoch}.{row.seq}" for row in rows}
    return stored, versions


@pytest.mark.timeout(120)
def test_overlapping_writes_survive_a_kill(tmp_path: Path) -> None:
    """The only error is Overloaded; every acknowledged write is on disk; the digests are equal."""
    path = tmp_path / "node.sqlite"
    *acknowledged, summary = serve_until_killed(path, kill_after_writes=WRITES * 2)
    stored, versions = read_back(path)
    overloaded = summary["overloaded"]
    assert isinstance(overloaded, int)

    assert [] == summary["errors"]
    assert len(acknowledged) + overloaded >= WRITES
    assert all(versions[str(each["op_id"])] == each["version"] for each in acknowledged)
    assert summary["version"] == str(stored.snapshot.position.revision)
    assert summary["digest"] == stored.digest == recomputed_digest(stored)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kill_after_writes", [1, 137, 900])
def test_kill_under_load_loses_no_acknowledged_write(
    tmp_path: Path, kill_after_writes: int
) -> None:
    """Each acknowledged write is on disk at its position."""
    path = tmp_path / "node.sqlite"
    acknowledged = serve_until_killed(path, kill_after_writes)
    stored, versions = read_back(path)

    assert len(acknowledged) >= kill_after_writes
    assert all(versions[str(each["op_id"])] == each["version"] for each in acknowledged)
    assert stored.digest == recomputed_digest(stored)
