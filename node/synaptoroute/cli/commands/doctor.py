"""``synaptoroute doctor``: checks of this machine and of the settings of a node.

Each check is one function, and none changes anything.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import urlsplit

import typer

from synaptoroute.cli.commands.serve import read_settings
from synaptoroute.cli.exit_codes import CheckFailed
from synaptoroute.cli.options import AsJson
from synaptoroute.cli.processes import is_port_free
from synaptoroute.cli.terminal import note, print_json, print_table, waiting
from synaptoroute.errors import ConfigError, SynaptoRouteError
from synaptoroute.private_files import exposed_secrets, exposure_of
from synaptoroute.web.tls import (
    client_tls,
    names_of,
    peer_files,
    server_tls,
)

if TYPE_CHECKING:
    from synaptoroute.config import NodeConfig
    from synaptoroute.encoder import TextEncoder
    from synaptoroute.sequencer.client import Connector

State = Literal["ok", "warn", "fail"]

PACKAGES: Final = ("onnxruntime", "tokenizers", "numpy", "fastembed", "redis", "fastapi")
DISK_BYTES_MIN: Final = 1_000_000_000
DISK_BYTES_WARN: Final = 5_000_000_000
TLS_DAYS_WARN: Final = 14
_VECTOR_FLAGS: Final = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp",
)  # fmt: skip


def doctor(
    as_json: AsJson = False,
    redis_url: Annotated[
        str | None,
        typer.Option("--redis", metavar="URL", help="Check this Redis, and nothing else."),
    ] = None,
) -> None:
    """Check this machine and the settings that a node would start with.

    Changes nothing. Exits with 1 when something would not work.
    """
    with waiting("Checking ..."):
        if redis_url is None:
            results = list(run_checks(read_settings({})))
        else:
            results = check_redis(read_settings({"redis_url": redis_url}))
    _show(results, as_json)
    failed = [result.name for result in results if result.state == "fail"]
    if failed:
        raise CheckFailed(f"a node would not work here: {', '.join(failed)}")
    note("a node would work here")


def _show(results: list[CheckResult], as_json: bool) -> None:
    if as_json:
        print_json([asdict(result) for result in results])
        return
    print_table(
        ("check", "state", "found", "what to do"),
        (
            (result.name, (result.state, result.state), result.what, result.advice)
            for result in results
        ),
    )


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    name: str
    state: State
    what: str
    advice: str = ""
    code: str = ""  # Stable; only of the checks of Redis, see docs/redis.md


def run_checks(config: NodeConfig) -> Iterator[CheckResult]:
    """Run every check, quick ones first."""
    yield check_python()
    yield check_packages()
    yield check_sqlite()
    yield check_cpu()
    yield check_cpu_flags()
    yield check_disk(config.database)
    yield check_port(config.host, config.port)
    yield check_secrets(config)
    if config.tls_cert is not None or config.tls_key is not None:
        yield check_tls(config)
    if config.redis_url is not None:
        yield from check_redis(config)
    fingerprint, result = check_encoder(config)
    yield result
    yield check_database(config.database, fingerprint)


def check_python() -> CheckResult:
    what = f"{platform.python_implementation()} {platform.python_version()} on {sys.platform}"
    return CheckResult("python", "ok", what)


def check_packages() -> CheckResult:
    from importlib.metadata import PackageNotFoundError, version

    found, absent = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    if absent:
        what = f"{', '.join(absent)} missing"
        return CheckResult("packages", "fail", what, "reinstall synaptoroute-cluster")
    return CheckResult("packages", "ok", ", ".join(found))


def check_sqlite() -> CheckResult:
    from synaptoroute.storage import SQLiteStorage

    release = SQLiteStorage.sqlite_version
    if tuple(map(int, release.split("."))) < (3, 37, 0):
        return CheckResult("sqlite", "fail", release, "STRICT tables need SQLite 3.37 or later")
    return CheckResult("sqlite", "ok", release)


def check_secrets(config: NodeConfig) -> CheckResult:
    """Check that only their owner reads the files with secrets, and the database."""
    found = [*exposed_secrets(config), exposure_of(config.database)]
    if exposed := [warning for warning in found if warning]:
        return CheckResult("secrets", "warn", exposed[0], "chmod 600 " + _paths_of(exposed))
    return CheckResult("secrets", "ok", "no file with a secret is open to other users")


def _paths_of(warnings: list[str]) -> str:
    return " ".join(warning.partition(" can be ")[0] for warning in warnings)


def check_cpu() -> CheckResult:
    from synaptoroute.config import cpu_limit

    limit, present = cpu_limit(), os.cpu_count() or 1
    what = f"{limit} of {present} CPUs"
    if limit < 2:
        return CheckResult("cpu limit", "warn", what, "encoding and scoring share one CPU")
    return CheckResult("cpu limit", "ok", what)


def check_cpu_flags() -> CheckResult:
    """Check for the vector instructions that make encoding fast."""
    from synaptoroute.encoder.processor import flags_of, kind_of_cpu, read_cpu_info

    text, kind = read_cpu_info(), kind_of_cpu()
    if text is None:
        what = f"{kind}: {platform.machine()}, not checked on this system"
        return CheckResult("cpu flags", "ok", what)
    flags = flags_of(text)
    found = [flag for flag in _VECTOR_FLAGS if flag in flags]
    if not found:
        advice = "encoding will be several times slower than on a CPU of the last ten years"
        return CheckResult("cpu flags", "warn", "neither AVX2 nor NEON", advice)
    return CheckResult("cpu flags", "ok", f"{kind}: {' '.join(found)}")


def check_disk(database: Path) -> CheckResult:
    folder = database.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        what = f"{folder} cannot be written"
        return CheckResult("disk", "fail", what, "choose another --database")
    free = shutil.disk_usage(folder).free
    what = f"{free / 1e9:.1f} GB free at {folder}"
    if free < DISK_BYTES_MIN:
        return CheckResult("disk", "fail", what, "writes stop when the disk is full")
    if free < DISK_BYTES_WARN:
        return CheckResult("disk", "warn", what, "free some space before the disk is full")
    return CheckResult("disk", "ok", what)


def check_port(host: str, port: int) -> CheckResult:
    if port and not is_port_free(port, host):
        advice = "unless this is your node, choose another SYNAPTOROUTE_PORT"
        return CheckResult("port", "warn", f"{host}:{port} is in use", advice)
    return CheckResult("port", "ok", f"{host}:{port} is free")


def check_tls(config: NodeConfig) -> CheckResult:
    """Check that certificate and keys fit together, and are for the address of the node."""
    try:
        sides = [each for each in (server_tls(config), client_tls(peer_files(config))) if each]
    except ConfigError as error:
        return CheckResult("tls", "fail", error.message, "see TLS in docs/operations.md")
    names = names_of(config.tls_cert) if config.tls_cert is not None else ()
    days = min((each.expires_at - time.time()) / 86_400 for each in sides if each.expires_at)
    what = f"{', '.join(names) or 'no name'}; {days:.0f} days left"
    if days <= 0:
        return CheckResult("tls", "fail", f"{what}: expired", "renew the certificate")
    host = urlsplit(config.advertise_url).hostname
    if host is not None and not _is_named(host, names):
        advice = "other nodes verify the host of SYNAPTOROUTE_ADVERTISE_URL: add it to the names"
        return CheckResult("tls", "fail", f"the certificate is not for {host}, but {what}", advice)
    if days < TLS_DAYS_WARN:
        return CheckResult("tls", "warn", what, "renew the certificate; no restart is needed")
    return CheckResult("tls", "ok", what)


def _is_named(host: str, names: Sequence[str]) -> bool:
    wildcard = f"*.{host.partition('.')[2]}"
    return any(name.lower() in (host, wildcard) for name in names)


def check_redis(config: NodeConfig) -> list[CheckResult]:
    """Check the Redis of these settings with everything that nodes do there."""
    from synaptoroute.sequencer.client import split_urls
    from synaptoroute.sequencer.server_checks import Limits, examine, examine_replica

    try:
        for path in (config.redis_password_file, config.redis_sentinel_password_file):
            if path is not None:
                path.read_bytes()
        connector = connector_of(config)
        limits = Limits(config.log_bytes_max, config.clock_skew_seconds_max)
        findings = asyncio.run(examine(connector, config.namespace, limits))
        urls = config.redis_bus_urls.get_secret_value() if config.redis_bus_urls else ""
        for each in split_urls(urls):
            replica = replace(connector, url=each, is_replica=True)
            findings += asyncio.run(examine_replica(replica, connector, config.namespace))
    except (ConfigError, OSError) as error:
        what = error.message if isinstance(error, ConfigError) else str(error)
        return [CheckResult("redis", "fail", what, "correct the settings", "redis_settings")]
    states: dict[str, State] = {"ok": "ok", "warning": "warn", "error": "fail"}
    return [
        CheckResult(
            f"redis {each.code.replace('_', ' ')}",
            states[each.severity],
            each.message,
            each.advice,
            f"redis_{each.code}",
        )
        for each in findings
    ]


def connector_of(config: NodeConfig) -> Connector:
    """Make the connector to the Redis of these settings.

    Raises:
        ConfigError: The URL is malformed.
    """
    from synaptoroute.sequencer.client import Connector, SentinelAccess, Tls

    url = config.redis_url.get_secret_value() if config.redis_url is not None else ""
    tls = Tls(config.redis_ca_file, config.redis_cert_file, config.redis_key_file)
    sentinel = SentinelAccess(
        config.redis_sentinel_user,
        config.redis_sentinel_password_file,
        config.redis_sentinel_tls,
    )
    return Connector(url, config.redis_password_file, tls, sentinel=sentinel)


def check_encoder(config: NodeConfig) -> tuple[tuple[str, int] | None, CheckResult]:
    """Check that the encoder loads; the bundled one is checked by reference vectors."""
    from synaptoroute.decision.starting_numbers import tables_of
    from synaptoroute.encoder import open_encoder

    try:
        encoder = open_encoder(
            config.model, precision=config.encoder_precision, cache_dir=config.model_cache_dir
        )
    except SynaptoRouteError as error:
        advice = "see `synaptoroute model list`; the bundled model needs no network"
        return None, CheckResult("encoder", "fail", f"{error.code}: {error.message}", advice)
    try:
        what = f"{encoder.name}, {encoder.dim} dimensions, loads and computes"
        known = (encoder.fingerprint, encoder.dim)
        if tables_of(encoder.fingerprint) is None:
            advice = f"synaptoroute model prepare {config.model}: a confidence before the first fit"
            return known, CheckResult("encoder", "warn", f"{what}, not prepared", advice)
        reason = getattr(encoder, "why_padded", "")
        if reason:
            what += f"; its graph pads texts: {reason}"
        return known, CheckResult("encoder", "ok", f"{what}; {_table_of(encoder, config)}")
    finally:
        encoder.close()


def _table_of(encoder: TextEncoder, config: NodeConfig) -> str:
    """Say whether the cascade has its table here, and if not, why."""
    from synaptoroute.cascade.table_store import WHY_NO_TABLE, why_no_table
    from synaptoroute.server.encoder_loading import load_tables

    if load_tables(config, [encoder]):
        return "the cascade has its table"
    return f"no cascade: {WHY_NO_TABLE[why_no_table(encoder)]}"


def check_database(path: Path, encoder: tuple[str, int] | None) -> CheckResult:
    """Check the whole database, read only: pages, rows, digest and encoder."""
    from synaptoroute.cli.migration import stored_encoder
    from synaptoroute.encoder import fast_encoder
    from synaptoroute.storage.corruption import CorruptFile
    from synaptoroute.storage.loader import OPENVINO_FINGERPRINT, load

    if not path.exists():
        return CheckResult("database", "ok", f"{path} will be created")
    try:
        stored = load(path)
        stored_by = stored_encoder(path)
    except CorruptFile as corrupt:
        advice = "restore a backup; a node that opens this file moves it aside"
        return CheckResult("database", "fail", f"{path} is damaged: {corrupt.reason}", advice)
    except SynaptoRouteError as error:
        return CheckResult("database", "fail", f"{error.code}: {error.message}")
    routes, slots = stored.routes_count, len(stored.slots)
    what = f"{path}: {routes} routes, {slots} utterances at {stored.snapshot.position.revision}"
    if encoder is not None and stored_by and stored_by[0] == OPENVINO_FINGERPRINT:
        what += ", vectors of the bundled model on OpenVINO, which this release does not have"
        return CheckResult("database", "fail", what, "run `synaptoroute model migrate`")
    fitted, distilled = (
        (fast_encoder.fingerprint_of(model), fast_encoder.DIM)
        for model in (fast_encoder.FITTED, fast_encoder.DISTILLED)
    )
    if (encoder, stored_by) == (fitted, distilled):
        what += f", vectors of {fast_encoder.DISTILLED.name}, with which a node goes on"
        advice = f"for those of {fast_encoder.NAME} run `synaptoroute model migrate`"
        return CheckResult("database", "warn", what, advice)
    if encoder is not None and encoder != stored_by:
        advice = "run `synaptoroute model migrate`, or start with the former model"
        return CheckResult("database", "fail", f"{what}, vectors of another encoder", advice)
    return CheckResult("database", "ok", what)
