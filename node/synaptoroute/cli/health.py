"""The checks of ``synaptoroute doctor``: one function each, none changes anything."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from synaptoroute.cli.processes import is_port_free
from synaptoroute.config import NodeConfig, cpu_limit
from synaptoroute.errors import SynaptoRouteError

State = Literal["ok", "warn", "fail"]

PACKAGES: Final = ("onnxruntime", "tokenizers", "numpy", "fastembed", "redis", "fastapi")
DISK_BYTES_MIN: Final = 1_000_000_000
DISK_BYTES_WARN: Final = 5_000_000_000
REDIS_SECONDS_MAX: Final = 3.0
REDIS_REPLY_BYTES: Final = 256
_VECTOR_FLAGS: Final = ("avx2", "avx512f", "avx512_vnni", "asimd", "asimddp")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``warn`` or ``fail``.
        what: What was found.
        advice: What to do; empty where nothing is to be done.
    """

    name: str
    state: State
    what: str
    advice: str = ""


def examine(config: NodeConfig) -> Iterator[Finding]:
    """Run every check, the quick ones first."""
    yield check_python()
    yield check_packages()
    yield check_sqlite()
    yield check_cpu()
    yield check_cpu_flags()
    yield check_disk(config.database)
    yield check_port(config.host, config.port)
    if config.redis_url is not None:
        yield check_redis(config.redis_url.get_secret_value())
    fingerprint, finding = check_encoder(config)
    yield finding
    yield check_database(config.database, fingerprint)


def check_python() -> Finding:
    """The interpreter."""
    what = f"{platform.python_implementation()} {platform.python_version()} on {sys.platform}"
    return Finding("python", "ok", what)


def check_packages() -> Finding:
    """The libraries that do the work."""
    found, absent = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    if absent:
        return Finding(
            "packages", "fail", f"{', '.join(absent)} missing", "install synaptoroute-cluster again"
        )
    return Finding("packages", "ok", ", ".join(found))


def check_sqlite() -> Finding:
    """The database library that Python was built with."""
    from synaptoroute.storage import SQLiteStorage

    release = SQLiteStorage.sqlite_version
    if tuple(map(int, release.split("."))) < (3, 37, 0):
        return Finding("sqlite", "fail", release, "STRICT tables need SQLite 3.37 or later")
    return Finding("sqlite", "ok", release)


def check_cpu() -> Finding:
    """How many CPUs this process may use."""
    limit, present = cpu_limit(), os.cpu_count() or 1
    what = f"{limit} of {present} CPUs"
    if limit < 2:
        return Finding("cpu limit", "warn", what, "with one CPU, encoding and scoring take turns")
    return Finding("cpu limit", "ok", what)


def check_cpu_flags(path: Path = Path("/proc/cpuinfo")) -> Finding:
    """Instructions that make encoding fast."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return Finding("cpu flags", "ok", f"{platform.machine()}, not looked at on this system")
    flags = {
        word
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for word in line.partition(":")[2].split()
    }
    found = [flag for flag in _VECTOR_FLAGS if flag in flags]
    if not found:
        return Finding(
            "cpu flags",
            "warn",
            "neither AVX2 nor NEON",
            "encoding will be several times slower than on a CPU of the last ten years",
        )
    return Finding("cpu flags", "ok", " ".join(found))


def check_disk(database: Path) -> Finding:
    """Room for the database."""
    folder = database.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("disk", "fail", f"{folder} cannot be written", "choose another --database")
    free = shutil.disk_usage(folder).free
    what = f"{free / 1e9:.1f} GB free at {folder}"
    if free < DISK_BYTES_MIN:
        return Finding("disk", "fail", what, "writes stop when the disk is full: make room")
    if free < DISK_BYTES_WARN:
        return Finding("disk", "warn", what, "make room before the disk is full")
    return Finding("disk", "ok", what)


def check_port(host: str, port: int) -> Finding:
    """The port that a node would listen on."""
    if port and not is_port_free(port, host):
        return Finding(
            "port",
            "warn",
            f"{host}:{port} is in use",
            "if that is no node of yours, choose another SYNAPTOROUTE_PORT",
        )
    return Finding("port", "ok", f"{host}:{port} is free")


def check_redis(url: str) -> Finding:
    """The sequencer's address: whether it answers, and takes the password."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 6379
    where = f"{host}:{port}"
    if parts.scheme == "rediss":
        return _connects(host, port)
    try:
        with socket.create_connection((host, port), timeout=REDIS_SECONDS_MAX) as connection:
            if parts.password:
                words = [word for word in (parts.username, parts.password) if word]
                said = _call(connection, "AUTH", *map(unquote, words))
                if not said.startswith("+OK"):
                    return Finding("redis", "fail", f"{where} refuses the password", "see the URL")
            said = _call(connection, "PING")
    except OSError as error:
        return Finding(
            "redis",
            "fail",
            f"{where} does not answer: {error}",
            "start Redis, or correct SYNAPTOROUTE_REDIS_URL",
        )
    if said.startswith("+PONG"):
        return Finding("redis", "ok", f"{where} answers")
    return Finding("redis", "fail", f"{where} says {said.strip()!r}", "see the URL's password")


