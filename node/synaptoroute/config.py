"""Settings of one process: read once at its start, frozen, passed down.

No other module reads the environment.  Every field has its unit in its name, a
default, a limit, and a line in docs/operations.md (a test compares the two).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_MODEL = "all-MiniLM-L6-v2-int8"
ENV_PREFIX = "SYNAPTOROUTE_"

Precision = Literal["auto", "float32", "int8"]
"""Arithmetic of the encoder's products; what ``auto`` means is part of the fingerprint.

``auto`` follows from the model and the providers, never from the machine: ``int8`` for the
bundled model on the CPU, else ``float32``.
"""


class EngineConfig(BaseSettings):
    """How one router encodes, batches and scores; used by the library and the node.

    Attributes:
        lanes: Threads that encode; 0 takes the CPU limit of the container.
        lanes_nice: By how much lanes and the applier give way to the event loop, the scorer
            and all other threads of the machine, as with ``nice``; on Linux only.
        batch_tokens_max: Token budget of what a lane takes at once.
        batch_window_ms: How long a lane waits for company; 0 never waits.
        queue_requests_max: Queries that may wait; one more is refused.
        write_texts_max: Utterances that may wait to be encoded for writes.
        query_deadline_ms: Longest a query may take before it is given up.
        embedding_cache_rows: Embeddings kept by exact token sequence; 0 for none.
        unmatched_kept: Newest queries without a route that are kept in memory, to be shown
            to operators; 0 keeps none, for they are what people wrote.
        node_name: How this node signs its answers; empty takes the stored identity.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    lanes: int = Field(default=0, ge=0, le=256)
    lanes_nice: int = Field(default=0, ge=0, le=19)
    batch_tokens_max: int = Field(default=768, ge=16, le=65_536)
    batch_window_ms: float = Field(default=0.0, ge=0, le=1_000)
    queue_requests_max: int = Field(default=2_048, ge=1, le=1_000_000)
    write_texts_max: int = Field(default=100_000, ge=1, le=10_000_000)
    query_deadline_ms: int = Field(default=10_000, ge=1, le=600_000)
    embedding_cache_rows: int = Field(default=20_000, ge=0, le=10_000_000)
    unmatched_kept: int = Field(default=0, ge=0, le=10_000)
    node_name: str = Field(default="", max_length=128)


