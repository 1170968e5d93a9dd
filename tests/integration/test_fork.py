"""Goal: a forked process cannot use, or damage, what its parent made.

Method: scripts in processes of their own that fork, with real databases and a real Redis.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from servers import Server

pytestmark = pytest.mark.integration

SCRIPT_SECONDS_MAX = 60
SETUP = """
import asyncio, gc, json, multiprocessing, os, signal, sys
from synaptoroute.cli.client import NodeClient
from synaptoroute.cluster import RedisLog
from synaptoroute.encoder import HashEncoder
from synaptoroute.errors import ForkedProcessError
from synaptoroute.models import Route
from synaptoroute.router import AdaptiveRouter
from synaptoroute.storage import SQLiteStorage

path, redis_url = sys.argv[1:3]


def route(name):
    return Route(name=name, utterances=[name])


def in_child(task):
    "Run a task in a forked child; return what it prints, or how it ended."
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        os.close(read_end)
        try:
            found = task()
        except BaseException as error:
            found = type(error).__name__
        os.write(write_end, json.dumps(found).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if text else f"ended with {status}"


def tried(*tasks):
    "Codes of the errors of each task."
    found = []
    for task in tasks:
        try:
            done = task()
            if asyncio.iscoroutine(done):
                done = asyncio.run(done)
            found.append(repr(done))
        except ForkedProcessError as error:
            found.append(error.code)
        except BaseException as error:
            found.append(repr(error))
    return found


def uses(router):
    return (
        lambda: router.query("x"),
        lambda: router.aquery("x"),
        lambda: router.add_route(route("child")),
        lambda: router.aput_route(route("child")),
        lambda: router.start(),
        lambda: router.stop(),
        lambda: router.close(),
        lambda: router.status(),
        lambda: router.visible,
        lambda: setattr(router, "spare", None),
    )
"""
LIBRARY = """
router = AdaptiveRouter(HashEncoder(64), SQLiteStorage(path))
router.add_route(route("before"))
query = router.query
told = [in_child(lambda: tried(*uses(router), lambda: query("x"))) for _ in range(2)]
written = [router.add_route(route(f"after{n}")).status for n in range(3)]
answer = router.query("after1").route
router.close()
again = AdaptiveRouter(HashEncoder(64), SQLiteStorage(path))
print(json.dumps([told, written, answer, again.query("after2").route]))
"""
STARTED = """
async def main():
    router = AdaptiveRouter(HashEncoder(64), SQLiteStorage(path))
    await router.start()
    await router.aput_route(route("before"))
    told = await asyncio.to_thread(in_child, lambda: tried(*uses(router)))
    collected = await asyncio.to_thread(in_child, lambda: [gc.collect() >= 0])
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=lambda: sys.exit(tried(*uses(router)).count("forked_process")))
    worker.start()
    await asyncio.to_thread(worker.join, 20)
    written = [(await router.aput_route(route(f"after{n}"))).status for n in range(3)]
    answer = (await router.aquery("after1")).route
    await router.stop()
    print(json.dumps([told, collected, worker.exitcode, written, answer]))

asyncio.run(main())
"""
CLUSTER = """
async def main():
    log = RedisLog(redis_url, namespace="fork")
    storage = SQLiteStorage(path)
    router = AdaptiveRouter(HashEncoder(64), storage, log=log)
    await router.start()
    await router.wait_ready()
    await router.aput_route(route("before"))
    client = NodeClient("http://127.0.0.1:9")
    tasks = (
        *uses(router),
        lambda: log.head(),
        lambda: log.close(),
        lambda: log._commands,
        lambda: storage.position,
        lambda: storage.close(),
        lambda: client.get("/v1/routes"),
    )
    link = log._commands
    told = await asyncio.to_thread(in_child, lambda: tried(*tasks, lambda: link.call("PING")))
    written = [(await router.aput_route(route(f"after{n}"))).status for n in range(3)]
    answer = (await router.aquery("after1")).route
    head = await log.head()
    await router.stop()
    print(json.dumps([told, written, answer, head.seq > 3]))

asyncio.run(main())
"""
MEMORY = """
router = AdaptiveRouter(HashEncoder(64))
router.add_route(route("before"))
folder = router._storage.path.parent
pid = os.fork()
if pid == 0:
    import atexit

    atexit._run_exitfuncs()  # the end of an interpreter; that of some C++ libraries hangs
    os._exit(0)
os.waitpid(pid, 0)
print(json.dumps([folder.exists(), router.add_route(route("after")).status]))
router.close()
print(json.dumps(folder.exists()))
"""
LOCK = """
router = AdaptiveRouter(HashEncoder(64), SQLiteStorage(path))
router.add_route(route("before"))
read_end, write_end = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(write_end)
    os.read(read_end, 1)  # lives until the parent is done
    del router
    gc.collect()
    os._exit(0)
os.close(read_end)
router.close()
again = AdaptiveRouter(HashEncoder(64), SQLiteStorage(path))
print(json.dumps([again.query("before").route, again.add_route(route("more")).status]))
os.close(write_end)
os.waitpid(pid, 0)
print(json.dumps(again.add_route(route("last")).status))
again.close()
"""


def run(script: str, folder: Path, redis_url: str = "") -> list[object]:
    """Run a script; return the JSON lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + script, str(folder / "forked.sqlite"), redis_url],
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS_MAX,
        check=False,
        env=dict(os.environ),
    )
    assert 0 == done.returncode, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_child_of_a_router_on_its_own_is_refused(tmp_path: Path) -> None:
    """Every use fails at once; parent, sibling and the next router go on."""
    [[told, written, answer, again]] = run(LIBRARY, tmp_path)  # type: ignore[misc]

    assert [["forked_process"] * 11] * 2 == told
    assert ["applied"] * 3 == written
    assert ("after1", "after2") == (answer, again)


def test_child_of_a_started_router_is_refused(tmp_path: Path) -> None:
    """No call hangs on a lock of a thread that the child does not have."""
    [[told, collected, exit_code, written, answer]] = run(STARTED, tmp_path)  # type: ignore[misc]

    assert ["forked_process"] * 10 == told
    assert [True] == collected
    assert 10 == exit_code
    assert ["applied"] * 3 == written
    assert "after1" == answer


def test_child_of_a_cluster_member_is_refused(tmp_path: Path, server: Server) -> None:
    """Also its log, its connections, its storage and the client of the command line."""
    [[told, written, answer, is_ahead]] = run(CLUSTER, tmp_path, server.url)  # type: ignore[misc]

    assert ["forked_process"] * 17 == told
    assert ["applied"] * 3 == written
    assert "after1" == answer
    assert is_ahead


def test_end_of_a_child_leaves_the_parents_folder(tmp_path: Path) -> None:
    """The temporary folder of a router without a database file is removed by its parent."""
    assert [[True, "applied"], False] == run(MEMORY, tmp_path)


def test_living_child_does_not_hold_the_lock(tmp_path: Path) -> None:
    """The parent closes its database and opens it again while the child lives."""
    assert [["before", "applied"], "applied"] == run(LOCK, tmp_path)