def _connects(host: str, port: int) -> Finding:
    """Over TLS only the connection is tried here; the node's own log says the rest."""
    try:
        socket.create_connection((host, port), timeout=REDIS_SECONDS_MAX).close()
    except OSError as error:
        return Finding(
            "redis", "fail", f"{host}:{port}: {error}", "start Redis, or correct the URL"
        )
    return Finding("redis", "ok", f"{host}:{port} accepts connections (TLS not tried)")


def _call(connection: socket.socket, *words: str) -> str:
    """Send one command; give the raw reply."""
    parts = [word.encode() for word in words]
    request = b"*%d\r\n" % len(parts) + b"".join(
        b"$%d\r\n%s\r\n" % (len(part), part) for part in parts
    )
    connection.sendall(request)
    return connection.recv(REDIS_REPLY_BYTES).decode(errors="replace")


def check_encoder(config: NodeConfig) -> tuple[tuple[str, int] | None, Finding]:
    """The model: its files, and for the bundled one its reference vectors."""
    from synaptoroute.encoder import open_encoder

    try:
        encoder = open_encoder(
            config.model,
            precision=config.encoder_precision,
            cache_dir=config.model_cache_dir,
        )
    except SynaptoRouteError as error:
        advice = "see `synaptoroute model list`; the bundled model needs no network"
        return None, Finding("encoder", "fail", f"{error.code}: {error.message}", advice)
    try:
        what = f"{encoder.name}, {encoder.dim} dimensions, loads and computes"
        return (encoder.fingerprint, encoder.dim), Finding("encoder", "ok", what)
    finally:
        encoder.close()


def check_database(path: Path, encoder: tuple[str, int] | None) -> Finding:
    """The whole file, read only: pages, rows, digest, and whose vectors it holds."""
    from synaptoroute.cli.migration import stored_encoder
    from synaptoroute.storage.corruption import CorruptFile
    from synaptoroute.storage.loader import OPENVINO_FINGERPRINT, load

    if not path.exists():
        return Finding("database", "ok", f"{path} will be made")
    try:
        stored = load(path)
        stored_by = stored_encoder(path)
    except CorruptFile as corrupt:
        return Finding(
            "database",
            "fail",
            f"{path} is damaged: {corrupt.reason}",
            "restore a copy; a node that opens it moves it aside",
        )
    except SynaptoRouteError as error:
        return Finding("database", "fail", f"{error.code}: {error.message}")
    routes, slots = len(stored.snapshot.routes), len(stored.slots)
    what = f"{path}: {routes} routes, {slots} utterances at {stored.snapshot.position.revision}"
    if encoder is not None and stored_by and stored_by[0] == OPENVINO_FINGERPRINT:
        return Finding(
            "database",
            "fail",
            f"{what}, vectors of the bundled model on OpenVINO, which this release does not have",
            "run `synaptoroute model migrate`",
        )
    if encoder is not None and encoder != stored_by:
        return Finding(
            "database",
            "fail",
            f"{what}, vectors of another encoder",
            "run `synaptoroute model migrate`, or start with the former model",
        )
    return Finding("database", "ok", what)
