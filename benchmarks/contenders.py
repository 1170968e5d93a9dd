"""Starts contenders in processes of their own and speaks to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from harness import Options, rounds
from peers.install import environment, is_installed
from synaptoroute.encoder.recipe import bundled_recipe

OURS = "synaptoroute-cluster"
OURS_FLOAT32 = "synaptoroute-cluster, float32"
OURS_DEFAULTS = "synaptoroute-cluster, defaults"
OURS_FAST = "synaptoroute-cluster, fast"
SEMANTIC_ROUTER = "semantic-router"
ORIGINAL = "synaptoroute"
STRATAROUTER = "stratarouter"
MICRORESOLVE = "microresolve"
WORDLLAMA = "wordllama"
FASTEMBED = "fastembed"
PEERS = (SEMANTIC_ROUTER, ORIGINAL, STRATAROUTER, MICRORESOLVE, WORDLLAMA)
"""Peers with an environment of their own."""
STOP_SECONDS_MAX = 10.0
LAST_LINES = 10
LAST_BYTES = 4_000
_PEERS = Path(__file__).parent / "peers"
_SCRIPTS = {
    OURS: "cluster_peer.py",
    OURS_FLOAT32: "cluster_peer.py",
    OURS_DEFAULTS: "cluster_peer.py",
    OURS_FAST: "cluster_peer.py",
    SEMANTIC_ROUTER: "semantic_router_peer.py",
    ORIGINAL: "synaptoroute_peer.py",
    STRATAROUTER: "stratarouter_peer.py",
    MICRORESOLVE: "static_peer.py",
    WORDLLAMA: "static_peer.py",
    FASTEMBED: "fastembed_peer.py",
}


_ARGUMENTS = {
    OURS_FLOAT32: ("--precision", "float32"),
    OURS_DEFAULTS: ("--defaults",),
    OURS_FAST: ("--defaults", "--model", "fast"),
    MICRORESOLVE: (MICRORESOLVE,),
    WORDLLAMA: (WORDLLAMA,),
}


class ContenderFailed(RuntimeError):
    """A contender answered an error or ended; the message says how and with what words."""


class Process:
    """One contender."""

    def __init__(self, name: str, arguments: Sequence[str] = ()) -> None:
        self.name = name
        own = name not in PEERS
        python = sys.executable if own else str(environment(name) / "bin" / "python")
        recipe = bundled_recipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # until close
        self._process = subprocess.Popen(
            [
                python,
                str(_PEERS / _SCRIPTS[name]),
                str(recipe.model_file),
                str(recipe.tokenizer_file),
                *_ARGUMENTS.get(name, ()),
                *arguments,
            ],
            # A peer must find its own packages, some of which have the names of ours.
            env=None if own else {k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def do(self, order: str, **fields: Any) -> Any:
        """Send one command and wait for its result.

        Raises:
            ContenderFailed: It answered an error or ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):  # it ended before it read; its exit code says how
            self._process.stdin.write(json.dumps({"do": order, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._how_it_ended()}
        if "error" in answer:
            raise ContenderFailed(f"{self.name} {order}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # an order that nobody read
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _how_it_ended(self) -> str:
        """Exit code and last lines of the error stream; a process that hangs is killed."""
        try:
            code = self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LAST_BYTES))
        lines = self._errors.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        return "\n  ".join((f"the process ended with exit code {code}", *lines))


@contextmanager
def contenders(
    names: Sequence[str], options: Options, arguments: Mapping[str, Sequence[str]] | None = None
) -> Iterator[dict[str, Process]]:
    """Start those that can be: peers only where they are wanted and installed.

    Args:
        names: Whom to start.
        options: Of the benchmark.
        arguments: More words of the command line, by name.
    """
    with ExitStack() as stack:
        started = {}
        for name in names:
            if name in PEERS and not (options.peers and is_installed(name)):
                continue
            started[name] = Process(name, (arguments or {}).get(name, ()))
            stack.callback(started[name].close)
        yield started


def in_turns(
    running: Mapping[str, Process], texts: list[str], clients: int, seconds: float, count: int
) -> dict[str, list[dict[str, Any]]]:
    """Run the closed loop of every contender in turn, ``count`` times; give all its runs."""
    return rounds(
        {
            name: lambda process=process: process.do(
                "closed", texts=texts, clients=clients, seconds=seconds
            )
            for name, process in running.items()
        },
        count,
    )