class ClusterConfig(BaseSettings):
    """How one router takes part in a cluster; used by the library and the node.

    Attributes:
        advertise_url: Address at which other nodes reach this one; empty for a node
            that only takes, such as a router inside another program.
        bootstrap_expect: Empty nodes that must be there before a new log is founded.
        recovery: ``safe``: after a loss in Redis writes stay closed until a majority of the
            voters has answered; ``available``: after 10 s those who are there suffice, which
            may lose writes that a quorum had acknowledged.
        staleness_seconds_max: A node cut off from Redis goes unready after this long
            if it knows that a peer is ahead of it.
        alone_seconds: After this long without Redis and peers, a node that holds a
            verified state becomes ready with it.
        peer_secret_file: Secret by which nodes know each other; none derives it from
            the identity of the cluster, which only those who read its Redis know.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    advertise_url: str = Field(default="", max_length=1_024)
    bootstrap_expect: int = Field(default=1, ge=1, le=99)
    recovery: Literal["safe", "available"] = "safe"
    staleness_seconds_max: float = Field(default=30.0, ge=1, le=86_400)
    alone_seconds: float = Field(default=30.0, ge=0, le=86_400)
    peer_secret_file: Path | None = None


class NodeConfig(EngineConfig, ClusterConfig):
    """Everything one node process needs.

    Attributes:
        host: Address the HTTP server listens on.
        port: Its TCP port.
        model: Bundled name, fastembed name, or path of a local ONNX folder.
        encoder_precision: ``int8`` multiplies in integers, the bundled model alone;
            ``auto`` is ``int8`` where that is possible, else ``float32``.  All nodes of a
            cluster must have the same.
        next_model: Second encoder, loaded beside the first, that the cluster may change to
            (see docs/coordinator.md); a database of its vectors is served with it.
        next_encoder_precision: Its precision.
        model_cache_dir: Where downloaded models are kept, and tables of `model prepare`.
        table_dir: Folder with tables that came with the program, for encoders that have none
            in the folder above; the container image sets it.
        providers: ONNX Runtime execution providers, comma-separated.
        database: Path of the SQLite file.
        sqlite_synchronous: ``full`` survives power loss, ``normal`` a process kill.
        routes_file: Route file applied at the first start of an empty database.
        api_keys_file: File of API keys, one ``scope[,scope] sha256-hex name`` a line.
        insecure: Serve a public address without API keys.
        body_bytes_max: Largest request body except imports.
        import_bytes_max: Largest import body.
        shutdown_seconds: How long requests in flight may take after a stop signal.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``json`` or ``text``.
        log_queries: Write query texts to the log at debug level.
        redis_url: Address of the sequencer; none for a node on its own.
        redis_password_file: File that holds its password.
        redis_ca_file: Certificate authority of a ``rediss://`` server.
        redis_cert_file: Client certificate for it.
        redis_key_file: Key of that certificate.
        signing_keys_file: Keys by which entries are signed; none signs nothing.
        allow_unsigned: Accept entries without a signature while keys are introduced.
        namespace: Name of the cluster's log on that server.
        front_port: Second port, shared with other processes of this host; 0 for none.
    """

    lanes_nice: int = Field(default=4, ge=0, le=19)
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    model: str = DEFAULT_MODEL
    encoder_precision: Precision = "auto"
    next_model: str = ""
    next_encoder_precision: Precision = "auto"
    model_cache_dir: Path | None = None
    table_dir: Path | None = None
    providers: str = "CPUExecutionProvider"
    database: Path = Path("data/synaptoroute.sqlite")
    sqlite_synchronous: Literal["full", "normal"] = "full"
    routes_file: Path | None = None
    api_keys_file: Path | None = None
    insecure: bool = False
    body_bytes_max: int = Field(default=8_388_608, ge=1_024, le=1_073_741_824)
    import_bytes_max: int = Field(default=1_073_741_824, ge=1_024, le=1 << 40)
    shutdown_seconds: float = Field(default=20.0, ge=0, le=600)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "text"
    log_queries: bool = False
    redis_url: SecretStr | None = None
    redis_password_file: Path | None = None
    redis_ca_file: Path | None = None
    redis_cert_file: Path | None = None
    redis_key_file: Path | None = None
    signing_keys_file: Path | None = None
    allow_unsigned: bool = False
    namespace: str = Field(default="default", pattern=r"^[A-Za-z0-9_\-]{1,64}$")
    front_port: int = Field(default=0, ge=0, le=65_535)


def is_tracing_asked_for() -> bool:
    """Whether the environment names where traces go, in OpenTelemetry's own variables."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(os.environ.get(name) for name in names)


def failpoint_wished() -> str:
    """The step at which a test wants this process to die; empty for none: ``failpoints``."""
    return os.environ.get(f"{ENV_PREFIX}FAILPOINT", "")


def cpu_limit() -> int:
    """Say how many CPUs this process may use, from the cgroup before the host.

    Source: cgroup v2 ``cpu.max`` and v1 ``cpu.cfs_quota_us``; then the affinity mask.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    host_count = affinity or os.cpu_count() or 1
    quota = _cgroup_quota_cpus(Path("/sys/fs/cgroup"))
    return host_count if quota is None else max(1, min(host_count, int(quota)))


def _cgroup_quota_cpus(root: Path) -> float | None:
    """Read the CPU quota in CPUs; None where there is none."""
    try:
        quota, period = (root / "cpu.max").read_text().split()[:2]
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        v1 = root / "cpu"
        quota_us = int((v1 / "cpu.cfs_quota_us").read_text())
        period_us = int((v1 / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None
